package testnet

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Move moves an interface into another namespace, where it keeps its name. The kernel does the same with the hardware
// in a namespace that ends, except that it always moves it to the machine's initial namespace.
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

// DefaultRoute adds a default route of the gateway's family through an interface that is up.
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

// On creates a link of kind macvlan or vxlan on top of another link.
func On(tb testing.TB, ns *NS, lower, name, kind string) {
	tb.Helper()
	ns.Do(tb, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		var link netlink.Link
		switch kind {
		case "macvlan":
			attrs.ParentIndex = find(tb, lower).Attrs().Index
			link = &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
		case "vxlan":
			link = &netlink.Vxlan{LinkAttrs: attrs, VtepDevIndex: find(tb, lower).Attrs().Index, VxlanId: 7, Port: 4789}
		default:
			tb.Fatalf("kind %q", kind)
		}
		if err := netlink.LinkAdd(link); err != nil {
			tb.Fatalf("create %s %s on %s: %v", kind, name, lower, err)
		}
	})
}

// Port makes a link a port of an existing bridge.
func Port(tb testing.TB, ns *NS, name, bridge string) {
	tb.Helper()
	ns.Do(tb, func() {
		if err := netlink.LinkSetMaster(find(tb, name), find(tb, bridge)); err != nil {
			tb.Fatalf("make %s a port of %s: %v", name, bridge, err)
		}
	})
}

// Rename renames an interface. The interface may be up.
func Rename(tb testing.TB, ns *NS, name, to string) {
	tb.Helper()
	ns.Do(tb, func() {
		link := find(tb, name)
		if err := netlink.LinkSetDown(link); err != nil {
			tb.Fatalf("set %s down: %v", name, err)
		}
		if err := netlink.LinkSetName(link, to); err != nil {
			tb.Fatalf("rename %s to %s: %v", name, to, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			tb.Fatalf("set %s up: %v", to, err)
		}
	})
}

// Remove deletes an interface.
func Remove(tb testing.TB, ns *NS, name string) {
	tb.Helper()
	ns.Do(tb, func() {
		if err := netlink.LinkDel(find(tb, name)); err != nil {
			tb.Fatalf("delete %s: %v", name, err)
		}
	})
}

// HardwareAddr sets the MAC address of an interface.
func HardwareAddr(tb testing.TB, ns *NS, name, mac string) {
	tb.Helper()
	addr, err := net.ParseMAC(mac)
	if err != nil {
		tb.Fatalf("parse MAC address %q: %v", mac, err)
	}
	ns.Do(tb, func() {
		if err := netlink.LinkSetHardwareAddr(find(tb, name), addr); err != nil {
			tb.Fatalf("set MAC address of %s: %v", name, err)
		}
	})
}

// Interfaces returns the sorted names of the interfaces of a namespace, without lo. It reads /proc, which shows the
// namespace of the thread, because a netlink dump can be interrupted.
func Interfaces(tb testing.TB, ns *NS) []string {
	tb.Helper()
	var b []byte
	var err error
	ns.Do(tb, func() { b, err = os.ReadFile("/proc/thread-self/net/dev") })
	if err != nil {
		tb.Fatalf("list interfaces: %v", err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name != "lo" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Interrupted reports whether the kernel interrupts a netlink dump of the interfaces of a namespace, because one of
// them changes at the same time.
func Interrupted(tb testing.TB, ns *NS) (interrupted bool) {
	tb.Helper()
	ns.Do(tb, func() {
		_, err := netlink.LinkList()
		if interrupted = errors.Is(err, netlink.ErrDumpInterrupted); err != nil && !interrupted {
			tb.Fatalf("list interfaces: %v", err)
		}
	})
	return interrupted
}
