package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/failpoint"
)

// maxPipe is the maximum capacity of a pipe (fs.pipe-max-size).
const maxPipe = 1 << 20

// restLimit bounds the wait for output that other processes write after the delegate itself has ended.
const restLimit = time.Second

const (
	// killLimit bounds the wait for a killed process.
	killLimit = 5 * time.Second
	// pollPause is the interval at which wait checks whether the request has ended.
	pollPause = time.Second
)

// process is a running delegate. It replaces os/exec without that package's goroutines, threads and extra process that
// detects kernel features. One loop writes the standard input, reads both outputs and detects the end of the process.
// This plugin lives for a few milliseconds, most of which it spends waiting for its delegates.
type process struct {
	pid int
	// File descriptors of this process, -1 when closed. ended becomes readable when the delegate has ended.
	stdin, stdout, stderr, ended int
	// input is what remains to be written. While withheld is set, nothing is written and the standard input stays open.
	input    []byte
	withheld bool

	// mu prevents a kill after the process was reaped, when its process ID may belong to another process.
	mu     sync.Mutex
	reaped bool
}

func newProcess() *process { return &process{stdin: -1, stdout: -1, stderr: -1, ended: -1} }

// finish returns when the process has ended and its output is read, and kills the group of the process when ctx ends. A
// child may write the output after the process has ended (a shell's "exec > >(tee log)"). Other background processes
// may keep the outputs open; finish does not wait for those.
func (p *process) finish(ctx context.Context, stdout, stderr *bounded) error {
	defer p.close()
	failpoint.At("exec.started")
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	status, err := p.wait(func() bool { return ctx.Err() != nil }, stdout, stderr)
	if err == nil {
		p.readRest(ctx, stdout, stderr)
	}
	if err == nil && status != 0 {
		err = &exitError{status}
	}
	return err
}

// end kills a process whose input is withheld. It waits for its end, but at most for killLimit.
func (p *process) end() {
	defer p.close()
	p.kill()
	_, _ = p.wait(func() bool { return true }, &bounded{}, &bounded{}) // how it ended does not matter: it has done nothing
}

// start executes a binary in a process group of its own. held may be nil; otherwise it is the file descriptor 3 of the
// process. After an error the caller closes p.
func (p *process) start(path string, environ []string, held *os.File) error {
	var theirs [3]int
	for i, ours := range []*int{&p.stdin, &p.stdout, &p.stderr} {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return os.NewSyscallError("pipe2", err)
		}
		theirs[i], *ours = pipe[0], pipe[1]
		if i > 0 {
			theirs[i], *ours = pipe[1], pipe[0]
		}
		defer unix.Close(theirs[i]) // the delegate has its own copy
		if err := unix.SetNonblock(*ours, true); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	files := []uintptr{uintptr(theirs[0]), uintptr(theirs[1]), uintptr(theirs[2])}
	if held != nil {
		files = append(files, held.Fd())
	}
	p.feed() // usually all of it: a pipe holds 64 KiB
	attr := &syscall.ProcAttr{Env: environ, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: &p.ended}}
	var err error
	p.pid, err = syscall.ForkExec(path, []string{path}, attr)
	if errors.Is(err, syscall.EINVAL) { // a kernel or an emulation that rejects the flag instead of ignoring it
		attr.Sys.PidFD, p.ended = nil, -1
		p.pid, err = syscall.ForkExec(path, []string{path}, attr)
	}
	if err != nil {
		return &os.PathError{Op: "fork/exec", Path: path, Err: err}
	}
	if p.ended < 0 {
		return p.watch()
	}
	return nil
}

// watch replaces ended by a pipe, for kernels without a pidfd that can be polled (before 5.3).
func (p *process) watch() error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		p.kill()
		return os.NewSyscallError("pipe2", err)
	}
	closeFD(&p.ended)
	p.ended = pipe[0]
	go func() {
		for {
			// WNOWAIT leaves the process to be reaped, so that its process ID is not reused.
			err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		_ = unix.Close(pipe[1])
	}()
	return nil
}

