package link_test

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"multus/internal/link"
	"multus/test/testnet"
)

const (
	// advertLimit is how long the kernel may take to act on a router advertisement, advertEvery how often it is
	// repeated until then: the first can be lost while the link comes up.
	advertLimit = 10 * time.Second
	advertEvery = 100 * time.Millisecond
)

// TestAdvertisedDefault has a real router advertise itself: once dropped, its default route must stay away
// (pains.md P18), while whatever else it advertises still arrives.
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

	// The kernel looks at the router before it looks at the prefix, so once the prefix is there the router has been
	// ignored.
	const prefix = "2001:db8:b::/64"
	advertise(t, p.router, "r0", prefix, changes, func() bool { return hasRoute(t, p.NS, prefix) })
	p.want(t)
}

// watchRoutes reports that something has changed in the routes of ns, until the test ends.
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

// hasRoute tells whether there is an IPv6 route to exactly dst.
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

// advertise sends advertisements from the interface until the condition holds.
func advertise(t *testing.T, ns *testnet.NS, dev, prefix string, changes <-chan netlink.RouteUpdate, holds func() bool) {
	t.Helper()
	fd, err := -1, error(nil)
	ns.Do(t, func() { fd, err = advertiser(indexOf(t, dev)) })
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithTimeout(t.Context(), advertLimit)
	defer cancel()
	again := time.NewTicker(advertEvery)
	defer again.Stop()
	allNodes := &unix.SockaddrInet6{Addr: netip.IPv6LinkLocalAllNodes().As16()}
	for {
		if err := unix.Sendto(fd, advertisement(prefix), 0, allNodes); err != nil {
			t.Fatal(err)
		}
		for wait := true; wait; {
			if holds() {
				return
			}
			select {
			case <-changes:
			case <-again.C:
				wait = false
			case <-ctx.Done():
				t.Fatalf("nothing came of the advertisement within %v", advertLimit)
			}
		}
	}
}

// advertiser is a socket that sends as a router has to: from a link-local address, with hop limit 255 (RFC 4861,
// 4.2).
func advertiser(index int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, err
	}
	from := &unix.SockaddrInet6{Addr: netip.MustParseAddr("fe80::1").As16(), ZoneId: uint32(index)}
	if err = unix.Bind(fd, from); err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// advertisement offers a default route and a prefix for half an hour (RFC 4861, 4.2 and 4.6.2). The kernel adds the
// checksum.
func advertisement(prefix string) []byte {
	const seconds = 1800
	message := make([]byte, 16+32)
	message[0] = 134
	binary.BigEndian.PutUint16(message[6:], seconds)
	option := message[16:]
	option[0], option[1] = 3, 4 // prefix information, 4 units of 8 bytes
	p := netip.MustParsePrefix(prefix)
	option[2], option[3] = byte(p.Bits()), 0x80 // on-link, no address wanted
	binary.BigEndian.PutUint32(option[4:], seconds)
	binary.BigEndian.PutUint32(option[8:], seconds)
	addr := p.Addr().As16()
	copy(option[16:], addr[:])
	return message
}
