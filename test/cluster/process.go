package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nodePath is the PATH of what runs on the node: the cluster's programs, then the machine's.
const nodePath = toolDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// namespaces of the node that its programs are started in.
var namespaces = []struct {
	name string
	flag int
}{{"pid", unix.CLONE_NEWPID}, {"net", unix.CLONE_NEWNET}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"mnt", unix.CLONE_NEWNS}}

// process is a program on the node, in a process group of its own. It ends with this process, however this process ends.
type process struct {
	name string
	log  string
	pid  int // as this process sees it
	err  error
	done chan struct{} // closed when it has ended and was waited for
}

// launch starts cmd on a thread of its own that before moves first, and waits for it there: a death signal is bound to
// the thread that forks, not to the process, so the thread must live as long; and a thread that has moved to other
// namespaces must not be used again. Only the first process has a death signal: the others end with it, and seen from
// their namespace their parent has no number, which Go takes for a parent that is dead already.
func launch(name, log string, cmd *exec.Cmd, before func() error) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	defer func() { _ = f.Close() }()
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	cmd.Stderr = f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	p := &process{name: name, log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this function
		err := before()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// enter moves the calling thread, which must be locked, into the node.
func (c *Cluster) enter() error {
	// Threads of one process share root and working directory; one that does cannot change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	for _, ns := range namespaces {
		if err := enterOne(c.init.pid, ns.name, ns.flag); err != nil {
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

// start starts a server of the node; its log is <directory>/log/<name>.log.
func (c *Cluster) start(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(toolDir, name), args...)
	cmd.Dir, cmd.Env = "/", nodeEnv()
	p, err := launch(name, filepath.Join(c.dir, "log", name+".log"), cmd, c.enter)
	if err != nil {
		return err
	}
	c.servers[name] = p
	return nil
}

// Run runs a program on the node and returns what it printed.
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
		runtime.LockOSThread() // and never unlocked
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

// kill ends the process at once and returns when it is gone.
func (p *process) kill() {
	if p == nil || p.exited() {
		return
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it may end by itself meanwhile, which is as good
	<-p.done
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// tail returns the end of the log, for error messages.
func (p *process) tail() string {
	const size = 3000
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return p.name + ": " + string(b[max(0, len(b)-size):])
}

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
			return fmt.Errorf("wait for %s: %s exited: %w\n%s", what, p.name, p.err, p.tail())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

func (c *Cluster) dead() *process {
	for _, p := range c.servers {
		if p.exited() {
			return p
		}
	}
	return nil
}
