package testnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// advertEvery is the interval at which Advertise repeats its message. Messages that are sent while a link comes up are
// lost.
const advertEvery = 100 * time.Millisecond

// Advertise simulates a router. It advertises itself and an on-link prefix from an interface with the address fe80::1,
// repeatedly, until stop is called or the test ends.
func Advertise(tb testing.TB, ns *NS, dev, prefix string) (stop func()) {
	tb.Helper()
	fd, err := -1, error(nil)
	ns.Do(tb, func() { fd, err = advertiser(dev) })
	if err != nil {
		tb.Fatal(err)
	}
	message := advertisement(netip.MustParsePrefix(prefix))
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer unix.Close(fd)
		again := time.NewTicker(advertEvery)
		defer again.Stop()
		for {
			_ = unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: netip.IPv6LinkLocalAllNodes().As16()}) // best effort
			select {
			case <-end:
				return
			case <-again.C:
			}
		}
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			close(end)
			<-ended
		}
	}
	tb.Cleanup(stop)
	return stop
}

// advertiser returns a socket that sends as routers must: from a link-local address and with hop limit 255 (RFC 4861,
// 4.2).
func advertiser(dev string) (int, error) {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return -1, fmt.Errorf("advertise from %s: %w", dev, err)
	}
	index := link.Attrs().Index
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, fmt.Errorf("advertise from %s: %w", dev, err)
	}
	err = unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr("fe80::1").As16(), ZoneId: uint32(index)})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
	}
	if err != nil {
		_ = unix.Close(fd) // it was never used
		return -1, fmt.Errorf("advertise from %s: %w", dev, err)
	}
	return fd, nil
}

// advertisement returns a message that offers a default route and a prefix for half an hour (RFC 4861, 4.2 and 4.6.2).
// The kernel adds the checksum.
func advertisement(prefix netip.Prefix) []byte {
	const seconds = 1800
	message := make([]byte, 16+32)
	message[0] = 134
	binary.BigEndian.PutUint16(message[6:], seconds)
	option := message[16:]
	option[0], option[1] = 3, 4                      // prefix information, 4 units of 8 bytes
	option[2], option[3] = byte(prefix.Bits()), 0x80 // on-link, no autoconfiguration of addresses
	binary.BigEndian.PutUint32(option[4:], seconds)
	binary.BigEndian.PutUint32(option[8:], seconds)
	addr := prefix.Addr().As16()
	copy(option[16:], addr[:])
	return message
}
