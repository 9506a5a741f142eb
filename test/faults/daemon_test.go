package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"multus/internal/failpoint"
	"multus/internal/testutil/node"
)

// statusDir is where the daemon keeps what it would write to pods.
func (s *site) statusDir() string { return filepath.Join(s.SocketDir(), "status") }

// waiting are the reports that wait in files.
func (s *site) waiting(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.SocketDir(), "reports", "*"))
	check(t, err)
	return files
}

func eventually(t *testing.T, what string, ok func() bool) bool {
	t.Helper()
	return within(t, what, patience, ok)
}

func within(t *testing.T, what string, limit time.Duration, ok func() bool) bool {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	t.Errorf("%s: not within %s", what, limit)
	return false
}

// restartWhenDead waits for the daemon's end and starts it again, unarmed.
func (s *site) restartWhenDead(t *testing.T, point string) {
	t.Helper()
	p := s.Daemon()
	eventually(t, "the daemon dies at "+point, func() bool { return p.Signal(syscall.Signal(0)) != nil })
	s.StopDaemon(t)
	s.DaemonEnv = nil
	s.StartDaemon(t)
}

// TestDaemonPoints kills the daemon at every named point of its own, while it serves an ADD, and starts it again: the
// ADD works all the same, since the plugin asks again, and the status is written.
func TestDaemonPoints(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[3], nil)
	r := table.row("daemon killed at every point")
	for _, name := range failpoint.Names {
		if !strings.HasPrefix(name, "daemon.") {
			continue
		}
		r.try()
		s.StopDaemon(t)
		s.DaemonEnv = []string{"MULTUS_FAILPOINT=" + name}
		s.StartDaemon(t)
		// A status that cannot be written is kept in a file.
		file := filepath.Join(s.statusDir(), s.pod.Namespace+"_"+s.pod.Name+".json")
		check(t, os.RemoveAll(file))
		blocked := strings.HasPrefix(name, "daemon.spool.")
		if blocked {
			check(t, os.MkdirAll(filepath.Join(file, "x"), 0o755))
		}
		p := s.start(t, s.pod, "ADD")
		if blocked && name != "daemon.spool.written" {
			eventually(t, "the report is kept", func() bool { return len(s.waiting(t)) > 0 })
			check(t, os.RemoveAll(file))
		}
		s.restartWhenDead(t, name)
		if name == "daemon.spool.written" {
			check(t, os.RemoveAll(file))
		}
		if err := p.end(); err != nil {
			r.bad(t, &r.stuck, 1, "%s: ADD: %v", name, err)
		}
		s.prev = append([]byte(nil), p.stdout.Bytes()...)
		s.checkStatus(t, r, name)
		s.del(t, r, name)
		s.clean(t, r, name)
		if !eventually(t, name+": the reports are taken up", func() bool { return len(s.waiting(t)) == 0 }) {
			r.bad(t, &r.records, 1, "%s: reports left: %v", name, s.waiting(t))
			check(t, os.RemoveAll(filepath.Join(s.SocketDir(), "reports")))
		}
	}
}

// TestLeavePoints kills the plugin while it leaves a report for a daemon that is away: the pod was plain and is
// attached, the runtime sees a failure and deletes it. A report that was left whole is no harm.
func TestLeavePoints(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[1], map[string]any{"plainPods": "local"})
	r := table.row("plugin killed while the daemon is away")
	s.StopDaemon(t)
	check(t, os.RemoveAll(filepath.Join(s.SocketDir(), "reports")))
	points := s.trace(t, "ADD", func(env ...string) error { return s.call(t, "ADD", env...) })
	s.del(t, r, "trace")
	seen := map[string]bool{}
	at := -1
	for i, p := range points {
		seen[p.name] = true
		if p.name == "leave.before" {
			at = i
		}
	}
	if !seen["leave.before"] || !seen["leave.after"] {
		t.Fatalf("no report is left: %v", points)
	}
	for _, p := range points[at:] {
		if err := s.call(t, "ADD", p.env()); err == nil {
			t.Errorf("%s: not killed", p)
		}
		r.try()
		s.del(t, r, p.String())
		s.clean(t, r, p.String())
	}
	if err := s.call(t, "ADD"); err != nil {
		t.Fatal(err)
	}
	s.StartDaemon(t)
	s.checkStatus(t, r, "after the daemon's return")
	s.del(t, r, "end")
	s.clean(t, r, "end")
}

