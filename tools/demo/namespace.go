package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceDir is where container runtimes keep the network namespaces of pods.
const namespaceDir = "/run/netns"

// namespace is a network namespace that a file keeps alive, and a netlink handle into it.
type namespace struct {
	*netlink.Handle
	path string
	fd   netns.NsHandle
}

func newNamespace(name string) (*namespace, error) {
	ns := &namespace{path: filepath.Join(namespaceDir, name)}
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	if err := os.WriteFile(ns.path, nil, 0o444); err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", ns.path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	if ns.fd, err = netns.GetFromPath(ns.path); err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	if ns.Handle, err = netlink.NewHandleAt(ns.fd, unix.NETLINK_ROUTE); err != nil {
		return nil, errors.Join(fmt.Errorf("open namespace %s: %w", name, err), ns.fd.Close())
	}
	return ns, setUp(ns.Handle, "lo")
}

// remove removes the namespace as a runtime does when a pod has ended.
func (ns *namespace) remove() error {
	ns.Close()
	return errors.Join(ns.fd.Close(), unix.Unmount(ns.path, unix.MNT_DETACH), os.Remove(ns.path))
}

// do runs fn inside the namespace. Sockets that fn opens stay there.
func (ns *namespace) do(fn func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(ns.fd); err != nil {
			return fmt.Errorf("enter %s: %w", ns.path, err)
		}
		return fn()
	})
}

// onOwnThread runs fn on its own thread. The thread ends with fn, so nothing else runs in the namespaces to which fn
// moves it.
func onOwnThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}

func setUp(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// cable joins an interface of the node to one outside and adds addresses to the outer one.
func cable(node *netlink.Handle, inner string, outside *namespace, outer string, addresses ...string) error {
	pair := &netlink.Veth{LinkAttrs: named(inner), PeerName: outer, PeerNamespace: netlink.NsFd(outside.fd)}
	if err := node.LinkAdd(pair); err != nil {
		return fmt.Errorf("make %s: %w", inner, err)
	}
	link, err := outside.LinkByName(outer)
	if err != nil {
		return fmt.Errorf("find %s: %w", outer, err)
	}
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("address %q: %w", text, err)
		}
		if addr.IP.To4() == nil {
			addr.Flags |= unix.IFA_F_NODAD // no duplicate is possible
		}
		if err := outside.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("give %s the address %s: %w", outer, text, err)
		}
	}
	return errors.Join(setUp(outside.Handle, outer), setUp(node, inner))
}

// links returns the interfaces by name.
func links(h *netlink.Handle) (map[string]netlink.Link, error) {
	list, err := again(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	out := make(map[string]netlink.Link, len(list))
	for _, l := range list {
		out[l.Attrs().Name] = l
	}
	return out, nil
}

// again repeats a dump that the kernel could not complete because of a change at the same time.
func again[T any](list func() (T, error)) (T, error) {
	for range 10 {
		out, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return list()
}
