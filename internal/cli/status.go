package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/link"
	"multus/internal/netsel"
	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

// daemonLimit limits one request to the daemon.
const daemonLimit = 3 * time.Second

// statusOutput is what `status -o json` prints.
type statusOutput struct {
	Daemon daemonStatus `json:"daemon"`
	Pods   []podStatus  `json:"pods"`
	// Missing has the pods that run without the networks that they request, as the daemon has found them.
	Missing []wirev1.MissingPod `json:"missing,omitempty"`
}

type daemonStatus struct {
	Socket string `json:"socket"`
	// State is "ready", "not ready" or "unreachable".
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
}

// podStatus is the state of a pod in the ledger, in its network namespace and in the API.
type podStatus struct {
	Pod       string `json:"pod"`
	Container string `json:"container,omitempty"`
	State     string `json:"state,omitempty"`
	// Reported reports whether the network status was read. Problems are the differences between the three.
	Reported   bool           `json:"reported"`
	Problems   []string       `json:"problems,omitempty"`
	Interfaces []podInterface `json:"interfaces"`

	// interfaceNames has the names of the interfaces in the network namespace. It is nil if they are not visible.
	interfaceNames []string
}

type podInterface struct {
	Name    string   `json:"name"`
	Network string   `json:"network,omitempty"`
	MAC     string   `json:"mac,omitempty"`
	MTU     int      `json:"mtu,omitempty"`
	Addrs   []string `json:"addresses,omitempty"`
	// Present reports whether the interface is in the network namespace. It is nil if that is not visible.
	Present *bool `json:"present,omitempty"`
}

// reportedNetwork is an element of the network status (NPWG v1.3 §5).
type reportedNetwork struct {
	Name      string   `json:"name"`
	Interface string   `json:"interface"`
	IPs       []string `json:"ips"`
	MAC       string   `json:"mac"`
}

func (a *app) statusCommand() *cobra.Command {
	var dir, socketDir, node string
	c := &cobra.Command{
		Use:   "status [NAMESPACE/NAME]",
		Short: "Show the daemon and the networks of the pods of this node, or of one pod",
		Long: "Show whether the daemon is ready, and for each pod its records on this node and the interfaces in its\n" +
			"network namespace. For a named pod, also show its annotation network-status. Exit code 1 if they differ,\n" +
			"or if a pod runs without the networks that it requests (docs/repair.md). With --node it runs in the daemon's\n" +
			"pod on another node, through kubectl.",
		Example: "  multusctl status\n  kubectl multus status team-a/web-0\n  kubectl multus status --node worker-3",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			refs, err := parseRefs(args)
			if err != nil {
				return err
			}
			if !a.isThisNode(node) {
				return a.runOnNode(cmd.Context(), node, nil, append(forwardedArguments(cmd), args...)...)
			}
			socket := filepath.Join(socketDir, config.SocketName)
			out := statusOutput{Daemon: daemonState(cmd.Context(), socket)}
			out.Missing = missingPods(cmd.Context(), socket, refs)
			records, err := readLedger(dir)
			if err != nil {
				return err
			}
			if len(refs) == 0 {
				out.Pods = observeAll(records)
				return a.printStatus(&out)
			}
			records = slices.DeleteFunc(records, func(r record) bool { return r.name() != refs[0].String() })
			if out.Pods, err = a.addNetworkStatus(cmd.Context(), refs[0], observeAll(records)); err != nil {
				return err
			}
			return a.printStatus(&out)
		},
	}
	a.source.add(c.Flags())
	a.nodeFlag(c, &node)
	c.Flags().StringVar(&dir, "state-dir", config.DefaultCNIDir, "the state `directory`, cniDir of the CNI configuration")
	c.Flags().StringVar(&socketDir, "socket-dir", config.DefaultSocketDir, "the `directory` of the daemon's socket")
	return c
}

