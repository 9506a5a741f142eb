package execute

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
	"multus/internal/link"
)

// moveRoutes changes the default routes of one attachment as planned: in the kernel, in the result and in libcni's
// cache, so that CHECK and the network status show the actual routes (behaviour D30-D41). An attachment
// without an interface has no routes to move.
func (r *Runner) moveRoutes(of *ledger.Record, a *ledger.Attachment, res types.Result) (types.Result, error) {
	result, err := current.NewResultFromResult(res)
	if err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	if len(result.Interfaces) == 0 && len(result.IPs) == 0 {
		return res, nil
	}
	if err := applyRoutes(of.Netns, a); err != nil {
		return nil, fault.RoutesNotSet.Wrap(err, a.IfName)
	}
	failpoint.At("routes.moved")
	editRoutes(result, a.Routes)
	out, err := result.GetAsVersion(res.Version())
	if err != nil {
		return nil, fmt.Errorf("convert result: %w", err)
	}
	err = r.updateCache(of, a, out)
	failpoint.At("cache.updated")
	return out, err
}

func applyRoutes(netns string, a *ledger.Attachment) (err error) {
	ns, err := link.Open(netns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	for _, f := range []struct {
		family link.Family
		drop   bool
	}{
		{link.IPv4, a.Routes.DropIPv4 || a.Routes.Gateway(false).IsValid()},
		{link.IPv6, a.Routes.DropIPv6 || a.Routes.Gateway(true).IsValid()},
	} {
		if !f.drop {
			continue
		}
		err := ns.DropDefault(a.IfName, f.family)
		if errors.Is(err, link.ErrNoInterface) && len(a.Routes.Gateways) == 0 {
			return nil // an interface that does not exist in the kernel (a user-space driver's) has no routes
		}
		if err != nil {
			return err
		}
	}
	if len(a.Routes.Gateways) == 0 {
		return nil
	}
	return ns.SetDefault(a.IfName, a.Routes.Gateways)
}

// editRoutes replaces the default routes of the families whose routes were moved.
func editRoutes(result *current.Result, routes plan.Routes) {
	kept := result.Routes[:0:0]
	for _, rt := range result.Routes {
		v6 := rt.Dst.IP.To4() == nil
		moved := v6 && routes.DropIPv6 || !v6 && routes.DropIPv4 || routes.Gateway(v6).IsValid()
		if !isDefault(rt) || !moved {
			kept = append(kept, rt)
		}
	}
	for _, gw := range routes.Gateways {
		kept = append(kept, &types.Route{Dst: defaultNet(gw), GW: net.IP(gw.AsSlice())})
	}
	result.Routes = kept
}

func isDefault(rt *types.Route) bool {
	ones, _ := rt.Dst.Mask.Size()
	return ones == 0 && rt.Dst.IP.IsUnspecified()
}

func defaultNet(gw netip.Addr) net.IPNet {
	bits := gw.BitLen()
	return net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}
}

// updateCache replaces the result in libcni's cache entry and keeps the entry's other members.
func (r *Runner) updateCache(of *ledger.Record, a *ledger.Attachment, res types.Result) error {
	name, err := entry(of, a)
	if err != nil {
		return err
	}
	path := filepath.Join(ledger.ResultsDir(r.dir), name)
	b, err := ledger.ReadResult(r.dir, name)
	if err != nil {
		return fmt.Errorf("read cached result: %w", err)
	}
	var entry map[string]json.RawMessage
	if err := json.Unmarshal(b, &entry); err != nil {
		return fmt.Errorf("read cached result %s: %w", path, err)
	}
	if entry["result"], err = json.Marshal(res); err != nil {
		return fmt.Errorf("encode cached result: %w", err)
	}
	if b, err = json.Marshal(entry); err != nil {
		return fmt.Errorf("encode cached result: %w", err)
	}
	if err := fsx.WriteAtomic(path, b, 0o600); err != nil {
		return fmt.Errorf("write cached result: %w", err)
	}
	return nil
}