// TestStoppedDaemon: reports that a stopped daemon (SIGSTOP) did not take in time are left in files. When it goes on,
// it takes them, and none may ever overwrite the status of a later sandbox.
func TestStoppedDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[1], map[string]any{"plainPods": "local"})
	r := table.row("daemon stopped, goes on, restarts")
	r.try()
	s.Signal(t, syscall.SIGSTOP)
	if err := s.call(t, "ADD"); err != nil {
		s.Signal(t, syscall.SIGCONT)
		t.Fatalf("ADD of a plain pod: %v", err)
	}
	s.Signal(t, syscall.SIGCONT)
	s.checkStatus(t, r, "after SIGCONT")
	s.del(t, r, "first")
	if err := s.call(t, "ADD"); err != nil {
		t.Fatal(err)
	}
	s.checkStatus(t, r, "second sandbox")
	s.StopDaemon(t)
	s.StartDaemon(t)
	time.Sleep(300 * time.Millisecond) // an old report would be written now
	s.checkStatusNow(t, r, "second sandbox, after a restart")
	s.del(t, r, "end")
	s.clean(t, r, "end")
	if !eventually(t, "reports are taken up", func() bool { return len(s.waiting(t)) == 0 }) {
		r.bad(t, &r.records, 1, "reports left: %v", s.waiting(t))
	}
}

// TestAnsweredIsKept: a report that the daemon has answered is never lost, though it be killed right after. The pod
// asks to wait for its status: only such reports are answered.
func TestAnsweredIsKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[1], nil)
	r := table.row("daemon killed after its answer")
	for _, point := range []string{"daemon.report.answered", "daemon.status.before"} {
		r.try()
		s.StopDaemon(t)
		check(t, os.RemoveAll(s.statusDir()))
		s.DaemonEnv = []string{fmt.Sprintf("MULTUS_FAILPOINT=daemon.status.before=50ms,%s", point)}
		s.StartDaemon(t)
		if err := s.call(t, "ADD"); err != nil {
			t.Fatalf("ADD: %v", err)
		}
		s.restartWhenDead(t, point)
		s.checkStatus(t, r, point)
		s.del(t, r, point)
		s.clean(t, r, point)
	}
}

// TestSweptByDaemon: what a killed daemon, or a plugin that left a report, has left half-written is removed by a later
// daemon once no writer can be at it; what may have one stays.
func TestSweptByDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[1], nil)
	s.Generated(t)
	s.StopDaemon(t)
	const abandoned, young = ".multus-tmp-0123456789abcdef", ".multus-tmp-fedcba9876543210"
	old := time.Now().Add(-time.Hour)
	dirs := []string{filepath.Join(s.SocketDir(), "reports"), filepath.Join(s.Dir, "etc"), s.State() + "-slot"}
	for _, dir := range dirs {
		for _, name := range []string{abandoned, young} {
			check(t, os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600))
		}
		check(t, os.Chtimes(filepath.Join(dir, abandoned), old, old))
	}
	s.StartDaemon(t)
	for _, dir := range dirs {
		eventually(t, dir+" is swept",
			func() bool { _, err := os.Stat(filepath.Join(dir, abandoned)); return errors.Is(err, os.ErrNotExist) })
		if _, err := os.Stat(filepath.Join(dir, young)); err != nil {
			t.Errorf("removed under its writer: %v", err)
		}
	}
}
