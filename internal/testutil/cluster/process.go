package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/testutil/proc"
)

// nodePath is the PATH of programs on the node: the cluster's programs, then the machine's.
const nodePath = toolDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// namespaces are the namespaces of the node in which its programs run.
var namespaces = []struct {
	name string
	flag int
}{
	{"pid", unix.CLONE_NEWPID},
	{"net", unix.CLONE_NEWNET},
	{"ipc", unix.CLONE_NEWIPC},
	{"uts", unix.CLONE_NEWUTS},
	{"mnt", unix.CLONE_NEWNS},
}

// enter moves the calling thread, which must be locked, into the node.
func (c *Cluster) enter() error {
	// The threads of one process share root and working directory. A thread that shares them cannot change its mount
	// namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	for _, ns := range namespaces {
		if err := enterOne(c.init.Pid, ns.name, ns.flag); err != nil {
			return err
		}
	}
	return nil
}

func enterOne(pid int, name string, flag int) error {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s namespace of the node: %w", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, flag); err != nil {
		return fmt.Errorf("enter %s namespace of the node: %w", name, err)
	}
	return nil
}

// start starts a server of the node.
func (c *Cluster) start(name string, args ...string) error {
	p, err := c.Launch(name, args...)
	if err != nil {
		return err
	}
	c.servers[name] = p
	return nil
}

// Launch starts a program of bin/tools on the node. Its log is <directory>/log/<name>.log. The program has no
// parent-death signal but ends with the node's first process: in the PID namespace of the node getppid returns 0, from
// which Go concludes that the parent is dead.
func (c *Cluster) Launch(name string, args ...string) (*proc.Process, error) {
	cmd := exec.Command(filepath.Join(toolDir, name), args...)
	cmd.Dir, cmd.Env = "/", nodeEnv()
	return proc.Start(filepath.Join(c.dir, "log", name+".log"), cmd, c.enter)
}

// Run runs a program on the node and returns its output.
func (c *Cluster) Run(ctx context.Context, name string, args ...string) (string, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(toolDir, name)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = "/", nodeEnv()
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := c.enter(); err != nil {
			done <- result{nil, err}
			return
		}
		out, err := cmd.CombinedOutput()
		done <- result{out, err}
	}()
	r := <-done
	if r.err != nil {
		return "", fmt.Errorf("%s %v: %w\n%s", filepath.Base(name), args, r.err, r.out)
	}
	return string(r.out), nil
}

func nodeEnv() []string { return []string{"PATH=" + nodePath, "HOME=/var/lib", "TMPDIR=/tmp"} }

// poll calls try until it succeeds, a server has exited, or the context ends.
func (c *Cluster) poll(ctx context.Context, what string, try func() error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if p := c.dead(); p != nil {
			return fmt.Errorf("wait for %s: %s exited: %w\n%s", what, p.Name, p.Err, p.Tail())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

func (c *Cluster) dead() *proc.Process {
	for _, p := range c.servers {
		if p.Exited() {
			return p
		}
	}
	return nil
}
