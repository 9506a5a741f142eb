package faults

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// moveClock changes the age of all files in the state directory and of all reports as if the clock had been set forward
// or back by this duration.
func (s *site) moveClock(t *testing.T, by time.Duration) {
	t.Helper()
	at := time.Now().Add(-by)
	dirs, err := filepath.Glob(s.State() + "*")
	check(t, err)
	for _, dir := range append(dirs, filepath.Join(s.SocketDir(), "reports")) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil //nolint:nilerr // a directory that is not there has no file
			}
			if err := os.Chtimes(path, at, at); !errors.Is(err, fs.ErrNotExist) { // the daemon removes reports
				return err
			}
			return nil
		})
		check(t, err)
	}
}

// TestClock moves the clock forward or back by years between ADD and DEL, GC or the next ADD, as on a node whose clock
// is set late after a boot. It moves the times of all files instead of the clock, because a time namespace has no wall
// clock of its own. Live attachments stay, attachments that are not listed are freed, and CHECK succeeds.
func TestClock(t *testing.T) {
	t.Parallel()
	const years = 20 * 365 * 24 * time.Hour
	for k, kind := range node.Kinds {
		for i, by := range []time.Duration{years, -years} {
			if !long() && i == k {
				continue
			}
			t.Run(string(kind)+map[bool]string{true: "/forward", false: "/back"}[by > 0], func(t *testing.T) {
				t.Parallel()
				s := newSite(t, kind, two, nil)
				r := table.row("clock set " + map[bool]string{true: "forward", false: "back"}[by > 0])
				s.attach(t)
				s.moveClock(t, by)
				s.recover(t, r, true, "DEL")

				live, gone, there := s.makePod(t, "live"), s.makePod(t, "gone"), s.makePod(t, "there")
				for _, p := range []*node.Pod{live, gone, there} {
					s.add(t, p)
				}
				check(t, testnet.Delete(gone.Path))
				s.moveClock(t, by)
				r.try()
				if err := s.gc(t, nil, live); err != nil {
					r.bad(t, &r.stuck, 1, "GC: %v", err)
				}
				if left := interfaces(t, there.NS); len(left) > 0 {
					r.bad(t, &r.interfaces, len(left), "GC leaves %v", left)
				}
				s.alive(t, r, live, 3, "GC")
				s.with(live, func() { s.del(t, r, "live") })
				s.clean(t, r, "all")
			})
		}
	}
}

// TestClockOfReports sets the clock back by an hour while the daemon is down and reports wait for it. The network
// status is finally that of the live sandbox, and no report is left.
func TestClockOfReports(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[1], map[string]any{"plainPods": "local"})
	r := table.row("clock set back while reports wait")
	r.try()
	s.attach(t) // the running daemon takes its report
	s.checkStatus(t, r, "before")
	s.StopDaemon(t)
	s.del(t, r, "before")
	s.attach(t)
	s.moveClock(t, -time.Hour)
	s.StartDaemon(t)
	s.checkStatus(t, r, "after the daemon's return")
	if !waitFor(t, "no report waits", func() bool { return len(s.waiting(t)) == 0 }) {
		r.bad(t, &r.records, 1, "reports left: %s", strings.Join(s.waiting(t), " "))
	}
	s.del(t, r, "end")
	s.clean(t, r, "end")
}
