package device

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"multus/internal/link"
)

// Kind is the kind of a reason why a device is not free.
type Kind string

// The kinds, in the order in which they are reported.
const (
	// Held: a pod holds the device, or is being given it.
	Held Kind = "held"
	// Immovable: the kernel does not let the device leave its namespace.
	Immovable Kind = "immovable"
	// DefaultRoute: the node's default route uses the device.
	DefaultRoute Kind = "default-route"
	// NodeAddress: the device has an address of the node in the cluster.
	NodeAddress Kind = "node-address"
	// Member: the device belongs to a bridge, bond, Open vSwitch, VRF, ...
	Member Kind = "member"
	// Parent: other interfaces depend on the device: a vlan, vxlan or macvlan of the node, or a macvlan of a pod.
	Parent Kind = "parent"
	// PodVeth: the device is the node's end of a pod's veth pair.
	PodVeth Kind = "pod-veth"
)

// Reason is a reason why a device is not free. Text is a part of a sentence.
type Reason struct {
	Kind Kind
	Text string
}

// Reasons returns why no pod may have a device of the inventory. If it is empty, the device is free. An address on the
// device is not a reason: users also give away devices that the node's own configuration has set up.
func (inv *Inventory) Reasons(d *link.Device) []Reason {
	var out []Reason
	add := func(kind Kind, format string, args ...any) {
		out = append(out, Reason{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	if h := inv.busy(d); h != nil {
		add(Held, "%s is attaching or releasing it", h)
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
	if h := inv.vethPeer(d); h != nil {
		add(PodVeth, "it is the node's end of the veth pair of %s", h)
	}
	return out
}

// busy returns the sandbox with an operation in progress that holds a device of the node, or nil.
func (inv *Inventory) busy(d *link.Device) *Holding {
	for i := range inv.Holdings {
		h := &inv.Holdings[i]
		if h.Busy && h.Device != nil && h.Device.Is(d) {
			return h
		}
	}
	return nil
}

// bestMetric returns the metric of the default route that the node uses: the best one of those with a carrier. A device
// with a worse default route is a spare one, such as a NIC that a DHCP client has set up in addition to the uplink.
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

// details returns the gateway and the metric of a route, if it has them.
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

// describe returns the type and the name of an interface.
func (inv *Inventory) describe(index int) string {
	for i := range inv.Devices {
		if d := &inv.Devices[i]; d.Index == index {
			return fmt.Sprintf("%s %s", d.Type, d.Name)
		}
	}
	return fmt.Sprintf("interface %d", index)
}

// upper lists the interfaces on top of a device: those of the node, and those of recorded pods, which are not visible
// in the node's namespace.
func (inv *Inventory) upper(d *link.Device) []string {
	var out []string
	for _, u := range inv.Devices {
		if u.Lower == d.Index && u.Index != d.Index {
			out = append(out, fmt.Sprintf("%s %s", u.Type, u.Name))
		}
	}
	for i := range inv.Holdings {
		h := &inv.Holdings[i]
		if !h.Busy && !h.Attached {
			continue
		}
		shares := func(r Reference) bool { return r.Use == Shares && inv.named(r.Value) == d }
		if slices.ContainsFunc(h.References, shares) {
			out = append(out, "that of "+h.String())
		}
	}
	return out
}

// vethPeer returns the sandbox at the other end of a veth, or nil.
func (inv *Inventory) vethPeer(d *link.Device) *Holding {
	if d.Type != "veth" || d.Peer < 0 {
		return nil
	}
	for i := range inv.Holdings {
		if h := &inv.Holdings[i]; !h.Gone && h.Peer == d.Peer {
			return h
		}
	}
	return nil
}

// Free returns the names of the devices that could be given to a pod instead: free hardware or, on a node without any,
// virtual devices of the kinds that users give away.
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

// freeHardware returns the names of the free devices with a bus address, together with the address by which they can be
// requested.
func (inv *Inventory) freeHardware() []string {
	var out []string
	for i := range inv.Devices {
		if d := &inv.Devices[i]; d.Bus != "" && len(inv.Reasons(d)) == 0 {
			out = append(out, fmt.Sprintf("%s (%s)", d.Name, d.Bus))
		}
	}
	return out
}

// freeUserspace returns the devices that a pod could have instead of one with a user-space driver.
func (inv *Inventory) freeUserspace() []string {
	var out []string
	for _, d := range inv.userspaceDevices() {
		if inv.holder(&Reference{Key: "deviceID", Value: d.Bus}, true) == nil {
			out = append(out, d.Bus)
		}
	}
	return out
}

// masters returns the names of the interfaces on which a macvlan, ipvlan or vlan can be created.
func (inv *Inventory) masters() []string {
	var out []string
	for i := range inv.Devices {
		d := &inv.Devices[i]
		if !d.Loopback && inv.vethPeer(d) == nil {
			out = append(out, d.Name)
		}
	}
	return out
}

// Status is one device, on the node or given to a pod.
type Status struct {
	// Device is the device as it is on the node. If a pod holds it, it has only what was recorded.
	Device link.Device
	// Reasons lists why the device is not free.
	Reasons []Reason
	// Holder is the sandbox that holds the device, or nil for none.
	Holder *Holding
}

// List returns all devices of the node with the reasons that keep each one from being given to a pod: first those that
// are on the node, in the order of the kernel's list, then those with user-space drivers, which have an address and no
// name, then those that pods hold.
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
	for i := range inv.Holdings {
		h := &inv.Holdings[i]
		if h.Device == nil || inv.onNode(h.Device) ||
			inv.holder(&Reference{Key: "device", Value: h.Device.Name}, false) != h {
			continue
		}
		d := link.Device{
			Interface: link.Interface{Name: h.Device.Name, MAC: h.Device.MAC}, Permanent: h.Device.Permanent,
			Bus: h.Device.Bus, Peer: h.Peer,
		}
		out = append(out, Status{Device: d, Reasons: []Reason{{Kind: Held, Text: held(h)}}, Holder: h})
	}
	return out
}

// onNode reports whether a device is on the node, under any name.
func (inv *Inventory) onNode(id *Identity) bool {
	return slices.ContainsFunc(inv.Devices, func(d link.Device) bool { return id.Is(&d) })
}

// held returns a message with the holder of a device that is not on the node.
func held(h *Holding) string {
	if h.Gone {
		return fmt.Sprintf("%s has it, and its network namespace is gone: a process may keep the namespace alive, or the "+
			"device was deleted with it", h)
	}
	return fmt.Sprintf("%s has it", h)
}

// ParseAddresses parses addresses, without or with a prefix length. It omits invalid ones.
func ParseAddresses(addresses []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range addresses {
		s, _, _ = strings.Cut(strings.TrimSpace(s), "/")
		if addr, err := netip.ParseAddr(s); err == nil {
			out = append(out, addr.Unmap())
		}
	}
	return out
}