// daemonState returns the readiness of the daemon.
func daemonState(ctx context.Context, socket string) daemonStatus {
	ctx, cancel := context.WithTimeout(ctx, daemonLimit)
	defer cancel()
	err := (&client.Client{Socket: socket}).Call(ctx, "GET", wirev1.PathReady, nil, nil)
	switch {
	case err == nil:
		return daemonStatus{Socket: socket, State: "ready"}
	case errors.Is(err, client.ErrUnreachable):
		return daemonStatus{Socket: socket, State: "unreachable", Message: err.Error()}
	}
	return daemonStatus{Socket: socket, State: "not ready", Message: err.Error()}
}

// missingPods returns the pods that run without the networks that they request: all of them, or those in refs. It
// returns none if the daemon does not answer, or does not look for them.
func missingPods(ctx context.Context, socket string, refs []plan.Ref) []wirev1.MissingPod {
	ctx, cancel := context.WithTimeout(ctx, daemonLimit)
	defer cancel()
	var found wirev1.MissingPods
	if (&client.Client{Socket: socket}).Call(ctx, "GET", wirev1.PathMissing, nil, &found) != nil {
		return nil
	}
	return slices.DeleteFunc(found.Pods, func(m wirev1.MissingPod) bool {
		return len(refs) > 0 && !slices.Contains(refs, plan.Ref{Namespace: m.Pod.Namespace, Name: m.Pod.Name})
	})
}

func observeAll(records []record) []podStatus {
	out := []podStatus{}
	for _, r := range records {
		out = append(out, observe(r))
	}
	return out
}

// observe compares a record with the interfaces in the network namespace.
func observe(r record) podStatus {
	out := podStatus{Pod: r.name(), Container: r.Container, State: r.State, Interfaces: []podInterface{}}
	if r.Problem != "" {
		out.Problems = append(out.Problems, r.Problem)
	}
	if r.State == stateGone {
		out.Problems = append(out.Problems, "the network namespace "+r.Netns+" is gone")
	}
	there, err := interfacesOf(r)
	if err != nil {
		out.Problems = append(out.Problems, err.Error())
	}
	for _, l := range there {
		out.interfaceNames = append(out.interfaceNames, l.Name)
	}
	for _, t := range r.Attachments {
		i := podInterface{Name: t.IfName, Network: t.Network}
		if there != nil {
			at := slices.IndexFunc(there, func(l link.Interface) bool { return l.Name == t.IfName })
			present := at >= 0
			i.Present = &present
			if present {
				i.fill(there[at])
			} else {
				out.Problems = append(out.Problems,
					fmt.Sprintf("interface %s of network %s is not in the pod", t.IfName, t.Network))
			}
		}
		out.Interfaces = append(out.Interfaces, i)
	}
	return out
}

// interfacesOf returns the interfaces in the sandbox of a record, or nil if they are not visible.
func interfacesOf(r record) (_ []link.Interface, err error) {
	if r.State != stateAttached {
		return nil, nil
	}
	ns, err := link.Open(r.Netns)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	return ns.Interfaces()
}

func (i *podInterface) fill(l link.Interface) {
	i.MAC, i.MTU = l.MAC, l.MTU
	for _, p := range l.Addrs {
		if !p.Addr().IsLinkLocalUnicast() {
			i.Addrs = append(i.Addrs, p.String())
		}
	}
}

// addNetworkStatus adds the network status of the pod. Without a source, it returns the pods unchanged.
func (a *app) addNetworkStatus(ctx context.Context, ref plan.Ref, pods []podStatus) ([]podStatus, error) {
	s, err := a.open()
	if errors.Is(err, errNoSource) && len(pods) > 0 {
		return pods, nil
	}
	if err != nil {
		return nil, err
	}
	pod, err := s.Pod(ctx, ref)
	if err != nil {
		return nil, err
	}
	networks, err := reportedNetworks(pod)
	if err != nil {
		return nil, err
	}
	if networks == nil && a.source.networksDir != "" {
		return pods, nil // the daemon writes network statuses to another directory, beside its socket
	}
	if len(pods) == 0 {
		pods = []podStatus{{Pod: ref.String(), Interfaces: []podInterface{}}}
	}
	for i := range pods {
		pods[i].compare(networks)
	}
	return pods, nil
}

