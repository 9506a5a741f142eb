// Package testnet builds small networks for tests: real network namespaces with paths such as a container runtime
// passes, joined by veth pairs and bridges. Everything is removed when the test ends.
//
// It contains no assertions about the code under test and shares no code with internal/link, so that neither can hide
// errors of the other. It needs root and a Linux kernel. If a requirement is missing, the test is skipped with the
// reason.
//
// Any test may import it. Programs may not.
package testnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace that is kept alive by a bind mount, like /var/run/netns/x, and not by a process.
type NS struct {
	// Path is the file of the bind mount. Delete removes it, as a container runtime does when it removes a sandbox.
	Path string
}

// RequireRoot skips the test with the reason if the process may not create namespaces, mounts and links.
func RequireRoot(tb testing.TB) {
	tb.Helper()
	if uid := os.Geteuid(); uid != 0 {
		tb.Skipf("needs root to create network namespaces; runs as uid %d", uid)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData // version 3 has 64 bits in two halves; both bits below are in the first one
	if err := unix.Capget(&header, &caps[0]); err != nil {
		tb.Fatalf("read capabilities: %v", err)
	}
	for bit, name := range map[int]string{unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN"} {
		if caps[0].Effective&(1<<bit) == 0 {
			tb.Skipf("needs %s to create network namespaces", name)
		}
	}
}

// RequireKernel skips the test with the reason if the kernel cannot create links of this kind (bridge, veth, macvlan,
// vlan, vxlan, tun, dummy, ...). It tries to create one in a new namespace.
func RequireKernel(tb testing.TB, kind string) {
	tb.Helper()
	ns := New(tb)
	var err error
	ns.Do(tb, func() { err = tryKind(kind) })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, fs.ErrNotExist): // no such kind; no /dev/net/tun
		tb.Skipf("kernel %s cannot create links of kind %s: %v", release(), kind, err)
	case err != nil:
		tb.Fatalf("create a link of kind %s: %v", kind, err)
	}
}

// tryKind creates a link in the current namespace.
func tryKind(kind string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "try"
	switch kind {
	case "macvlan", "macvtap", "ipvlan", "vlan": // these kinds need a parent link
		parent := netlink.NewLinkAttrs()
		parent.Name = "parent"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: parent, PeerName: "peer"}); err != nil {
			return fmt.Errorf("create the parent: %w", err)
		}
		link, err := netlink.LinkByName("parent")
		if err != nil {
			return fmt.Errorf("find the parent: %w", err)
		}
		attrs.ParentIndex = link.Attrs().Index
	}
	switch kind {
	case "vlan":
		return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 7})
	case "vxlan":
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7})
	case "tun":
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN})
	case "tap":
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP})
	}
	return netlink.LinkAdd(&netlink.GenericLink{LinkAttrs: attrs, LinkType: kind})
}

// release returns the kernel release, as uname -r prints it.
func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// New creates a namespace with lo up and removes it when the test ends. It skips the test where RequireRoot does.
func New(tb testing.TB) *NS {
	tb.Helper()
	RequireRoot(tb)
	ns := &NS{Path: filepath.Join(tb.TempDir(), "netns")}
	if err := os.WriteFile(ns.Path, nil, 0o444); err != nil {
		tb.Fatalf("create namespace file: %v", err)
	}
	tb.Cleanup(func() {
		if err := Delete(ns.Path); err != nil {
			tb.Error(err)
		}
	})
	onLockedThread(tb, func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() {
		if err := unix.Mount("/proc/thread-self/ns/net", ns.Path, "", unix.MS_BIND, ""); err != nil {
			tb.Fatalf("mount namespace: %v", err)
		}
		up(tb, "lo")
	})
	return ns
}

// Delete removes the path of a namespace, as a container runtime does when it removes a sandbox. The links in it exist
// until the last reference to the namespace is closed. If the namespace does not exist, Delete returns nil.
func Delete(path string) error {
	// EINVAL is returned if nothing is mounted there.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %q: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete namespace: %w", err)
	}
	return nil
}

// Do runs fn inside the namespace in the caller's goroutine, so fn may end the test. Goroutines that fn starts are not
// inside the namespace, but processes are.
func (ns *NS) Do(tb testing.TB, fn func()) {
	tb.Helper()
	onLockedThread(tb, func() error { return enter(ns.Path) }, fn)
}

// enter moves the calling thread, which must be locked, into the namespace at path.
func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %q: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %q: %w", path, err)
	}
	return nil
}

// onLockedThread runs leave and then fn on a locked thread. It moves the thread back even if fn ends the test.
func onLockedThread(tb testing.TB, leave func() error, fn func()) {
	tb.Helper()
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		tb.Fatalf("open own namespace: %v", err)
	}
	defer func() {
		err := unix.Setns(home, unix.CLONE_NEWNET)
		unix.Close(home)
		if err != nil {
			// The thread stays locked, so that it ends with the test's goroutine and runs nothing else.
			tb.Fatalf("return to own namespace: %v", err)
		}
		runtime.UnlockOSThread()
	}()
	if err := leave(); err != nil {
		tb.Fatal(err)
	}
	fn()
}

// Veth joins two namespaces with a veth pair and sets both ends up. a and b may be the same.
func Veth(tb testing.TB, a *NS, nameA string, b *NS, nameB string) {
	tb.Helper()
	peer, err := unix.Open(b.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("open namespace %q: %v", b.Path, err)
	}
	defer unix.Close(peer)
	a.Do(tb, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = nameA
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(peer)}
		if err := netlink.LinkAdd(pair); err != nil {
			tb.Fatalf("create veth %s - %s: %v", nameA, nameB, err)
		}
		up(tb, nameA)
	})
	b.Do(tb, func() { up(tb, nameB) })
}

// Bridge creates a bridge without ports and sets it up.
func Bridge(tb testing.TB, ns *NS, name string) {
	tb.Helper()
	ns.Do(tb, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			tb.Fatalf("create bridge %s: %v", name, err)
		}
		up(tb, name)
	})
}

// Addr adds addresses, each with its prefix length, to an interface. IPv6 addresses can be used at once: duplicate
// address detection is disabled for them.
func Addr(tb testing.TB, ns *NS, name string, cidr ...string) {
	tb.Helper()
	ns.Do(tb, func() {
		link := find(tb, name)
		for _, text := range cidr {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				tb.Fatalf("parse address %q: %v", text, err)
			}
			if netip.MustParsePrefix(text).Addr().Is6() {
				addr.Flags |= unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				tb.Fatalf("add address %s to %s: %v", text, name, err)
			}
		}
	})
}

// RemoveAddr removes an address, with its prefix length, from an interface.
func RemoveAddr(tb testing.TB, ns *NS, name, cidr string) {
	tb.Helper()
	ns.Do(tb, func() {
		addr, err := netlink.ParseAddr(cidr)
		if err == nil {
			err = netlink.AddrDel(find(tb, name), addr)
		}
		if err != nil {
			tb.Fatalf("remove address %s from %s: %v", cidr, name, err)
		}
	})
}

// up sets a link of the current namespace up.
func up(tb testing.TB, name string) {
	tb.Helper()
	if err := netlink.LinkSetUp(find(tb, name)); err != nil {
		tb.Fatalf("set %s up: %v", name, err)
	}
}

// find returns a link of the current namespace.
func find(tb testing.TB, name string) netlink.Link {
	tb.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		tb.Fatalf("find interface %s: %v", name, err)
	}
	return link
}
