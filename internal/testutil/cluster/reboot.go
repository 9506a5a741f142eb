package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// controlPlane are the servers that keep running when the node reboots, as if they were on other machines.
var controlPlane = []string{"etcd", apiserver, "kube-controller-manager", "kube-scheduler"}

// links are the links that the node has from its start.
var links = []string{"lo", "node0", "node0-far", Uplink, Uplink + "-far"}

// runMount is a tmpfs, so that a reboot empties it.
const runMount = "/run"

// Reboot simulates a loss of power and a boot. It kills all processes of the node except the control plane, and starts
// the node again: nothing is mounted, /run is empty, the links of pods are gone, and the kernel has another boot ID.
// Files stay. between is called before containerd and kubelet start. Reboot returns when they run. The node may not be
// ready yet.
func (c *Cluster) Reboot(ctx context.Context, between func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, name := range []string{"kubelet", "containerd"} {
		c.servers[name].Kill()
		delete(c.servers, name) // so that poll does not report its exit
	}
	if err := c.poll(ctx, "the end of all processes", c.killAll); err != nil {
		return err
	}
	points, err := c.mountPoints()
	if err != nil {
		return err
	}
	if err := c.onNode(func() error { return errors.Join(c.unmountAll(points), removeLinks()) }); err != nil {
		return err
	}
	c.removeCgroups()
	err = errors.Join(c.makeCgroups(),
		os.WriteFile(filepath.Join(c.dir, "volumes", tunableFile(bootID)), []byte(newBootID()+"\n"), 0o600))
	if err != nil {
		return fmt.Errorf("boot again: %w", err)
	}
	if err := between(); err != nil {
		return err
	}
	if err := c.startContainerd(ctx); err != nil {
		return err
	}
	return c.startKubelet(ctx)
}

// Restart ends kubelet or containerd with a signal and starts it again, as the node's service manager does. Only the
// process itself gets the signal, as with KillMode=process of containerd's unit. Containers and running CNI plugins
// stay alive. Restart returns when the server answers.
func (c *Cluster) Restart(ctx context.Context, name string, s syscall.Signal) error {
	start := map[string]func(context.Context) error{"kubelet": c.startKubelet, "containerd": c.startContainerd}[name]
	if start == nil {
		return fmt.Errorf("restart %s: only kubelet and containerd can be restarted", name)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	p := c.servers[name]
	delete(c.servers, name) // so that poll does not report its exit
	if err := syscall.Kill(p.Pid, s); err != nil {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("wait for the end of %s: %w\n%s", name, ctx.Err(), p.Tail())
	}
	return start(ctx)
}

// Kill sends SIGKILL to the processes of this name in containers, and returns their number.
func (c *Cluster) Kill(name string) (int, error) {
	pids, err := c.Contained(name)
	for _, pid := range pids {
		err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	return len(pids), err
}

// Contained returns the processes of this name in containers of the node.
func (c *Cluster) Contained(name string) ([]int, error) {
	var pids []int
	err := c.eachProcess(func(pid int, contained bool) error {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && contained && strings.TrimSpace(string(comm)) == name { // an error: it has ended meanwhile
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}

// Commands returns the processes of the node whose command line begins with the program name and these arguments. The
// directory of the program does not matter.
func (c *Cluster) Commands(name string, args ...string) ([]int, error) {
	want := append([]string{name}, args...)
	var pids []int
	err := c.eachProcess(func(pid int, _ bool) error {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			return nil // it has ended meanwhile
		}
		has := strings.Split(string(line), "\x00")
		has[0] = filepath.Base(has[0])
		if len(has) >= len(want) && slices.Equal(has[:len(want)], want) {
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}

// killAll kills every process of the node except the first one and the control plane. It returns an error while there
// are any left.
func (c *Cluster) killAll() error {
	keep := []int{c.init.Pid}
	for _, name := range controlPlane {
		if p := c.servers[name]; p != nil {
			keep = append(keep, p.Pid)
		}
	}
	left := 0
	err := c.eachProcess(func(pid int, _ bool) error {
		if slices.Contains(keep, pid) {
			return nil
		}
		left++
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return nil
	})
	if err == nil && left > 0 {
		err = fmt.Errorf("%d processes are left", left)
	}
	return err
}

// eachProcess calls fn for the processes of the node: those in its PID namespace, and those in its control groups,
// which are in containers.
func (c *Cluster) eachProcess(fn func(pid int, contained bool) error) error {
	node, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.init.Pid))
	if err != nil {
		return fmt.Errorf("find the node's PID namespace: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		if err != nil {
			continue // it has ended
		}
		group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		contained := err == nil && strings.Contains(string(group), c.cgroup+"/")
		if ns != node && !contained {
			continue
		}
		if err := fn(pid, contained); err != nil {
			return err
		}
	}
	return nil
}

// onNode runs fn on a thread that is in the node's mount and network namespaces.
func (c *Cluster) onNode(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		err := c.enter()
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}

// mountPoints returns the node's mount points, in the order in which they were mounted.
func (c *Cluster) mountPoints() ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.init.Pid))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			points = append(points, fields[4])
		}
	}
	return points, nil
}

// unmountAll unmounts what was mounted since the node's start, and replaces the tmpfs at /run by an empty one.
func (c *Cluster) unmountAll(points []string) error {
	for _, p := range slices.Backward(points) {
		if slices.Contains(c.mounts, p) && p != runMount {
			continue
		}
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) &&
			!errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return mountAt("tmpfs", runMount, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
}

// removeLinks deletes the links that the node did not have at its start.
func removeLinks() error {
	all, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range all {
		if slices.Contains(links, l.Attrs().Name) || strings.HasPrefix(l.Attrs().Name, peerPrefix) {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) &&
			!errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete link %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// newBootID returns a random UUID, as the kernel generates at boot.
func newBootID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
