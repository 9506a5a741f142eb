package reap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/engine/execute"
	"multus/internal/engine/session"
	"multus/internal/fsx"
)

// OrphanGrace is how long DEL waits for the lock after its holders were killed.
const OrphanGrace = 5 * time.Second

// Orphans kills the delegates of a killed plugin that hold the lock of the session's sandbox. No process waits for
// their result, and no other process would end them (multus-cni#669). If a plugin itself holds the lock, the operation
// is alive: Orphans kills nothing and returns an error that names the holder. The caller has waited for the lock for as
// long as a delegate may take.
func Orphans(s *session.Session) error {
	holders, err := fsx.Holders(s.LockFile, s.Request.ContainerID)
	if err != nil {
		return err
	}
	var orphans []*orphan
	var alive []string
	for _, pid := range holders {
		o, err := inspectHolder(pid, s.Request.ContainerID)
		switch {
		case errors.Is(err, errNoOrphan):
			alive = append(alive, err.Error())
		case err != nil: // it has ended; if not, the lock stays held and its timeout is reported
		default:
			defer o.close()
			orphans = append(orphans, o)
		}
	}
	if len(alive) > 0 {
		return fmt.Errorf("it is held by %s", strings.Join(alive, ", "))
	}
	var errs []error
	for _, o := range orphans {
		s.Log.Warn("killing a delegate that outlived its plugin and does not end", "plugin", o.name, "pid", o.pid)
		errs = append(errs, o.kill())
	}
	return errors.Join(errs...)
}

// orphan is a process that a plugin of this sandbox started. The descriptor always refers to this process; the process
// ID does so only until the process has ended.
type orphan struct {
	pid, fd int
	name    string
}

// errNoOrphan is wrapped by the error for a process that Multus did not start for this sandbox.
var errNoOrphan = errors.New("not a delegate")

// inspectHolder inspects one holder of the lock of a sandbox. The error for a process that is gone does not wrap
// errNoOrphan.
func inspectHolder(pid int, containerID string) (*orphan, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	o := &orphan{pid: pid, fd: fd}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		o.close()
		return nil, fmt.Errorf("read process %d: %w", pid, err)
	}
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // for the message only
	// The process ID was used to read these files. They belong to the process only if it is still alive.
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil {
		o.close()
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	o.name = filepath.Base(exe)
	has := func(v string) bool { return bytes.Contains(append([]byte{0}, env...), []byte("\x00"+v)) }
	if !has(execute.DepthEnv+"=") || !has("CNI_CONTAINERID="+containerID+"\x00") {
		o.close()
		return nil, fmt.Errorf("process %d (%s), %w", pid, o.name, errNoOrphan)
	}
	return o, nil
}

// pidfdSignalProcessGroup is PIDFD_SIGNAL_PROCESS_GROUP (Linux 6.9).
const pidfdSignalProcessGroup = 1 << 2

// kill kills the process, and its group if it leads one, as delegates do. Kernels before 6.9 cannot signal a group
// through the descriptor, and the group ID may refer to another group by now. There only the process is killed.
func (o *orphan) kill() error {
	if group, err := unix.Getpgid(o.pid); err == nil && group == o.pid {
		_ = unix.PidfdSendSignal(o.fd, unix.SIGKILL, nil, pidfdSignalProcessGroup) // the next line reports the error
	}
	if err := unix.PidfdSendSignal(o.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d (%s): %w", o.pid, o.name, err)
	}
	return nil
}

func (o *orphan) close() { _ = unix.Close(o.fd) }
