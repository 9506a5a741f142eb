// Package link inspects the network namespace of a pod or of the node, sets default routes and renames interfaces.
//
// It attaches nothing, which is the job of the delegates, and it decides nothing: the plan says which interface gets
// the default route.
//
// It is the only package that imports netlink or netns. Besides these it uses only the standard library and
// golang.org/x/sys/unix, because it is linked into the small plugin.
package link

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ErrNoNamespace is wrapped by the error of Open if path does not exist or is not a network namespace: the sandbox is
// gone. For DEL this is success, for ADD it is not.
var ErrNoNamespace = errors.New("no network namespace")

// ErrNotNamespace is wrapped in addition to ErrNoNamespace by the error of Open if path exists and is not a network
// namespace. In the mount namespace in which the runtime mounts its namespaces, this is what an unmounted one leaves
// behind. In another mount namespace, a namespace that is alive looks the same.
var ErrNotNamespace = errors.New("something else is there")

// ErrNoInterface is wrapped by errors if the namespace has no interface of the given name.
var ErrNoInterface = errors.New("no such interface")

// NodeNamespace is the path of the network namespace of the calling thread. This is the namespace of the node, where
// the runtime runs its plugins. The namespace of the process would be that of its first thread, which may be inside Do.
const NodeNamespace = "/proc/thread-self/ns/net"

// Interface is an interface of a namespace.
type Interface struct {
	Index int
	Name  string
	MAC   string // as 02:00:00:00:00:01, "" if it has none
	MTU   int
	Type  string // veth, macvlan, ..., "device" for hardware
	Up    bool   // set up, with or without a carrier
	Addrs []netip.Prefix
}

// Device is an interface with the properties that decide whether it can be given to a pod, and those that identify it
// later.
type Device struct {
	Interface
	AltNames []string
	// Alias is the alias of the interface. The host-device plugin stores the name on the node in it.
	Alias string
	// Permanent is the permanent MAC address. It is "" for virtual interfaces, which have none.
	Permanent string
	// Bus is the address on the bus, as in ethtool -i (0000:03:00.0). It is "" for a device without a bus.
	Bus string
	// Master is the index of the bridge, bond, ... to which the interface belongs, 0 for none.
	Master int
	// Lower is the index of the interface below it (of a macvlan, vlan, vxlan, ...) in this namespace, 0 for none.
	Lower int
	// Peer is the ID in this namespace (RTM_GETNSID) of the namespace with the other end, or with the interface below. It
	// is -1 if that is in this namespace or does not exist.
	Peer     int
	Loopback bool
	Carrier  bool
}

// State is an interface as the kernel has it now.
type State struct {
	Interface // without Addrs
	AltNames  []string
	// Addresses has all addresses, except those that the kernel does not use because another host has them.
	Addresses []Address
}

// Address is an address of an interface.
type Address struct {
	Prefix netip.Prefix
	// Lasting reports whether it is an address of global scope that stays until it is removed. Link-local addresses,
	// temporary ones, those that are still checked for duplicates, and those with a lifetime do not last: router
	// advertisements and DHCP clients give the latter.
	Lasting bool
}

// Family is an address family. Operations on one family never change the other (behaviour D33).
type Family int

// The two families that have default routes, with the numbers of AF_INET and AF_INET6 on Linux.
const (
	IPv4 Family = 2
	IPv6 Family = 10
)

// String returns IPv4 or IPv6.
func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return fmt.Sprintf("family %d", int(f))
}

// Route is a default route, or one nexthop of a multipath default route.
type Route struct {
	Gateway   netip.Addr // the zero Addr for a route without a gateway; an IPv4 route may have an IPv6 gateway
	Metric    int
	Protocol  int // origin of the route: 2 kernel, 3 boot (ip, CNI plugins), 4 static, 9 router advertisement, ...
	Interface string
}

// String returns the route as ip route prints it.
func (r Route) String() string {
	var b strings.Builder
	b.WriteString("default")
	if r.Gateway.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Gateway)
	}
	fmt.Fprintf(&b, " dev %s proto %d", r.Interface, r.Protocol)
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	return b.String()
}
