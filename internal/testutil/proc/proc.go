// Package proc runs servers for tests, each in a process group of its own and with a log. Each server is waited for and
// ends with the test. Only the packages that start servers for tests may import this package.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// freezeInterval is the interval at which Freeze checks whether a process has stopped, which takes microseconds.
	freezeInterval = time.Millisecond
	// tail is the size of the end of a log that error messages contain.
	tail = 3000
)

// Process is a program in a process group of its own.
type Process struct {
	// Name is the name of the log file without its extension.
	Name string
	// Pid is the PID in the PID namespace of this process.
	Pid int
	// Err is the result of the process once Done is closed.
	Err  error
	log  string
	done chan struct{}
}

// Start starts cmd on a thread of its own and waits for it there. before runs first on that thread and may move it to
// other namespaces. Output is appended to the log, except what cmd redirects.
//
// The thread ends with the program, for two reasons. A parent-death signal (Pdeathsig) is sent when the thread that
// forked ends, and not the process. And a thread that was moved to other namespaces must not run other goroutines.
func Start(log string, cmd *exec.Cmd, before func() error) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	defer func() { _ = f.Close() }() // the program has its own descriptor
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	cmd.Stderr = f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	p := &Process{Name: strings.TrimSuffix(filepath.Base(log), ".log"), log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := before()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			p.Pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.Err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	return p, nil
}

// Here is the argument before of Start for a program that runs in the namespaces of the caller.
func Here() error { return nil }

// Signal sends a signal to the process group. It returns an error if the process has ended.
func (p *Process) Signal(s syscall.Signal) error {
	if p.Exited() {
		return fmt.Errorf("signal %s: %w", p.Name, os.ErrProcessDone)
	}
	if err := syscall.Kill(-p.Pid, s); err != nil {
		return fmt.Errorf("signal process group %d: %w", p.Pid, err)
	}
	return nil
}

// Freeze stops the process and returns when all its threads have stopped, which is some time after the signal was sent.
// SIGCONT undoes Freeze.
func (p *Process) Freeze(ctx context.Context) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	tick := time.NewTicker(freezeInterval)
	defer tick.Stop()
	for {
		// The kernel reports the stop to the parent when the last thread has stopped.
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.Pid, &info, unix.WSTOPPED|unix.WNOHANG, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the stop: %w", err)
		}
		if err == nil && info.Signo != 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the stop: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Kill ends the process and returns when it is gone. It does nothing for a nil Process and for one that has ended.
func (p *Process) Kill() {
	if p == nil || p.Exited() {
		return
	}
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // the process may end by itself in the meantime
	<-p.done
}

// Done returns a channel that is closed when the process has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited reports whether the process has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Tail returns the end of the log for error messages.
func (p *Process) Tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return p.Name + ": " + string(b[max(0, len(b)-tail):])
}
