package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	// pingLimit bounds the wait for a reply. A request is sent every pingEvery, because the first ones may be lost while
	// bridges and neighbour tables learn.
	pingLimit = 5 * time.Second
	pingEvery = 500 * time.Millisecond
)

// pings sends a ping on each network, only through the interface of that network.
func (d *demo) pings(ctx context.Context, interfaces []attached) ([]string, error) {
	peers, err := d.peers()
	if err != nil {
		return nil, err
	}
	var remarks []string
	for _, a := range interfaces {
		for _, own := range a.addresses {
			found := false
			for _, peer := range peers {
				if !own.Contains(peer) {
					continue
				}
				found = true
				took, err := ping(ctx, d.sandbox, a.name, peer)
				if err != nil {
					return nil, fmt.Errorf("ping %s over %s: %w", peer, a.name, err)
				}
				remarks = append(remarks,
					fmt.Sprintf("%s  %-18s → %-18s %7.3f ms", a.name, own.Addr(), peer, took.Seconds()*1000))
			}
			if !found {
				return nil, fmt.Errorf("no reply on the network %s of %s: the demo's node and what is outside of it have %v",
					own.Masked(), a.name, peers)
			}
		}
	}
	return remarks, nil
}

// ping returns the round-trip time.
func ping(ctx context.Context, from *namespace, dev string, to netip.Addr) (time.Duration, error) {
	network, protocol, kind, reply := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if to.Is6() {
		network, protocol, kind, reply = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	bind := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		cerr := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), dev) })
		return errors.Join(cerr, err)
	}}
	var conn net.PacketConn
	err := from.do(func() (err error) {
		conn, err = bind.ListenPacket(ctx, network, "")
		return err
	})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	id := os.Getpid() & 0xffff
	buf := make([]byte, 1500)
	limit := time.Now().Add(pingLimit)
	for seq := 1; time.Now().Before(limit) && ctx.Err() == nil; seq++ {
		message := icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: seq, Data: []byte("multus demo")}}
		b, err := message.Marshal(nil) // the kernel fills in the checksum of ICMPv6
		if err != nil {
			return 0, err
		}
		sent := time.Now()
		if _, err = conn.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err == nil {
			err = conn.SetReadDeadline(sent.Add(pingEvery))
		}
		for err == nil {
			var n int
			if n, _, err = conn.ReadFrom(buf); err == nil && answers(buf[:n], protocol, reply, id, seq) {
				return time.Since(sent), nil
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) && !transient(err) {
			return 0, err
		}
		time.Sleep(time.Until(sent.Add(pingEvery)))
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return 0, fmt.Errorf("no answer within %s", pingLimit)
}

// transient reports whether an error passes: an IPv6 address is not usable yet, or a neighbour is not resolved yet.
func transient(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
}

func answers(packet []byte, protocol int, reply icmp.Type, id, seq int) bool {
	m, err := icmp.ParseMessage(protocol, packet)
	if err != nil || m.Type != reply {
		return false
	}
	echo, ok := m.Body.(*icmp.Echo)
	return ok && echo.ID == id && echo.Seq == seq
}
