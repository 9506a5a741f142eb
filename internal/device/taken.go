package device

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"multus/internal/link"
)

// Kind is why a device is not free.
type Kind string

// The kinds, in the order in which they are told.
const (
	// Held: a pod has it, or is being given it.
	Held Kind = "held"
	// Immovable: the kernel does not let it leave its namespace.
	Immovable Kind = "immovable"
	// DefaultRoute: the node reaches the world through it.
	DefaultRoute Kind = "default-route"
	// NodeAddress: the cluster reaches the node by an address of it.
	NodeAddress Kind = "node-address"
	// Member: it belongs to a bridge, bond, Open vSwitch, VRF, ...
	Member Kind = "member"
	// Parent: other interfaces sit on it: a vlan, vxlan or macvlan of the node, a macvlan of a pod.
	Parent Kind = "parent"
	// PodVeth: it is the node's end of a pod's cable.
	PodVeth Kind = "pod-veth"
)

// Reason is why a device is not free, and Text says it in half a sentence.
type Reason struct {
	Kind Kind
	Text string
}

// Reasons lists why no pod may have a device of the inventory; none says that it is free. An address on it is no
// reason: people do give away devices that the node's own configuration has set up.
func (inv *Inventory) Reasons(d *link.Device) []Reason {
	var out []Reason
	add := func(kind Kind, format string, args ...any) {
		out = append(out, Reason{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	if c := inv.busy(d); c != nil {
		add(Held, "%s is getting it or giving it back just now", c)
	}
	switch d.Type {
	case "bridge", "bond", "team", "vrf":
		add(Immovable, "it is a %s, which cannot leave the node", d.Type)
	default:
		if d.Loopback {
			add(Immovable, "it is the node's loopback interface")
		}
	}
	for _, r := range inv.Routes {
		if r.Interface == d.Name && r.Metric <= inv.bestMetric(r.Family) {
			add(DefaultRoute, "it carries the node's default route%s", details(r))
		}
	}
	for _, p := range d.Addrs {
		if slices.Contains(inv.NodeAddresses, p.Addr()) {
			add(NodeAddress, "it has the node's address %s", p.Addr())
		}
	}
	if d.Master != 0 {
		add(Member, "it belongs to %s", inv.describe(d.Master))
	}
	if upper := inv.upper(d); len(upper) > 0 {
		add(Parent, "other interfaces are on it: %s", list(upper))
	}
	if c := inv.wired(d); c != nil {
		add(PodVeth, "it is the cable of %s", c)
	}
	return out
}

// busy finds the sandbox that is being given a device of the node just now.
func (inv *Inventory) busy(d *link.Device) *Claim {
	for i := range inv.Claims {
		c := &inv.Claims[i]
		if c.Busy && c.Device != nil && c.Device.Is(d) {
			return c
		}
	}
	return nil
}

// bestMetric is that of the default route which the node uses: of those with a carrier the best. A device that has a
// worse one is a spare, as is any NIC that a DHCP client has set up beside the uplink.
func (inv *Inventory) bestMetric(family link.Family) int {
	best, alive := -1, false
	for _, r := range inv.Routes {
		if r.Family != family {
			continue
		}
		d := inv.named(r.Interface)
		live := d != nil && d.Up && d.Carrier
		if best < 0 || live && !alive || live == alive && r.Metric < best {
			best, alive = r.Metric, alive || live
		}
	}
	return best
}

// details are the gateway and the metric, as far as there are any.
func details(r Route) string {
	var parts []string
	if r.Gateway.IsValid() {
		parts = append(parts, r.Gateway.String())
	}
	if r.Metric != 0 {
		parts = append(parts, fmt.Sprintf("metric %d", r.Metric))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// describe names an interface with its type.
func (inv *Inventory) describe(index int) string {
	for i := range inv.Devices {
		if d := &inv.Devices[i]; d.Index == index {
			return fmt.Sprintf("%s %s", d.Type, d.Name)
		}
	}
	return fmt.Sprintf("interface %d", index)
}

// upper lists what sits on a device: interfaces of the node, and those of pods that the ledger knows, which the node's
// namespace does not show.
func (inv *Inventory) upper(d *link.Device) []string {
	var out []string
	for _, u := range inv.Devices {
		if u.Lower == d.Index && u.Index != d.Index {
			out = append(out, fmt.Sprintf("%s %s", u.Type, u.Name))
		}
	}
	for i := range inv.Claims {
		c := &inv.Claims[i]
		if !c.Busy && !c.Attached {
			continue
		}
		shares := func(r Reference) bool { return r.Use == Shares && inv.named(r.Value) == d }
		if slices.ContainsFunc(c.References, shares) {
			out = append(out, "that of "+c.String())
		}
	}
	return out
}

// wired finds the pod to which a veth leads.
func (inv *Inventory) wired(d *link.Device) *Claim {
	if d.Type != "veth" || d.Peer < 0 {
		return nil
	}
	for i := range inv.Claims {
		if c := &inv.Claims[i]; !c.Gone && c.Peer == d.Peer {
			return c
		}
	}
	return nil
}

// Free names the devices that could be given to a pod instead: the hardware that nobody needs; on a node without any,
// virtual devices of the kinds that people give away.
func (inv *Inventory) Free() []string {
	var physical, virtual []string
	for i := range inv.Devices {
		d := &inv.Devices[i]
		if len(inv.Reasons(d)) > 0 {
			continue
		}
		switch {
		case hardware(d):
			physical = append(physical, d.Name)
		case slices.Contains([]string{"veth", "vlan", "macvlan", "dummy"}, d.Type):
			virtual = append(virtual, d.Name)
		}
	}
	if len(physical) > 0 {
		return physical
	}
	return virtual
}

// freeHardware names the free devices that have an address on a bus, as they can be asked for by address.
func (inv *Inventory) freeHardware() []string {
	var out []string
	for i := range inv.Devices {
		if d := &inv.Devices[i]; d.Bus != "" && len(inv.Reasons(d)) == 0 {
			out = append(out, fmt.Sprintf("%s (%s)", d.Name, d.Bus))
		}
	}
	return out
}

// freeUserspace names the devices that a pod could have instead of one whose driver is in user space.
func (inv *Inventory) freeUserspace() []string {
	var out []string
	for _, d := range inv.userspaceDevices() {
		if inv.holder(&Reference{Key: "deviceID", Value: d.Bus}, true) == nil {
			out = append(out, d.Bus)
		}
	}
	return out
}

// masters names what a macvlan, ipvlan or vlan can be made on.
func (inv *Inventory) masters() []string {
	var out []string
	for i := range inv.Devices {
		d := &inv.Devices[i]
		if !d.Loopback && inv.wired(d) == nil {
			out = append(out, d.Name)
		}
	}
	return out
}

// Status is one device of the node, on it or given to a pod.
type Status struct {
	// Device as it is on the node; of one that a pod has only what was recorded.
	Device link.Device
	// Reasons are why it is not free.
	Reasons []Reason
	// Holder is the pod that has it, nil for none.
	Holder *Claim
}

// List returns all devices of the node with what keeps each from being given to a pod: first those that are on the
// node, in the order of the kernel's list, then those that programs drive, which have an address and no name, then
// those that pods have.
func (inv *Inventory) List() []Status {
	var out []Status
	for i := range inv.Devices {
		d := &inv.Devices[i]
		out = append(out, Status{Device: *d, Reasons: inv.Reasons(d), Holder: inv.busy(d)})
	}
	for _, d := range inv.userspaceDevices() {
		s := Status{Device: d, Holder: inv.holder(&Reference{Key: "deviceID", Value: d.Bus}, true)}
		if s.Holder != nil {
			s.Reasons = []Reason{{Kind: Held, Text: held(s.Holder)}}
		}
		out = append(out, s)
	}
	for i := range inv.Claims {
		c := &inv.Claims[i]
		if c.Device == nil || inv.here(c.Device) || inv.holder(&Reference{Key: "device", Value: c.Device.Name}, false) != c {
			continue
		}
		d := link.Device{
			Interface: link.Interface{Name: c.Device.Name, MAC: c.Device.MAC}, Permanent: c.Device.Permanent,
			Bus: c.Device.Bus, Peer: c.Peer,
		}
		out = append(out, Status{Device: d, Reasons: []Reason{{Kind: Held, Text: held(c)}}, Holder: c})
	}
	return out
}

// here tells whether a device is on the node, whatever it is called.
func (inv *Inventory) here(id *Identity) bool {
	return slices.ContainsFunc(inv.Devices, func(d link.Device) bool { return id.Is(&d) })
}

// held says who has a device that is not on the node.
func held(c *Claim) string {
	if c.Gone {
		return fmt.Sprintf("%s has got it, and its network namespace is gone: a process may keep it alive, or the device "+
			"went with it", c)
	}
	return fmt.Sprintf("%s has it", c)
}

// ParseAddresses reads addresses, without or with a prefix length; what is none is left out.
func ParseAddresses(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		text, _, _ = strings.Cut(strings.TrimSpace(text), "/")
		if addr, err := netip.ParseAddr(text); err == nil {
			out = append(out, addr.Unmap())
		}
	}
	return out
}
