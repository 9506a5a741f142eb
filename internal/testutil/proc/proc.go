// Package proc runs servers for tests: each in a process group of its own, with a log, waited for by somebody, and
// ended with the test. Only the packages that start servers for tests may import it.
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
	// freezeInterval is how often Freeze looks whether a process has stopped, which takes microseconds.
	freezeInterval = time.Millisecond
	// tail is how much of a log fits an error message.
	tail = 3000
)

// Process is a program in a process group of its own.
type Process struct {
	// Name is that of the log file, without its extension.
	Name string
	// Pid as this process sees it.
	Pid int
	// Err is how it ended, once Done is closed.
	Err  error
	log  string
	done chan struct{}
}

// Start starts cmd, on a thread of its own, and waits for it there; before runs first on that thread and may move it to
// other namespaces. Output goes to the end of the log, except what cmd sends elsewhere.
//
// A death signal (Pdeathsig) is bound to the thread that forks, not to the process: so the thread lives as long; and
// one that has moved to other namespaces must not be used again, so it ends with the program.
func Start(log string, cmd *exec.Cmd, before func() error) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	defer func() { _ = f.Close() }() // the program has its own
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
		runtime.LockOSThread() // and never unlocked
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

// Here is for Start: the program runs where this one does.
func Here() error { return nil }

// Signal sends a signal to the whole group of a process that still runs.
func (p *Process) Signal(s syscall.Signal) error {
	if p.Exited() {
		return fmt.Errorf("signal %s: %w", p.Name, os.ErrProcessDone)
	}
	if err := syscall.Kill(-p.Pid, s); err != nil {
		return fmt.Errorf("signal process group %d: %w", p.Pid, err)
	}
	return nil
}

// Freeze stops the process and returns when it stands still: the signal alone lets its threads go on for a while.
// SIGCONT undoes it.
func (p *Process) Freeze(ctx context.Context) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	tick := time.NewTicker(freezeInterval)
	defer tick.Stop()
	for {
		// The kernel tells the parent of a stop when the last thread has stopped.
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

// Kill ends the process at once and returns when it is gone; ending it twice, or one that never started, is fine.
func (p *Process) Kill() {
	if p == nil || p.Exited() {
		return
	}
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // it may end by itself meanwhile, which is as good
	<-p.done
}

// Done is closed when the process has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited tells whether it has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Tail returns the end of the log, for error messages.
func (p *Process) Tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return p.Name + ": " + string(b[max(0, len(b)-tail):])
}
