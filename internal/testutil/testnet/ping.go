package testnet

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pingLimit bounds Ping. pingEvery is the interval of its requests: the first ones can be lost while bridges and
	// neighbour tables learn.
	pingLimit = 3 * time.Second
	pingEvery = 200 * time.Millisecond

	echoHeader = 8 // type, code, checksum, identifier, sequence number: RFC 792 and RFC 4443
)

// Ping sends echo requests to addr from inside the namespace until a reply arrives. It returns an error after three
// seconds without a reply, or if there is no route. A link-local address needs its interface: fe80::1%eth0.
func Ping(from *NS, addr string) error {
	to, err := netip.ParseAddr(addr)
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	p := pinger{to: to.Unmap()}
	if err := p.open(from.Path); err != nil {
		return fmt.Errorf("ping %s: %w", addr, err)
	}
	defer unix.Close(p.fd)
	if err := p.run(); err != nil {
		return fmt.Errorf("ping %s: %w", addr, err)
	}
	return nil
}

// pinger sends echo requests through one raw socket.
type pinger struct {
	to   netip.Addr
	zone uint32 // interface index for link-local addresses
	fd   int
}

// open creates the socket inside the namespace. The socket stays in that namespace regardless of the calling thread.
// open uses a goroutine of its own, so that a thread which cannot return to its namespace ends with it.
func (p *pinger) open(path string) error {
	opened := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			opened <- err
			return
		}
		defer unix.Close(home)
		if err = enter(path); err == nil {
			err = p.socket()
		}
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		opened <- err
	}()
	return <-opened
}

// socket opens the socket in the namespace of the calling thread.
func (p *pinger) socket() (err error) {
	if zone := p.to.Zone(); zone != "" {
		dev, err := net.InterfaceByName(zone)
		if err != nil {
			return fmt.Errorf("find interface %q: %w", zone, err)
		}
		p.zone = uint32(dev.Index)
	}
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if p.to.Is6() {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	if p.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol); err != nil {
		return fmt.Errorf("open raw socket: %w", err)
	}
	every := unix.NsecToTimeval(pingEvery.Nanoseconds())
	if err := unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &every); err != nil {
		unix.Close(p.fd)
		return fmt.Errorf("set receive time-out: %w", err)
	}
	return nil
}

// run alternates between requests and waiting for a reply.
func (p *pinger) run() error {
	// The payload distinguishes replies to this pinger from others in the namespace.
	payload := make([]byte, 16)
	if _, err := rand.Read(payload); err != nil {
		return err
	}
	for deadline := time.Now().Add(pingLimit); time.Now().Before(deadline); {
		if err := unix.Sendto(p.fd, p.request(payload), 0, p.sockaddr()); err != nil {
			return fmt.Errorf("send echo request: %w", err)
		}
		answered, err := p.listen(payload, time.Now().Add(pingEvery))
		if answered || err != nil {
			return err
		}
	}
	return fmt.Errorf("no answer within %v", pingLimit)
}

// listen reads until the reply arrives or the time is over.
func (p *pinger) listen(payload []byte, until time.Time) (bool, error) {
	buf := make([]byte, 1500)
	for time.Now().Before(until) {
		n, sender, err := unix.Recvfrom(p.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("receive echo reply: %w", err)
		}
		if p.isReply(buf[:n], sender, payload) {
			return true, nil
		}
	}
	return false, nil
}

// isReply reports whether a packet is the reply. A socket that pings its own namespace also receives the request.
func (p *pinger) isReply(packet []byte, sender unix.Sockaddr, payload []byte) bool {
	var from netip.Addr
	kind := byte(0) // echo reply
	switch sender := sender.(type) {
	case *unix.SockaddrInet4:
		from = netip.AddrFrom4(sender.Addr)
		if len(packet) == 0 {
			return false
		}
		packet = packet[min(len(packet), int(packet[0]&0x0f)*4):] // a raw IPv4 socket delivers the IP header too
	case *unix.SockaddrInet6:
		from, kind = netip.AddrFrom16(sender.Addr), 129
	}
	return from == p.to.WithZone("") && len(packet) >= echoHeader && packet[0] == kind &&
		bytes.Equal(packet[echoHeader:], payload)
}

// request returns an echo request. For ICMPv6 the kernel fills in the checksum.
func (p *pinger) request(payload []byte) []byte {
	packet := append(make([]byte, echoHeader), payload...)
	if p.to.Is6() {
		packet[0] = 128
		return packet
	}
	packet[0] = 8
	var sum uint32
	for i := 0; i < len(packet); i += 2 { // the length is even
		sum += uint32(packet[i])<<8 | uint32(packet[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	packet[2], packet[3] = ^byte(sum>>8), ^byte(sum)
	return packet
}

func (p *pinger) sockaddr() unix.Sockaddr {
	if p.to.Is4() {
		return &unix.SockaddrInet4{Addr: p.to.As4()}
	}
	return &unix.SockaddrInet6{Addr: p.to.As16(), ZoneId: p.zone}
}
