package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"multus/internal/device"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/session"
	"multus/internal/source/dra"
	"multus/internal/source/kube"
	"multus/internal/source/podresources"
)

// claimRow is a device of a ResourceClaim of a pod of this node, as it is printed.
type claimRow struct {
	Pod    string `json:"pod"`
	Claim  string `json:"claim"`
	Driver string `json:"driver"`
	Pool   string `json:"pool"`
	Device string `json:"device"`
	// Network and Interface are those that use the device, or "" for none.
	Network   string `json:"network,omitempty"`
	Interface string `json:"interface,omitempty"`
	// Resource and ID are the attributes of the device for networks, and Problem is why it has none. All are "" if no
	// API server can be read.
	Resource string `json:"resource,omitempty"`
	ID       string `json:"id,omitempty"`
	Problem  string `json:"problem,omitempty"`
}

// claimRows returns the devices of ResourceClaims of the pods of this node: those that the kubelet lists, and those
// that networks use.
func (a *app) claimRows(ctx context.Context, dir, kubeletRoot string) ([]claimRow, error) {
	rows := []claimRow{}
	used, err := usedClaims(dir)
	if err != nil {
		return nil, err
	}
	listed, err := podresources.New(podresources.Options{Root: kubeletRoot}).Claims(ctx)
	if err != nil {
		return nil, err
	}
	a.describeClaims(ctx, listed)
	for i := range listed {
		d := &listed[i]
		row := claimRow{
			Pod: d.Pod.String(), Claim: d.Pod.Namespace + "/" + d.Claim, Driver: d.Driver, Pool: d.Pool, Device: d.Device,
			Resource: d.Resource, ID: d.ID, Problem: d.Problem,
		}
		if at := slices.IndexFunc(used, row.sameDevice); at >= 0 {
			row.Network, row.Interface = used[at].Network, used[at].Interface
			used = slices.Delete(used, at, at+1)
		}
		rows = append(rows, row)
	}
	rows = append(rows, used...) // of kubelets that list no claims
	slices.SortFunc(rows, func(x, y claimRow) int {
		return cmp.Or(cmp.Compare(x.Pod, y.Pod), cmp.Compare(x.Claim, y.Claim), cmp.Compare(x.Device, y.Device))
	})
	return rows, nil
}

func (r *claimRow) sameDevice(o claimRow) bool {
	return r.Pod == o.Pod && r.Claim == o.Claim && r.Driver == o.Driver && r.Pool == o.Pool && r.Device == o.Device
}

// usedClaims returns the devices of claims that networks use, as the ledger has them. A record that cannot be read is
// left to ledger verify.
func usedClaims(dir string) (out []claimRow, err error) {
	store := &ledger.Store{Dir: dir, Log: slog.New(slog.DiscardHandler)}
	ids, err := store.Containers()
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	for _, id := range ids {
		r, _ := store.Inspect(id, ledger.DefaultIfName)
		if r == nil {
			continue
		}
		pod := session.PodOf(r)
		for i := range r.Attachments {
			if t := &r.Attachments[i]; t.Claim != nil {
				out = append(out, usedClaim(plan.Ref{Namespace: pod.Namespace, Name: pod.Name}, t, t.Claim))
			}
		}
	}
	return out, nil
}

func usedClaim(pod plan.Ref, a *ledger.Attachment, c *device.Claim) claimRow {
	return claimRow{
		Pod: pod.String(), Claim: c.Namespace + "/" + c.Name, Driver: c.Driver, Pool: c.Pool, Device: c.Device,
		Network: a.Name, Interface: a.IfName, Resource: a.Resource, ID: a.DeviceID,
	}
}

// describeClaims sets the attributes of devices, if an API server can be read.
func (a *app) describeClaims(ctx context.Context, listed []podresources.PodClaim) {
	client, _, err := a.kubeClient()
	if err != nil || len(listed) == 0 {
		return
	}
	devices := &dra.Devices{Slices: kube.NewSlices(client)}
	for i := range listed {
		one := []plan.ClaimedDevice{listed[i].ClaimedDevice}
		if err := devices.Describe(ctx, one); err != nil {
			return
		}
		listed[i].ClaimedDevice = one[0]
	}
}

// printClaims prints the devices of claims.
func printClaims(w io.Writer, rows []claimRow) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintln(w)
	table := [][]string{{"POD", "CLAIM", "DEVICE OF THE CLAIM", "NETWORK", "INTERFACE", "NOTE"}}
	for i := range rows {
		r := &rows[i]
		note := r.Problem
		if note == "" && r.Network == "" {
			note = strings.TrimSpace("no network uses it " + r.Resource)
		}
		table = append(table, []string{
			r.Pod, r.Claim, r.Driver + "/" + r.Pool + "/" + r.Device, dash(r.Network), dash(r.Interface), dash(note),
		})
	}
	columns(w, table...)
}
