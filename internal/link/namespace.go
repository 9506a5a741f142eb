// Package link looks into the network namespace of a pod and puts its default routes right.
//
// It does not attach anything, for that is the delegates' work, and it decides nothing: which interface is to have
// the default route is in the plan.
//
// internal/engine, internal/doctor and the hosts may import it; nothing else imports netlink or netns (style.md
// rule 24). It uses the standard library, netlink and golang.org/x/sys/unix only, because it is linked into the
// small plugin.
package link

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoNamespace is what the error of Open wraps if the path is missing or is something else than a network
// namespace: the sandbox is gone, which DEL takes for success and ADD does not.
var ErrNoNamespace = errors.New("no network namespace")

// ErrNotNamespace is what the error of Open wraps, beside ErrNoNamespace, if something else is at the path. Where the
// runtime mounts its namespaces that is what an unmounted one leaves behind; seen from another mount namespace it is
// what a namespace that is alive looks like.
var ErrNotNamespace = errors.New("something else is there")

// errEnded is what Do returns if its callback ended the goroutine (runtime.Goexit) and so returned nothing.
var errEnded = errors.New("callback did not return")

// Namespace is an open network namespace. It stays usable, and its links stay alive, until Close, even if the path
// is removed meanwhile. It is not safe for concurrent use.
type Namespace struct {
	path   string
	fd     int
	handle *netlink.Handle // nil before the first request: many users only want to know whether the path is good
}

// Open opens the network namespace that path, such as /var/run/netns/x or /proc/1/ns/net, stands for. The caller
// closes it. If there is none, the error wraps ErrNoNamespace.
func Open(path string) (*Namespace, error) {
	// O_NONBLOCK: the path comes from outside, and opening a FIFO would wait for a writer.
	fd, err := openFile(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("open network namespace %q: %w: %w", path, ErrNoNamespace, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace %q: %w", path, err)
	}
	if err := checkNetwork(fd); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open network namespace %q: %w", path, err)
	}
	return &Namespace{path: path, fd: fd}, nil
}

// checkNetwork tells whether fd is a network namespace. What is left of a /var/run/netns/x after the namespace was
// unmounted is an empty file, and only the filesystem type tells the difference.
func checkNetwork(fd int) error {
	var stat unix.Statfs_t
	if err := unix.Fstatfs(fd, &stat); err != nil {
		return fmt.Errorf("read filesystem type: %w", err)
	}
	if stat.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("%w: %w: not a namespace (filesystem type %#x)", ErrNoNamespace, ErrNotNamespace, stat.Type)
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if errors.Is(err, unix.ENOTTY) {
		return nil // before Linux 4.11 a namespace cannot be asked; entering another kind will fail
	}
	if err != nil {
		return fmt.Errorf("read namespace type: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w: %w: a namespace of another type (%#x)", ErrNoNamespace, ErrNotNamespace, kind)
	}
	return nil
}

// Close lets the namespace go.
func (n *Namespace) Close() error {
	if n.handle != nil {
		n.handle.Close()
		n.handle = nil
	}
	fd := n.fd
	n.fd = -1
	if fd < 0 {
		return fmt.Errorf("close network namespace %q: %w", n.path, os.ErrClosed)
	}
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close network namespace %q: %w", n.path, err)
	}
	return nil
}

// Path is the path that was opened.
func (n *Namespace) Path() string { return n.path }

// Do runs fn on a thread inside the namespace and returns its error. fn runs in another goroutine, locked to its
// thread. What fn starts with go is not inside; sockets, files below /proc/sys/net that it opens and processes that
// it starts are. If the thread cannot go back, it ends instead of running anything else.
func (n *Namespace) Do(fn func() error) error {
	if n.fd < 0 {
		return fmt.Errorf("enter network namespace %q: %w", n.path, os.ErrClosed)
	}
	done := make(chan error, 1)
	go func() {
		err := errEnded
		defer func() { done <- err }()
		err = n.visit(fn)
	}()
	return <-done
}

// visit is Do on the goroutine that may be thrown away: one that ends locked takes its thread with it.
func (n *Namespace) visit(fn func() error) (err error) {
	runtime.LockOSThread()
	home, err := openFile("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer func() {
		back := unix.Setns(home, unix.CLONE_NEWNET)
		unix.Close(home)
		if back == nil {
			runtime.UnlockOSThread()
		}
		// Otherwise nothing is wrong for the caller: fn has run where it should.
	}()
	err = unix.Setns(n.fd, unix.CLONE_NEWNET)
	if errors.Is(err, unix.EPERM) && sameFile(n.fd, home) {
		return fn() // who may not enter any is in this one already: a pod in the network of its node
	}
	if err != nil {
		return fmt.Errorf("enter network namespace %q: %w", n.path, err)
	}
	return fn()
}

// sameFile tells whether two descriptors are of the same namespace.
func sameFile(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// netlink returns the handle, whose socket belongs to the namespace from whichever thread it is used. It is made
// inside Do and not with netlink.NewHandleAt, which ignores a thread that could not go back and lets it run other
// goroutines.
func (n *Namespace) netlink() (*netlink.Handle, error) {
	if n.handle != nil {
		return n.handle, nil
	}
	err := n.Do(func() (err error) {
		n.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return n.handle, nil
}

// openFile is open(2), repeated when a signal interrupts it, without the poller that os.File would set up.
func openFile(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
