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
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/node"
)

// statusDir returns the directory in which the daemon writes network statuses without an API server.
func (s *site) statusDir() string { return filepath.Join(s.SocketDir(), "status") }

// waiting returns the files of reports that wait for the daemon.
func (s *site) waiting(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.SocketDir(), "reports", "*"))
	check(t, err)
	return files
}

func waitFor(t *testing.T, what string, ok func() bool) bool {
	t.Helper()
	return within(t, what, waitTimeout, ok)
}

func within(t *testing.T, what string, limit time.Duration, ok func() bool) bool {
	t.Helper()
	if !eventually.Is(limit, ok) {
		t.Errorf("%s: not within %s", what, limit)
		return false
	}
	return true
}

// restartWhenDead waits until the daemon has ended and starts it again without failpoints.
func (s *site) restartWhenDead(t *testing.T, point string) {
	t.Helper()
	p := s.Daemon()
	waitFor(t, "the daemon dies at "+point, func() bool { return p.Signal(syscall.Signal(0)) != nil })
	s.StopDaemon(t)
	s.DaemonEnv = nil
	s.StartDaemon(t)
}

// TestDaemonPoints kills the daemon at each of its named points while it serves an ADD, and starts it again. The ADD
// succeeds because the plugin retries, and the network status is written.
func TestDaemonPoints(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[3], map[string]any{"statusWait": true}) // so that the report is on the socket
	r := table.row("daemon killed at every point")
	for _, name := range failpoint.Names {
		if !strings.HasPrefix(name, "daemon.") {
			continue
		}
		r.try()
		s.StopDaemon(t)
		s.DaemonEnv = []string{"MULTUS_FAILPOINT=" + name}
		s.StartDaemon(t)
		// A network status that cannot be written is kept as a report in a file.
		file := filepath.Join(s.statusDir(), s.pod.Namespace+"_"+s.pod.Name+".json")
		check(t, os.RemoveAll(file))
		blocked := strings.HasPrefix(name, "daemon.spool.")
		if blocked {
			check(t, os.MkdirAll(filepath.Join(file, "x"), 0o755))
		}
		p := s.start(t, s.pod, "ADD")
		if blocked && name != "daemon.spool.written" {
			waitFor(t, "the report is kept", func() bool { return len(s.waiting(t)) > 0 })
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
		if !waitFor(t, name+": the reports are taken up", func() bool { return len(s.waiting(t)) == 0 }) {
			r.bad(t, &r.records, 1, "%s: reports left: %v", name, s.waiting(t))
			check(t, os.RemoveAll(filepath.Join(s.SocketDir(), "reports")))
		}
	}
}

// TestLeavePoints kills the plugin while it writes a report because the daemon is down. The plain pod is attached by
// then. The runtime gets an error and sends DEL. A complete report that was left does no harm.
func TestLeavePoints(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[1], map[string]any{"plainPods": "local"})
	r := table.row("plugin killed while no daemon runs")
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

// TestStoppedDaemon checks reports that a stopped daemon (SIGSTOP) does not accept in time. They are kept in files.
// When the daemon continues, it processes them, and none of them overwrites the network status of a later sandbox.
func TestStoppedDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[1], map[string]any{"plainPods": "local"})
	r := table.row("daemon stopped, continued, restarted")
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
	if !waitFor(t, "reports are taken up", func() bool { return len(s.waiting(t)) == 0 }) {
		r.bad(t, &r.records, 1, "reports left: %v", s.waiting(t))
	}
}

// TestAnsweredIsKept checks that a report that the daemon has acknowledged is not lost, even if the daemon is killed
// immediately afterwards.
func TestAnsweredIsKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, two, map[string]any{"statusWait": true})
	s.killedDaemon(t, table.row("daemon killed after its answer"), "daemon.report.answered", "daemon.status.before")
}

// TestReportInFileIsKept is like TestAnsweredIsKept for a pod with networks that does not wait for its status: the
// report is in a file when the ADD returns.
func TestReportInFileIsKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, two, nil)
	s.killedDaemon(t, table.row("daemon killed while it writes a status for which no ADD waits"),
		"daemon.status.before", "daemon.status.after", "daemon.spool.removed")
}

// killedDaemon attaches the pod and kills the daemon at each point, which is after the ADD or beside it.
func (s *site) killedDaemon(t *testing.T, r *row, points ...string) {
	t.Helper()
	for _, point := range points {
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

// TestSweptByDaemon checks that a later daemon removes temporary files of a killed daemon or plugin once they are old.
// Younger ones, which may still have a writer, stay.
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
		waitFor(t, dir+" is swept",
			func() bool { _, err := os.Stat(filepath.Join(dir, abandoned)); return errors.Is(err, os.ErrNotExist) })
		if _, err := os.Stat(filepath.Join(dir, young)); err != nil {
			t.Errorf("removed under its writer: %v", err)
		}
	}
}
