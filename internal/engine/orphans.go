package engine

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
	"multus/internal/fsx"
)

// orphanGrace is how long DEL waits for the lock once its holders were killed.
const orphanGrace = 5 * time.Second

// endOrphans kills the delegates that a killed plugin left behind and that have held the sandbox's lock for all of
// LockLimit: nobody waits for their result any more, and nobody else would ever end them (P07). While a plugin itself
// holds the lock, the operation is alive and nothing is done. The error says who holds it.
func (c *call) endOrphans() error {
	holders, err := fsx.Holders(c.deps.LockFile, c.req.ContainerID)
	if err != nil {
		return err
	}
	var orphans []*orphan
	var alive []string
	for _, pid := range holders {
		o, err := c.orphan(pid)
		switch {
		case errors.Is(err, errNoOrphan):
			alive = append(alive, err.Error())
		case err != nil: // it has ended meanwhile; if not, the lock stays held and is told of
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
		c.log.Warn("killing a delegate that outlived its plugin and does not end", "plugin", o.name, "pid", o.pid)
		errs = append(errs, o.kill())
	}
	return errors.Join(errs...)
}

// orphan is a process that a plugin of this sandbox started. The descriptor refers to the process for ever, its number
// only until it has ended.
type orphan struct {
	pid, fd int
	name    string
}

// errNoOrphan is wrapped by the error for a process that was not started by Multus for this sandbox.
var errNoOrphan = errors.New("not a delegate")

// orphan looks at one holder. A process that is gone is an error of its own.
func (c *call) orphan(pid int) (*orphan, error) {
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
	// The number was used to read these: they are the process's only if it still lives.
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil {
		o.close()
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	o.name = filepath.Base(exe)
	has := func(v string) bool { return bytes.Contains(append([]byte{0}, env...), []byte("\x00"+v)) }
	if !has(execute.DepthEnv+"=") || !has("CNI_CONTAINERID="+c.req.ContainerID+"\x00") {
		o.close()
		return nil, fmt.Errorf("process %d (%s), %w", pid, o.name, errNoOrphan)
	}
	return o, nil
}

// pidfdSignalProcessGroup is PIDFD_SIGNAL_PROCESS_GROUP (Linux 6.9).
const pidfdSignalProcessGroup = 1 << 2

// kill ends the process, and its group if it leads one, as a delegate does. Kernels before 6.9 cannot signal a group
// through the descriptor, and by number it may be another one: there the process alone is ended.
func (o *orphan) kill() error {
	if group, err := unix.Getpgid(o.pid); err == nil && group == o.pid {
		_ = unix.PidfdSendSignal(o.fd, unix.SIGKILL, nil, pidfdSignalProcessGroup) // the next line reports
	}
	if err := unix.PidfdSendSignal(o.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d (%s): %w", o.pid, o.name, err)
	}
	return nil
}

func (o *orphan) close() { _ = unix.Close(o.fd) }
