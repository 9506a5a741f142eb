package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

var claimsCheck = Check{
	Name: "claims", About: "the drivers of ResourceClaims publish their devices",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		var out []Finding
		drivers := map[string]string{} // with the evidence
		if s := n.setup(); s.daemon != nil && s.daemon.ClaimStatus {
			if len(s.daemon.ClaimStatusDrivers) == 0 {
				out = append(out, Finding{
					Severity: Warning, Message: "claimStatus has no effect: no driver is listed",
					Evidence: "the daemon's configuration has claimStatus, and claimStatusDrivers is empty",
					Fix:      "list the drivers in claimStatusDrivers, see deploy/components/claim-status",
				})
			}
			for _, driver := range s.daemon.ClaimStatusDrivers {
				drivers[driver] = "claimStatusDrivers of the daemon's configuration lists it"
			}
		}
		claimed, err := n.claimed(ctx)
		for i := range claimed {
			d := &claimed[i]
			drivers[d.Driver] = fmt.Sprintf("claim %s of a pod of this node has the device %s/%s/%s", d.Claim, d.Driver,
				d.Pool, d.Device)
		}
		if len(drivers) == 0 {
			return out, err
		}
		if n.Cluster == nil {
			return out, errors.Join(err, errors.New("no API server is configured, so that ResourceSlices cannot be read"))
		}
		for _, driver := range slices.Sorted(maps.Keys(drivers)) {
			has, sliceErr := n.Cluster.HasSlices(ctx, driver, n.Name)
			if sliceErr != nil {
				return out, errors.Join(err, sliceErr)
			}
			if !has {
				out = append(out, Finding{
					Severity: Warning, Evidence: drivers[driver],
					Message: fmt.Sprintf("the driver %s publishes no devices for this node: networks get none of it", driver),
					Fix: "kubectl get resourceslices --field-selector spec.driver=" + driver +
						"; the pods of the driver must run, and its name must be right",
				})
			}
		}
		return out, err
	},
}
