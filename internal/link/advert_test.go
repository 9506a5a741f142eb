package link_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"multus/internal/link"
	"multus/internal/testutil/testnet"
)

// advertLimit bounds the time in which the kernel acts on a router advertisement.
const advertLimit = 10 * time.Second

// TestAdvertisedDefault uses a real router that sends advertisements. After DropDefault, its default route must not
// come back (multus-cni#749), while everything else in the advertisements still arrives.
func TestAdvertisedDefault(t *testing.T) {
	p := newPod(t)
	testnet.Addr(t, p.router, "r0", "fe80::1/64")
	p.Do(t, func() {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_ra", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	})
	changes := watchRoutes(t, p.NS)
	learnt := func() bool { return len(p.routes(t, "eth0", link.IPv6)) > 0 }

	advertise(t, p.router, "r0", "2001:db8:a::/64", changes, learnt)
	got := p.routes(t, "eth0", link.IPv6)
	if len(got) != 1 || !strings.HasPrefix(got[0], "default via fe80::1 dev eth0 proto 9") {
		t.Fatalf("learnt %q, want one route of protocol 9", got)
	}
	if err := p.ns.DropDefault("eth0", link.IPv6); err != nil {
		t.Fatal(err)
	}
	p.want(t)

	// The kernel processes the router before the prefix. Once the prefix exists, the router has been ignored.
	const prefix = "2001:db8:b::/64"
	advertise(t, p.router, "r0", prefix, changes, func() bool { return hasRoute(t, p.NS, prefix) })
	p.want(t)
}

// watchRoutes reports changes of the routes of ns until the test ends.
func watchRoutes(t *testing.T, ns *testnet.NS) <-chan netlink.RouteUpdate {
	t.Helper()
	handle, err := netns.GetFromPath(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	changes, done := make(chan netlink.RouteUpdate, 64), make(chan struct{})
	if err := netlink.RouteSubscribeAt(handle, changes, done); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(done)
		for range changes { // until the subscription has ended
		}
	})
	return changes
}

// hasRoute reports whether there is an IPv6 route to exactly dst.
func hasRoute(t *testing.T, ns *testnet.NS, dst string) (found bool) {
	t.Helper()
	ns.Do(t, func() {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			found = found || r.Dst != nil && r.Dst.String() == dst
		}
	})
	return found
}

// advertise sends router advertisements until the condition holds.
func advertise(t *testing.T, ns *testnet.NS, dev, prefix string, changes <-chan netlink.RouteUpdate,
	holds func() bool,
) {
	t.Helper()
	stop := testnet.Advertise(t, ns, dev, prefix)
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), advertLimit)
	defer cancel()
	for !holds() {
		select {
		case <-changes:
		case <-ctx.Done():
			t.Fatalf("no route was added after the advertisement within %v", advertLimit)
		}
	}
}
