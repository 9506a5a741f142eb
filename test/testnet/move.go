package testnet

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Move moves an interface into another namespace, where it keeps its name: what the kernel does with the hardware in a
// namespace that ends, except that it moves it to the machine's first namespace, whatever node a test has.
func Move(tb testing.TB, from *NS, name string, to *NS) {
	tb.Helper()
	target, err := unix.Open(to.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("open namespace %q: %v", to.Path, err)
	}
	defer unix.Close(target)
	from.Do(tb, func() {
		if err := netlink.LinkSetNsFd(find(tb, name), target); err != nil {
			tb.Fatalf("move %s: %v", name, err)
		}
	})
}

// DefaultRoute makes a default route of the gateway's family through an interface that is up.
func DefaultRoute(tb testing.TB, ns *NS, name, gateway string, metric int) {
	tb.Helper()
	dst := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	gw := net.ParseIP(gateway)
	if gw.To4() == nil {
		dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	ns.Do(tb, func() {
		r := &netlink.Route{LinkIndex: find(tb, name).Attrs().Index, Dst: dst, Gw: gw, Priority: metric}
		if err := netlink.RouteAdd(r); err != nil {
			tb.Fatalf("make default route via %s on %s: %v", gateway, name, err)
		}
	})
}
