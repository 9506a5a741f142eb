package link

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// errEnded is returned by Do if its callback ended the goroutine (runtime.Goexit) and returned nothing.
var errEnded = errors.New("callback did not return")

// Namespace is an open network namespace. It stays usable, and its links stay alive, until Close, even if the path is
// removed in the meantime. It is not safe for concurrent use.
type Namespace struct {
	path   string
	fd     int
	handle *netlink.Handle // nil before the first request: many users only check whether the path is valid
}

// Open opens the network namespace at path, such as /var/run/netns/x or /proc/1/ns/net. The caller must close it. If
// the namespace does not exist, the error wraps ErrNoNamespace.
func Open(path string) (*Namespace, error) {
	// O_NONBLOCK: the path is input, and opening a FIFO would block until it has a writer.
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

// checkNetwork returns an error if fd is not a network namespace. After an unmount, /var/run/netns/x is an empty file,
// and only the type of the file system differs.
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
		return nil // before Linux 4.11 the type cannot be read; entering a namespace of another type will fail
	}
	if err != nil {
		return fmt.Errorf("read namespace type: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w: %w: a namespace of another type (%#x)", ErrNoNamespace, ErrNotNamespace, kind)
	}
	return nil
}

// Close closes the namespace.
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

// Path returns the path that was opened.
func (n *Namespace) Path() string { return n.path }

// Do runs fn on a thread inside the namespace and returns its error. fn runs in another goroutine, which is locked to
// its thread. Goroutines that fn starts are not inside the namespace. Sockets and files below /proc/sys/net that it
// opens are, and so are processes that it starts. If the thread cannot return to its own namespace, it ends and runs
// nothing else.
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

// visit is Do on a goroutine that may be discarded: a goroutine that ends while locked ends its thread.
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
		// If this fails, it is not an error for the caller: fn has run in the right namespace.
	}()
	err = unix.Setns(n.fd, unix.CLONE_NEWNET)
	if errors.Is(err, unix.EPERM) && sameFile(n.fd, home) {
		return fn() // without the permission to enter namespaces: a pod in the network of its node is already inside
	}
	if err != nil {
		return fmt.Errorf("enter network namespace %q: %w", n.path, err)
	}
	return fn()
}

// sameFile reports whether two descriptors refer to the same namespace.
func sameFile(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// netlink returns the handle. Its socket belongs to the namespace, whichever thread uses it. It is created inside Do
// and not with netlink.NewHandleAt, which ignores that a thread could not return and lets it run other goroutines.
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

// openFile is open(2), repeated after an interrupt by a signal, without the poller that os.File would use.
func openFile(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
