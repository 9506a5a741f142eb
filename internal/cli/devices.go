package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine/ledger"
	"multus/internal/host/plugin"
	"multus/internal/link"
)

// deviceRow is an interface of the node as it is printed.
type deviceRow struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"`
	MAC  string `json:"mac,omitempty"`
	Bus  string `json:"bus,omitempty"`
	Up   bool   `json:"up"`
	// Free says that host-device may move it into a pod; Reasons say why it may not.
	Free    bool           `json:"free"`
	Reasons []deviceReason `json:"reasons"`
	// Pod has the device, "" for none.
	Pod string `json:"pod,omitempty"`
}

type deviceReason struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

func (a *app) devicesCommand() *cobra.Command {
	var dir, locks string
	var addresses []string
	c := &cobra.Command{
		Use:   "devices",
		Short: "List the interfaces of this node: which are free for a pod, and why the others are not",
		Long: "List the interfaces of this node: which are free for a pod (host-device), and why the others are not. It decides as\n" +
			"ADD does. Interfaces that a pod has are listed too, with the pod.",
		RunE: func(*cobra.Command, []string) error {
			inv, err := inventory(dir, locks, addresses)
			if err != nil {
				return err
			}
			rows := deviceRows(inv)
			return a.print(map[string]any{"devices": rows}, func(w io.Writer) {
				table := [][]string{{"DEVICE", "TYPE", "MAC", "BUS", "FREE", "WHY NOT"}}
				for _, r := range rows {
					free := "no"
					if r.Free {
						free = "yes"
					}
					table = append(table, []string{r.Name, dash(r.Type), dash(r.MAC), dash(r.Bus), free, dash(r.why())})
				}
				columns(w, table...)
			})
		},
	}
	c.Flags().StringVar(&dir, "state-dir", config.DefaultCNIDir, "the state `directory`, cniDir of the CNI configuration")
	c.Flags().StringVar(&locks, "lock-file", plugin.LockFile, "the `file` of the locks")
	c.Flags().StringSliceVar(&addresses, "node-address", nil, "`address` by which the cluster knows this node, as nodeAddresses of the configuration")
	return c
}

// inventory is what there is on the node that this process is on, and who has it.
func inventory(dir, locks string, addresses []string) (_ *device.Inventory, err error) {
	claims, err := (&ledger.Store{Dir: dir, Log: slog.New(slog.DiscardHandler)}).Claims(locks)
	if err != nil {
		return nil, err
	}
	ns, err := link.Open(link.NodeNamespace)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	inv, err := device.Look(ns, claims, device.ParseAddresses(addresses))
	if err != nil {
		return nil, fmt.Errorf("list devices of the node: %w", err)
	}
	return inv, nil
}

func deviceRows(inv *device.Inventory) []deviceRow {
	rows := []deviceRow{}
	for _, s := range inv.List() {
		row := deviceRow{
			Name: s.Device.Name, Type: s.Device.Type, MAC: s.Device.MAC, Bus: s.Device.Bus, Up: s.Device.Up,
			Free: len(s.Reasons) == 0, Reasons: []deviceReason{},
		}
		for _, r := range s.Reasons {
			row.Reasons = append(row.Reasons, deviceReason{Kind: string(r.Kind), Text: r.Text})
		}
		if s.Holder != nil {
			row.Pod = s.Holder.Pod
		}
		rows = append(rows, row)
	}
	return rows
}

// why is why a device is not free.
func (r deviceRow) why() string {
	var out []string
	for _, reason := range r.Reasons {
		out = append(out, reason.Text)
	}
	return strings.Join(out, "; ")
}
