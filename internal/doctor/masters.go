package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"multus/internal/engine/ledger"
	"multus/internal/link"
)

var mastersCheck = Check{
	Name: "interfaces", About: "the interfaces that definitions name are on this node, have a large enough MTU, and do " +
		"not conflict",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		if n.Interfaces == nil {
			return nil, errors.New("the node's interfaces are not visible here: run it in the node's network namespace")
		}
		all, err := n.Interfaces()
		if err != nil {
			return nil, err
		}
		m := &masters{node: n, byName: map[string]link.Interface{}, users: map[string]user{}}
		for _, i := range all {
			m.byName[i.Name] = i
		}
		networks, err := n.networks(ctx)
		for _, w := range networks {
			for _, p := range w.plugins() {
				m.checkPlugin(w, p)
			}
		}
		return m.found, err
	},
}

type masters struct {
	node   *Node
	byName map[string]link.Interface
	// users has, by interface, the network that puts macvlan or ipvlan on it.
	users map[string]user
	found []Finding
}

type user struct{ typ, owner string }

func (m *masters) checkPlugin(w network, p plugin) {
	switch {
	case p.LinkInContainer:
	case p.Type == "bridge":
		m.bridge(w, p)
	case p.Type == "host-device" && p.Device != "":
		if _, ok := m.byName[p.Device]; !ok && !m.heldByPod(p.Device) {
			m.missing(w, "device", p.Device)
		}
	case slices.Contains([]string{"macvlan", "ipvlan", "vlan"}, p.Type) && p.Master != "":
		m.master(w, p)
	}
}

func (m *masters) missing(w network, key, name string) {
	m.found = append(m.found, Finding{
		Severity: Warning, Message: fmt.Sprintf("%s names the %s %s, which this node does not have", w.owner, key, name),
		Evidence: fmt.Sprintf("ip link show %s: no such interface", name),
		Fix:      "create the interface, or keep the pods of this network on nodes that have it (nodeSelector)",
	})
}

func (m *masters) master(w network, p plugin) {
	i, ok := m.byName[p.Master]
	if !ok {
		m.missing(w, "master", p.Master)
		return
	}
	if !i.Up {
		m.found = append(m.found, Finding{
			Severity: Warning, Message: fmt.Sprintf("%s is on %s, which is down: no traffic passes", w.owner, i.Name),
			Evidence: "ip link show " + i.Name,
			Fix:      "ip link set " + i.Name + " up, and in the node's network configuration",
		})
	}
	var mtu int
	if json.Unmarshal(p.MTU, &mtu) == nil && mtu > i.MTU {
		m.found = append(m.found, Finding{
			Severity: Error,
			Message:  fmt.Sprintf("%s requests MTU %d on %s, which has %d: pods fail", w.owner, mtu, i.Name, i.MTU),
			Evidence: "ip link show " + i.Name,
			Fix: fmt.Sprintf("ip link set %s mtu %d, and in the node's network configuration, or a smaller mtu in the "+
				"definition", i.Name, mtu),
		})
	}
	if p.Type == "vlan" {
		return
	}
	if other, used := m.users[p.Master]; used && other.typ != p.Type {
		m.found = append(m.found, Finding{
			Severity: Error, Message: fmt.Sprintf(
				"%s uses %s for %s: a kernel interface cannot carry macvlan and ipvlan at the same time", w.owner, p.Master,
				p.Type),
			Evidence: fmt.Sprintf("%s uses it for %s", other.owner, other.typ),
			Fix:      "use one of the two on " + p.Master + ", or another interface",
		})
	}
	m.users[p.Master] = user{p.Type, w.owner}
}

func (m *masters) bridge(w network, p plugin) {
	name := p.Bridge
	if name == "" {
		name = "cni0"
	}
	if i, ok := m.byName[name]; ok && i.Type != "bridge" {
		m.found = append(m.found, Finding{
			Severity: Error, Message: fmt.Sprintf("%s names the bridge %s, which is not a bridge on this node", w.owner, name),
			Evidence: fmt.Sprintf("ip -d link show %s: %s", name, i.Type), Fix: "name another bridge in the definition",
		})
	}
}

// heldByPod reports whether a pod of this node has the device, which is then not missing. It returns true if the ledger
// is not visible, because a pod may have it.
func (m *masters) heldByPod(device string) bool {
	if m.node.notMounted(m.node.stateDir()) != nil {
		return true
	}
	store := m.node.ledger()
	ids, err := store.Containers()
	if err != nil {
		return false
	}
	for _, id := range ids {
		r, _ := store.Inspect(id, ledger.DefaultIfName) // the ledger check reports damaged records
		for i := 0; r != nil && i < len(r.Attachments); i++ {
			for _, p := range (network{list: r.Attachments[i].Config}).plugins() {
				if p.Type == "host-device" && p.Device == device {
					return true
				}
			}
		}
	}
	return false
}
