package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/doctor"
	"multus/internal/engine/ledger"
	"multus/internal/link"
	"multus/internal/node"
	"multus/internal/source/podresources"
)

// deviceRow is an interface of the node, as it is printed.
type deviceRow struct {
	// Name is "" for a device that a user-space driver uses. Such a device has an address only.
	Name string `json:"name"`
	Type string `json:"type,omitempty"`
	MAC  string `json:"mac,omitempty"`
	Bus  string `json:"bus,omitempty"`
	Up   bool   `json:"up"`
	// Free reports whether host-device may move the interface into a pod. Reasons are the reasons why it may not.
	Free    bool           `json:"free"`
	Reasons []deviceReason `json:"reasons"`
	// Pod is the pod that has the device, or "".
	Pod string `json:"pod,omitempty"`
}

type deviceReason struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

func (a *app) devicesCommand() *cobra.Command {
	var dir, locks, nodeName, kubelet string
	var addresses []string
	c := &cobra.Command{
		Use:   "devices",
		Short: "List the interfaces of this node: which are free for a pod, and why the others are not",
		Long: "List the interfaces of this node: which are free for a pod (host-device), and why the others are not. The\n" +
			"rules are those of ADD. Interfaces in pods are listed too, with their pod. Then the devices of ResourceClaims\n" +
			"of the pods of this node are listed, with the networks that use them.",
		Example: "  multusctl devices\n  kubectl multus devices --node worker-3",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !a.isThisNode(nodeName) {
				return a.runOnNode(cmd.Context(), nodeName, nil, forwardedArguments(cmd)...)
			}
			conf := a.nodePlugin()
			if !cmd.Flags().Changed("node-address") {
				addresses = conf.NodeAddresses
			}
			state := cmp.Or(dir, conf.CNIDir, config.DefaultCNIDir)
			inv, err := a.inventory(state, locks, addresses)
			if err != nil {
				return err
			}
			claims, claimsErr := a.claimRows(cmd.Context(), state, cmp.Or(kubelet, conf.KubeletRoot))
			rows := deviceRows(inv)
			err = a.print(map[string]any{"devices": rows, "claims": claims}, func(w io.Writer) {
				table := [][]string{{"DEVICE", "TYPE", "MAC", "BUS", "FREE", "WHY NOT"}}
				for _, r := range rows {
					free := "no"
					if r.Free {
						free = "yes"
					}
					table = append(table, []string{dash(r.Name), dash(r.Type), dash(r.MAC), dash(r.Bus), free, dash(r.why())})
				}
				columns(w, table...)
				printClaims(w, claims)
			})
			return errors.Join(err, claimsErr)
		},
	}
	a.nodeFlag(c, &nodeName)
	a.source.addKubeconfig(c.Flags())
	c.Flags().StringVar(&dir, "state-dir", "",
		"the state `directory` (default: cniDir of the node's configuration, else "+config.DefaultCNIDir+")")
	c.Flags().StringVar(&kubelet, "kubelet-root", "",
		"the kubelet's root `directory` (default: kubeletRoot of the node's configuration, else "+
			podresources.DefaultRoot+")")
	c.Flags().StringVar(&locks, "lock-file", node.LockFile, "the `file` of the locks")
	c.Flags().StringSliceVar(&addresses, "node-address", nil,
		"`address` of this node in the cluster (default: nodeAddresses of the node's configuration)")
	return c
}

// nodePlugin returns the configuration of an ADD on this node. It is empty as far as it cannot be read.
func (a *app) nodePlugin() *config.Plugin {
	_, raw, daemon := (&doctor.Node{Root: "/", InPod: a.inPod()}).Configuration()
	if d, err := config.ParseDaemon(daemon); err == nil && raw != nil {
		if laid, err := d.ForRequest(raw); err == nil {
			raw = laid
		}
	}
	conf, err := config.ParsePlugin(raw)
	if err != nil {
		return &config.Plugin{}
	}
	return conf
}

// inventory returns the devices of this node and their holdings.
func (a *app) inventory(dir, locks string, addresses []string) (_ *device.Inventory, err error) {
	holdings, err := (&ledger.Store{Dir: dir, Log: slog.New(slog.DiscardHandler)}).Holdings(locks)
	if err != nil {
		return nil, err
	}
	ns, err := link.Open(link.NodeNamespace)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	inv, err := device.Inspect(ns, holdings, device.ParseAddresses(addresses))
	if err != nil {
		return nil, fmt.Errorf("list devices of the node: %w", err)
	}
	if a.inPod() {
		// A pod does not see the network namespaces of other pods. The devices in the ledger count as attached.
		for i := range inv.Holdings {
			inv.Holdings[i].Gone, inv.Holdings[i].Attached = false, true
		}
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

// why returns the reasons why a device is not free.
func (r deviceRow) why() string {
	var out []string
	for _, reason := range r.Reasons {
		out = append(out, reason.Text)
	}
	return strings.Join(out, "; ")
}