func reportedNetworks(pod *plan.Pod) ([]reportedNetwork, error) {
	value := pod.Annotations[netsel.Status]
	if value == "" {
		return nil, nil
	}
	var out []reportedNetwork
	if err := json.Unmarshal([]byte(value), &out); err != nil {
		return nil, fmt.Errorf("read annotation %s of pod %s: %w", netsel.Status, pod.Ref, err)
	}
	return out, nil
}

// compare adds the differences between the network status and the node. Two cases are no difference. A result without
// an interface of the pod (Calico's names the node's end only) is reported without a name, and belongs to the
// attachment. A plugin may also create more interfaces than the requested one.
func (p *podStatus) compare(networks []reportedNetwork) {
	p.Reported = networks != nil
	if !p.Reported {
		p.Problems = append(p.Problems, "the pod has no annotation "+netsel.Status)
		return
	}
	of := func(network string) []podInterface {
		return slices.DeleteFunc(slices.Clone(p.Interfaces), func(i podInterface) bool { return i.Network != network })
	}
	var more []podInterface
	for _, n := range networks {
		own := of(n.Name)
		known := slices.ContainsFunc(p.Interfaces, func(i podInterface) bool { return i.Name == n.Interface })
		switch {
		case known || n.Interface == "" && len(own) > 0:
		case len(own) > 0 || p.Container == "":
			more = append(more, podInterface{
				Name: n.Interface, Network: n.Name, MAC: n.MAC, Addrs: n.IPs,
				Present: p.present(n.Interface),
			})
		default:
			p.Problems = append(p.Problems,
				fmt.Sprintf("network %s (interface %s) is in network-status, but this node has no record of it", n.Name,
					dash(n.Interface)))
			more = append(more, podInterface{Name: n.Interface, Network: n.Name, MAC: n.MAC, Addrs: n.IPs})
		}
	}
	for _, i := range p.Interfaces {
		reported := slices.ContainsFunc(networks, func(n reportedNetwork) bool {
			return n.Interface == i.Name || n.Interface == "" && n.Name == i.Network
		})
		if !reported {
			p.Problems = append(p.Problems, fmt.Sprintf("interface %s of network %s is not in network-status", i.Name,
				i.Network))
		}
	}
	p.Interfaces = append(p.Interfaces, more...)
}

// present reports whether an interface is in the pod. It returns nil if that is not visible.
func (p *podStatus) present(name string) *bool {
	if p.interfaceNames == nil {
		return nil
	}
	there := slices.Contains(p.interfaceNames, name)
	return &there
}

func (a *app) printStatus(out *statusOutput) error {
	problems := 0
	err := a.print(out, func(w io.Writer) {
		colour := green
		if out.Daemon.State != "ready" {
			colour = yellow
		}
		fmt.Fprintf(w, "daemon: %s %s\n\n", a.paint(colour, out.Daemon.State), out.Daemon.Message)
		rows := [][]string{{"POD", "CONTAINER", "INTERFACE", "NETWORK", "MAC", "MTU", "ADDRESSES"}}
		for _, p := range out.Pods {
			for _, i := range p.Interfaces {
				mtu := ""
				if i.MTU > 0 {
					mtu = fmt.Sprint(i.MTU)
				}
				rows = append(rows, []string{
					p.Pod, dash(short(p.Container)), i.Name, i.Network, dash(i.MAC), dash(mtu),
					dash(strings.Join(i.Addrs, ",")),
				})
			}
		}
		columns(w, rows...)
		for _, p := range out.Pods {
			for _, problem := range p.Problems {
				fmt.Fprintf(w, "%s %s: %s\n", a.paint(red, "problem:"), cmp.Or(p.Pod, p.Container), problem)
			}
		}
		for i := range out.Missing {
			m := &out.Missing[i]
			note := m.Note
			if note != "" {
				note = "; not repaired: " + note
			}
			fmt.Fprintf(w, "%s %s/%s runs without the networks that it requests (%s) since %s, repair: %s%s\n",
				a.paint(red, "problem:"), m.Pod.Namespace, m.Pod.Name, strings.Join(m.Networks, ", "), m.Since, m.Repair, note)
		}
	})
	problems += len(out.Missing)
	for _, p := range out.Pods {
		problems += len(p.Problems)
	}
	if err == nil && problems > 0 {
		err = errFound
	}
	return err
}
