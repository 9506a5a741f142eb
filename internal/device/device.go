// Package device decides which interface of the node a pod may have for itself: what a network's plugins ask for,
// whether the node needs it, which pod has it, what is free instead, and which device came back from a dead pod without
// its name. It decides on a value, the Inventory, and changes nothing.
//
// The plan carries its Identity, the ledger records it and makes Claims, the engine and the tools that look at a node
// ask it. It imports link, for what a device is, and cniconf.
package device

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"multus/internal/link"
)

// Identity is by what a device is known again on the node after a pod had it: its name and its MAC address may have
// changed. It is recorded before the device is given away.
type Identity struct {
	// Name on the node, which is to be given back.
	Name  string `json:"name"`
	Index int    `json:"ifindex"`
	MAC   string `json:"mac,omitempty"`
	// Permanent is the burnt-in MAC address and Bus the address on the bus; both are empty for what is virtual.
	Permanent string `json:"permanentMAC,omitempty"`
	Bus       string `json:"bus,omitempty"`
}

// IdentityOf is the identity of a device that is on the node under its own name.
func IdentityOf(d *link.Device) *Identity {
	return &Identity{Name: d.Name, Index: d.Index, MAC: d.MAC, Permanent: d.Permanent, Bus: d.Bus}
}

// Is tells whether d is the device. Hardware is known by what cannot be changed: ports of one card share the bus
// address and differ in the MAC address, virtual functions may have no permanent one. Virtual devices are known by the
// MAC address, or by their index together with the name that the host-device plugin leaves in the alias.
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

// hardware tells devices that exist without the node's configuration.
func hardware(d *link.Device) bool { return d.Permanent != "" || d.Bus != "" }

// Claim is what the ledger knows of one attachment of one sandbox.
type Claim struct {
	// Pod is namespace/name, "" if the runtime named none.
	Pod         string
	ContainerID string
	Network     string
	// IfName is the interface's name in the sandbox, Netns the sandbox's namespace.
	IfName string
	Netns  string
	// Device was given to the pod; nil if none was, or if it is not known (records of today's Multus).
	Device *Identity
	// References are what the network's plugins ask for.
	References []Reference
	// Busy tells that an operation on the sandbox is running: who fills in the claim asks for its lock.
	Busy bool
	// Undone tells that ADD failed and has given back what it took.
	Undone bool

	// Gone, Attached and Peer are filled in by Look: the namespace does not exist any more; it has the interface;
	// its number as in link.Device, -1 for none.
	Gone     bool
	Attached bool
	Peer     int
}

// String names the pod, its sandbox and its interface, for messages.
func (c *Claim) String() string {
	pod := "pod " + c.Pod
	if c.Pod == "" {
		pod = "a pod without a name"
	}
	return fmt.Sprintf("%s (sandbox %s, interface %s)", pod, c.ContainerID, c.IfName)
}

// Inventory is a node's devices and all that decides whether a pod may have one of them.
type Inventory struct {
	Devices []link.Device
	// Routes are the default routes of both families.
	Routes []Route
	// NodeAddresses are those by which the cluster knows the node, as far as they are known.
	NodeAddresses []netip.Addr
	Claims        []Claim
	// Sys is where sysfs is mounted. It alone tells the interface of a kernel path or of an auxiliary device.
	Sys string
}

// Route is a default route of one family.
type Route struct {
	link.Route
	Family link.Family
}

// sysfs is where the kernel's view of the hardware is.
const sysfs = "/sys"

// Look makes the inventory of the node whose network namespace is ns, and completes the claims: it looks into the
// namespace of each sandbox. A namespace that is gone is no error.
func Look(ns *link.Namespace, claims []Claim, nodeAddresses []netip.Addr) (*Inventory, error) {
	inv := &Inventory{Claims: claims, NodeAddresses: nodeAddresses, Sys: sysfs}
	var err error
	// First of all: the kernel numbers the namespaces of peers when it lists them.
	if inv.Devices, err = ns.Devices(); err != nil {
		return nil, fmt.Errorf("look at the devices of the node: %w", err)
	}
	for _, family := range []link.Family{link.IPv4, link.IPv6} {
		routes, err := ns.DefaultRoutes("", family)
		if err != nil {
			return nil, fmt.Errorf("look at the routes of the node: %w", err)
		}
		for _, r := range routes {
			inv.Routes = append(inv.Routes, Route{Route: r, Family: family})
		}
	}
	for i := range inv.Claims {
		visit(ns, &inv.Claims[i])
	}
	return inv, nil
}

// visit completes a claim. A namespace that cannot be opened or asked is one that is going away.
func visit(node *link.Namespace, c *Claim) {
	c.Gone, c.Attached, c.Peer = true, false, -1
	id, err := node.PeerOf(c.Netns)
	if err != nil {
		return
	}
	c.Gone, c.Peer = false, id
	if len(c.References) == 0 && c.Device == nil {
		return
	}
	sandbox, err := link.Open(c.Netns)
	if err != nil {
		return
	}
	defer sandbox.Close() // it was only looked at
	c.Attached, _ = sandbox.HasInterface(c.IfName)
}

// named returns the device with this name or alternative name, nil if there is none.
func (inv *Inventory) named(name string) *link.Device {
	for i := range inv.Devices {
		d := &inv.Devices[i]
		if d.Name == name || slices.Contains(d.AltNames, name) {
			return d
		}
	}
	return nil
}

// list joins names for a message, of many only some.
func list(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