// errUnkillable is returned for a process that does not end after it was killed. Its system call does not return, for
// example because a file system does not respond.
var errUnkillable = fmt.Errorf("it cannot be killed: it is in uninterruptible sleep (state D): %w", errKilled)

// wait returns when the process has ended and its output up to then is read. over reports whether the process was
// killed. It gives up killLimit after the process was killed.
func (p *process) wait(over func() bool, stdout, stderr *bounded) (syscall.WaitStatus, error) {
	var killed time.Time
	for {
		switch {
		case !over():
		case killed.IsZero():
			killed = time.Now()
		case time.Since(killed) > killLimit:
			return 0, errUnkillable
		}
		fds := []unix.PollFd{
			{Fd: int32(p.ended), Events: unix.POLLIN},
			{Fd: int32(p.stdin), Events: unix.POLLOUT},
			{Fd: int32(p.stdout), Events: unix.POLLIN},
			{Fd: int32(p.stderr), Events: unix.POLLIN},
		}
		if _, err := unix.Poll(fds, int(pollPause.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			p.kill()
			return 0, os.NewSyscallError("poll", err)
		}
		if fds[1].Revents != 0 {
			p.feed()
		}
		status, ended, err := syscall.WaitStatus(0), false, error(nil)
		if fds[0].Revents != 0 {
			status, ended, err = p.reap()
		}
		// Drained after the check for the end, so that the last output is read, too.
		drain(&p.stdout, stdout)
		drain(&p.stderr, stderr)
		if ended || err != nil {
			return status, err
		}
		if fds[0].Revents != 0 {
			if err := p.watch(); err != nil {
				return 0, err
			}
		}
	}
}

// readRest reads on until the output is complete JSON, its writers are gone, or restLimit is over. Most processes have
// closed their output when they end. Those that leave a daemon behind have written their output by then.
func (p *process) readRest(ctx context.Context, stdout, stderr *bounded) {
	for end := time.Now().Add(restLimit); p.stdout >= 0 && !json.Valid(stdout.Bytes()) && ctx.Err() == nil; {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		fds := []unix.PollFd{{Fd: int32(p.stdout), Events: unix.POLLIN}, {Fd: int32(p.stderr), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		drain(&p.stdout, stdout)
		drain(&p.stderr, stderr)
	}
}

// reap collects the exit status. ended is false if the descriptor was readable although the process is alive.
func (p *process) reap() (status syscall.WaitStatus, ended bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		pid, err := syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return 0, false, os.NewSyscallError("wait4", err)
		}
		p.reaped = pid == p.pid
		return status, p.reaped, nil
	}
}

// kill kills the process and its group. The process may have left the group.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_, _ = unix.Kill(-p.pid, unix.SIGKILL), unix.Kill(p.pid, unix.SIGKILL)
	}
}

// feed writes as much of the input as the pipe accepts. It is not an error if the process does not read the input.
func (p *process) feed() {
	if p.withheld {
		return
	}
	for len(p.input) > 0 {
		n, err := unix.Write(p.stdin, p.input)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			n = len(p.input)
		}
		p.input = p.input[n:]
	}
	closeFD(&p.stdin)
}

// drain reads what is available, but at most what the largest pipe holds, because a background process may write
// without end.
func drain(fd *int, to *bounded) {
	var buf [4096]byte
	for read := 0; *fd >= 0 && read < maxPipe; read += len(buf) {
		n, err := unix.Read(*fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil || n == 0:
			closeFD(fd)
			return
		}
		_, _ = to.Write(buf[:n]) // never fails
	}
}

func closeFD(fd *int) {
	if *fd >= 0 {
		_ = unix.Close(*fd)
		*fd = -1
	}
}

func (p *process) close() {
	for _, fd := range []*int{&p.stdin, &p.stdout, &p.stderr, &p.ended} {
		closeFD(fd)
	}
}

// readHead returns the beginning of a file, at most as much as fits into buf. It returns nothing if that fails.
func readHead(path string, buf []byte) []byte {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	n, err := unix.Read(fd, buf)
	_ = unix.Close(fd) // nothing was written
	if err != nil {
		return nil
	}
	return buf[:n]
}
