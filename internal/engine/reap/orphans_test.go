package reap

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"multus/internal/engine/execute"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/fsx"
)

// stuck starts a process that holds the lock of a container and does not end.
func stuck(t *testing.T, locks, container string, env ...string) *exec.Cmd {
	t.Helper()
	lock, err := fsx.Acquire(t.Context(), locks, container)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	p := exec.Command("/bin/sleep", "1000")
	p.Env, p.ExtraFiles = env, []*os.File{lock.File()}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.Process.Kill(), p.Wait() })
	executes(t, p)
	return p
}

// TestOrphans checks that the delegates of a killed plugin are killed, and no other process (multus-cni#669).
//
//nolint:paralleltest // a process that another test starts has all descriptors for a moment
func TestOrphans(t *testing.T) {
	mine := []string{execute.DepthEnv + "=1", "CNI_CONTAINERID=c", "X=y"}
	locks := filepath.Join(t.TempDir(), "run", "locks")
	s := &session.Session{
		Node: session.Node{LockFile: locks}, Request: &request.Request{ContainerID: "c"},
		Log: slog.New(slog.DiscardHandler),
	}
	orphan := stuck(t, locks, "c", mine...)
	if err := Orphans(s); err != nil {
		t.Fatal(err)
	}
	if err := orphan.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the delegate is alive: %v", err)
	}
	for what, env := range map[string][]string{
		"a plugin at work":           {"CNI_CONTAINERID=c"},
		"another sandbox's delegate": {execute.DepthEnv + "=1", "CNI_CONTAINERID=c2"},
	} {
		other := stuck(t, locks, "c", env...)
		err := Orphans(s)
		if err == nil || !strings.Contains(err.Error(), "held by process") || !strings.Contains(err.Error(), "(sleep)") {
			t.Errorf("%s: %v", what, err)
		}
		if err := other.Process.Signal(os.Interrupt); err != nil {
			t.Errorf("%s was ended: %v", what, err)
		}
		_ = other.Wait()
	}
	if err := Orphans(s); err != nil {
		t.Errorf("no process holds the lock: %v", err)
	}
	if _, err := os.Stat(locks); err != nil {
		t.Error(err)
	}
}

// lastPid contains the process ID after which the kernel searches for the next free one (proc_sys_kernel(5)).
const lastPid = "/proc/sys/kernel/ns_last_pid"

// TestOrphanNumberIsReused checks the case that an orphan ends just before it is killed and that its process ID is
// reused by another process that leads a group, as a delegate does. The other process must survive.
func TestOrphanNumberIsReused(t *testing.T) { //nolint:paralleltest // other processes would get the process ID
	if _, err := os.Stat(lastPid); err != nil || os.Getuid() != 0 {
		t.Skipf("the next process ID cannot be set: %v", err)
	}
	first := leader(t, execute.DepthEnv+"=1", "CNI_CONTAINERID=c")
	pid := first.Process.Pid
	o, err := inspectHolder(pid, "c")
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	_, _ = first.Process.Kill(), first.Wait()
	var second *exec.Cmd
	for tries := 0; second == nil || second.Process.Pid != pid; tries++ {
		if tries == 1000 {
			t.Skip("another process always gets the process ID")
		}
		if err := os.WriteFile(lastPid, strconv.AppendInt(nil, int64(pid-1), 10), 0); err != nil {
			t.Fatal(err)
		}
		second = leader(t)
	}
	if err := o.kill(); err != nil {
		t.Error(err)
	}
	if err := second.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err == nil || !strings.Contains(err.Error(), "interrupt") {
		t.Errorf("the other process: %v, want it to live until it is interrupted", err)
	}
}

// leader starts a process that leads a group of its own and does not end.
func leader(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	p := exec.Command("/bin/sleep", "1000")
	p.Env, p.SysProcAttr = env, &syscall.SysProcAttr{Setpgid: true}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.Process.Kill(), p.Wait() })
	executes(t, p)
	return p
}

// executes waits until a started process has its environment: for a moment the kernel shows none.
func executes(t *testing.T, p *exec.Cmd) {
	t.Helper()
	environ := fmt.Sprintf("/proc/%d/environ", p.Process.Pid)
	for end := time.Now().Add(10 * time.Second); len(p.Env) > 0; {
		if b, err := os.ReadFile(environ); err != nil || len(b) > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("a process has no environment")
		}
	}
}
