package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

// TestDelWithoutTrace checks how often a DEL fails for an attachment of which no trace is left (multus-cni#669). It
// fails while the plugin may hold something. It does not fail forever if the plugin returns an error because the
// interface is missing.
func TestDelWithoutTrace(t *testing.T) {
	t.Parallel()
	answers := `echo '{"code":999,"msg":"no such interface"}'; exit 1`
	tests := []struct {
		name, network, does string
		progress            ledger.Progress
		fails               int // -1: always
	}{
		{"ADD was killed, the plugin works", "other", "", ledger.Progress{}, 0},
		{"ADD was killed before it came to it", "other", answers, ledger.Progress{}, 0},
		{"ADD was killed before it came to it, the plugin crashes", "other", "exit 2", ledger.Progress{}, 0},
		{"ADD was killed, the plugin always gives a reason", "other", answers, ledger.Progress{Begun: 2}, refusals},
		{"the cluster network's own", "cluster", answers, ledger.Progress{}, refusals},
		{"ADD was killed, the plugin is always killed", "other", "kill -9 $$", ledger.Progress{Begun: 2}, -1},
		{"ADD was killed, the plugin always crashes", "other", "exit 2", ledger.Progress{Begun: 2}, -1},
		{"ADD had undone all, the plugin gives a reason", "other", answers, ledger.Progress{Undone: true}, 0},
		{"ADD had undone all, the plugin crashes", "other", "exit 2", ledger.Progress{Undone: true}, 0},
		{
			"ADD had undone all, the plugin asks to try again", "other", `echo '{"code":11,"msg":"not now"}'; exit 1`,
			ledger.Progress{Undone: true, Begun: 2},
			-1,
		},
		{"ADD had undone all, the plugin is killed", "other", "kill -9 $$", ledger.Progress{Undone: true, Begun: 2}, -1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
			if err := n.store.RecordProgress("c", tc.progress); err != nil {
				t.Fatal(err)
			}
			n.does(t, tc.network, tc.does)
			for try := range refusals + 3 {
				err := n.engine.Del(t.Context(), n.request(request.Del, "c", ""))
				if got := n.called(t); try == 0 && got != "other DEL c, cluster DEL c" {
					t.Errorf("called: %s", got)
				}
				fails := tc.fails < 0 || try < tc.fails
				if (err != nil) != fails || n.recorded(t, "c") != fails {
					t.Fatalf("DEL %d: %v, recorded %t", try+1, err, n.recorded(t, "c"))
				}
				if fails && !strings.Contains(err.Error(), tc.network+"-net") {
					t.Errorf("%v does not name the network", err)
				}
			}
		})
	}
}

// TestBegunIsRecorded checks that the first failure records how far ADD got, before the results that show it are
// deleted. At a later DEL they are gone, and an attachment that holds something would be treated as one that was never
// begun.
func TestBegunIsRecorded(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
	n.result(t, "cluster-net", "c", "eth0")
	other := n.result(t, "other-net", "c", "net1")
	n.does(t, "other", "exit 2")
	n.does(t, "cluster", `grep -q '"begun":2' `+filepath.Join(n.store.Dir, "c")+` || echo too late >>`+filepath.Join(n.dir,
		"log"))
	for try := range refusals + 3 {
		if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err == nil || !n.recorded(t, "c") {
			t.Fatalf("DEL %d: %v, recorded %t", try+1, err, n.recorded(t, "c"))
		}
		if got := n.called(t); try == 0 && got != "other DEL c, cluster DEL c" {
			t.Errorf("called: %s", got)
		}
		_ = os.Remove(other) // and after the node's restart the namespace is gone, too
	}
}

// TestLostResults checks a DEL after libcni's results were lost. libcni does not sync its results, so that after a
// power loss they do not show what was begun.
func TestLostResults(t *testing.T) {
	t.Parallel()
	for does, fails := range map[string]int{
		"": 0, "exit 2": refusals + 3, `echo '{"code":999,"msg":"no such interface"}'; exit 1`: refusals,
	} {
		t.Run(does, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "before")
			n.does(t, "other", does)
			for try := range refusals + 3 {
				err := n.engine.Del(t.Context(), n.request(request.Del, "c", ""))
				if want := try < fails; (err != nil) != want || n.recorded(t, "c") != want {
					t.Fatalf("DEL %d: %v, recorded %t", try+1, err, n.recorded(t, "c"))
				}
			}
		})
	}
}

// stuck starts a process that holds the lock of a container and does not end.
func stuck(t *testing.T, n *node, container string, env ...string) *exec.Cmd {
	t.Helper()
	lock, err := fsx.Acquire(t.Context(), n.engine.deps.LockFile, container)
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
	n := newNode(t)
	c, err := n.engine.begin(n.request(request.Del, "c", ""))
	if err != nil {
		t.Fatal(err)
	}
	orphan := stuck(t, n, "c", mine...)
	if err := c.endOrphans(); err != nil {
		t.Fatal(err)
	}
	if err := orphan.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it lives: %v", err)
	}
	for what, env := range map[string][]string{
		"a plugin at work":           {"CNI_CONTAINERID=c"},
		"another sandbox's delegate": {execute.DepthEnv + "=1", "CNI_CONTAINERID=c2"},
	} {
		other := stuck(t, n, "c", env...)
		err := c.endOrphans()
		if err == nil || !strings.Contains(err.Error(), "held by process") || !strings.Contains(err.Error(), "(sleep)") {
			t.Errorf("%s: %v", what, err)
		}
		if err := other.Process.Signal(os.Interrupt); err != nil {
			t.Errorf("%s was ended: %v", what, err)
		}
		_ = other.Wait()
	}
	if err := c.endOrphans(); err != nil {
		t.Errorf("no process holds the lock: %v", err)
	}
	if _, err := os.Stat(filepath.Join(n.dir, "run", "locks")); err != nil {
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
	n := newNode(t)
	c, err := n.engine.begin(n.request(request.Del, "c", ""))
	if err != nil {
		t.Fatal(err)
	}
	first := leader(t, execute.DepthEnv+"=1", "CNI_CONTAINERID=c")
	pid := first.Process.Pid
	o, err := c.orphan(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	_, _ = first.Process.Kill(), first.Wait()
	var second *exec.Cmd
	for tries := 0; second == nil || second.Process.Pid != pid; tries++ {
		if tries == 1000 {
			t.Skip("another process always gets the number")
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
