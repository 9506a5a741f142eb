// Package device decides which interfaces of the node a pod may hold exclusively: what a network's plugins request,
// whether the node needs the device, which pod holds it, which devices are free, and which device came back from a dead
// pod without its name. It decides on a value, the Inventory, and changes nothing.
//
// The plan contains a device's Identity. The ledger records it and returns Holdings. The package is used by the engine
// and by the tools that inspect a node. It imports link and cniconf.
package device

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"multus/internal/link"
)

// Identity identifies a device after a pod had it, when its name and its MAC address may have changed. It is recorded
// before the device is given away.
type Identity struct {
	// Name is the name on the node, which the device must get back.
	Name  string `json:"name"`
	Index int    `json:"ifindex"`
	MAC   string `json:"mac,omitempty"`
	// Permanent is the permanent MAC address and Bus the address on the bus. Both are empty for a virtual device.
	Permanent string `json:"permanentMAC,omitempty"`
	Bus       string `json:"bus,omitempty"`
}

// IdentityOf returns the identity of a device that is on the node under its own name.
func IdentityOf(d *link.Device) *Identity {
	return &Identity{Name: d.Name, Index: d.Index, MAC: d.MAC, Permanent: d.Permanent, Bus: d.Bus}
}

// Is reports whether d is the identified device. Hardware is compared by what cannot change: ports of one card share
// the bus address and differ in the MAC address, and virtual functions may have no permanent MAC address. Virtual
// devices are compared by the MAC address, or by their index together with the name that the host-device plugin stores
// in the alias.
func (i *Identity) Is(d *link.Device) bool {
	if (i.Permanent != "" || i.Bus != "") != hardware(d) {
		return false
	}
	same := false
	for _, pair := range [][2]string{{i.Permanent, d.Permanent}, {i.Bus, d.Bus}} {
		if pair[0] == "" || pair[1] == "" {
			continue
		}
		if pair[0] != pair[1] {
			return false
		}
		same = true
	}
	if hardware(d) {
		return same
	}
	return i.MAC != "" && i.MAC == d.MAC || i.Index == d.Index && i.Name == d.Alias
}

// hardware reports whether a device exists independently of the node's configuration.
func hardware(d *link.Device) bool { return d.Permanent != "" || d.Bus != "" }

// Holding is what the ledger has recorded about one attachment of one sandbox.
type Holding struct {
	// Pod is the pod as namespace/name. It is "" if the runtime named none.
	Pod         string
	ContainerID string
	Network     string
	// IfName is the name of the interface in the sandbox. Netns is the sandbox's network namespace.
	IfName string
	Netns  string
	// Device is the device that was given to the pod. It is nil if none was, or if it is not known (records of Multus
	// 4.x).
	Device *Identity
	// References lists the devices that the network's plugins request.
	References []Reference
	// Busy reports whether an operation on the sandbox is in progress, that is, whether the sandbox's lock is held.
	Busy bool
	// Undone reports whether ADD failed and has given back what it took.
	Undone bool

	// Gone, Attached and Peer are set by Inspect. Gone reports whether the namespace no longer exists. Attached reports
	// whether the namespace has the interface. Peer is the namespace's ID as in link.Device, -1 for none.
	Gone     bool
	Attached bool
	Peer     int
}

// String returns the pod, its sandbox and its interface, for messages.
func (h *Holding) String() string {
	pod := "pod " + h.Pod
	if h.Pod == "" {
		pod = "a pod without a name"
	}
	return fmt.Sprintf("%s (sandbox %s, interface %s)", pod, h.ContainerID, h.IfName)
}

// Inventory has a node's devices and everything that decides whether a pod may have one of them.
type Inventory struct {
	Devices []link.Device
	// Routes are the default routes of both families.
	Routes []Route
	// NodeAddresses are the addresses of the node in the cluster, as far as they are known.
	NodeAddresses []netip.Addr
	Holdings      []Holding
	// Sys is the mount point of sysfs. Only sysfs has the interface of a kernel path or of an auxiliary device.
	Sys string
}

// Route is a default route of one family.
type Route struct {
	link.Route
	Family link.Family
}

// sysfs is the usual mount point of sysfs.
const sysfs = "/sys"

// Inspect returns the inventory of the node whose network namespace is ns. It completes the holdings by inspecting the
// namespace of each sandbox. A namespace that is gone is not an error.
func Inspect(ns *link.Namespace, holdings []Holding, nodeAddresses []netip.Addr) (*Inventory, error) {
	inv := &Inventory{Holdings: holdings, NodeAddresses: nodeAddresses, Sys: sysfs}
	var err error
	// This must be the first step: when the kernel lists peers, it assigns IDs to their namespaces.
	if inv.Devices, err = ns.Devices(); err != nil {
		return nil, fmt.Errorf("list the devices of the node: %w", err)
	}
	for _, family := range []link.Family{link.IPv4, link.IPv6} {
		routes, err := ns.DefaultRoutes("", family)
		if err != nil {
			return nil, fmt.Errorf("list the routes of the node: %w", err)
		}
		for _, r := range routes {
			inv.Routes = append(inv.Routes, Route{Route: r, Family: family})
		}
	}
	for i := range inv.Holdings {
		visit(ns, &inv.Holdings[i])
	}
	return inv, nil
}

// visit completes a holding. A namespace that cannot be opened or inspected is being removed.
func visit(node *link.Namespace, h *Holding) {
	h.Gone, h.Attached, h.Peer = true, false, -1
	id, err := node.PeerOf(h.Netns)
	if err != nil {
		return
	}
	h.Gone, h.Peer = false, id
	if len(h.References) == 0 && h.Device == nil {
		return
	}
	sandbox, err := link.Open(h.Netns)
	if err != nil {
		return
	}
	defer sandbox.Close() // it was only read
	h.Attached, _ = sandbox.HasInterface(h.IfName)
}

// named returns the device with this name or alternative name, or nil if the node has no such device.
func (inv *Inventory) named(name string) *link.Device {
	for i := range inv.Devices {
		d := &inv.Devices[i]
		if d.Name == name || slices.Contains(d.AltNames, name) {
			return d
		}
	}
	return nil
}

// list joins names for a message. It shortens a long list.
func list(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
