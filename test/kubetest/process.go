package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopInterval is how often stop looks whether a server has stopped, which takes microseconds.
const stopInterval = time.Millisecond

// process is a server in a process group of its own.
type process struct {
	log  string
	pid  int
	done chan struct{} // closed when it has ended and was waited for
}

// startProcess starts a server that ends with this process, however this process ends.
func startProcess(log, path string, args []string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command(path, args...)
	cmd.Dir = filepath.Dir(log)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir}
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	p := &process{log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The death signal is bound to the thread that forks, not to the process: the thread must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // How it ended is of no interest: its log says why.
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(path), err)
	}
	return p, nil
}

// signal sends a signal to the whole group of a process that still runs.
func (p *process) signal(s syscall.Signal) error {
	if p.exited() {
		return fmt.Errorf("signal %s: %w", p.log, os.ErrProcessDone)
	}
	if err := syscall.Kill(-p.pid, s); err != nil {
		return fmt.Errorf("signal process group %d: %w", p.pid, err)
	}
	return nil
}

// stop freezes the process and returns when it is frozen: the signal alone lets its threads go on for a while.
func (p *process) stop(ctx context.Context) error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	tick := time.NewTicker(stopInterval)
	defer tick.Stop()
	for {
		// The kernel tells the parent of a stop when the last thread has stopped.
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WSTOPPED|unix.WNOHANG, nil)
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

// kill ends the process and returns when it is gone; ending it twice, or one that never started, is fine.
func (p *process) kill() {
	if p == nil || p.exited() {
		return
	}
	// It may end by itself meanwhile, which is as good.
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
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
	const size = 2000
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-size):])
}
