package faults

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// TestDescriptors limits the open files of the plugin and its delegates (RLIMIT_NOFILE). A DEL that succeeds has freed
// everything, and a DEL without the limit succeeds.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, k int, kind node.Kind) {
		s := newSite(t, kind, two, nil)
		r := table.row("few descriptors, " + string(kind))
		failed := 0
		for n := 3; n <= 20; n++ {
			if long() || n%4 == 2*k {
				s.wrap = []string{"/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0"`, n)}
				failed += s.limited(t, r, fmt.Sprintf("%d descriptors", n), n%8 < 4, func() {}, func() { s.wrap = nil })
			}
		}
		shown(t, failed)
	})
}

// TestProcesses limits the threads of the plugin and its delegates (pids.max), so that fork fails with EAGAIN or the
// plugin itself dies because it cannot create a thread. It checks the same as TestDescriptors.
func TestProcesses(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, k int, kind node.Kind) {
		group, wrap := limitProcesses(t)
		s := newSite(t, kind, two, nil)
		s.wrap = wrap
		r := table.row("few processes, " + string(kind))
		failed := 0
		for n := 1; n <= 24; n++ {
			if long() || n%6 == 3*k {
				failed += s.limited(t, r, fmt.Sprintf("%d processes", n), n%4 < 2,
					func() { check(t, group.set("pids.max", fmt.Sprint(n))) }, func() { check(t, group.set("pids.max", "max")) })
			}
		}
		shown(t, failed)
	})
}

// shown fails the test if no call failed, because then the fault had no effect.
func shown(t *testing.T, failed int) {
	t.Helper()
	if failed == 0 {
		t.Error("no call failed: nothing is shown")
	}
}

// limited attaches and deletes the site's pod within a limit, and once more with an ADD without the limit. It returns
// the number of ADDs that failed.
func (s *site) limited(t *testing.T, r *row, what string, gone bool, begin, end func()) (failed int) {
	t.Helper()
	wrap := s.wrap
	again := func() { s.wrap = wrap; begin() }
	for _, limitedAdd := range []bool{true, false} {
		if limitedAdd {
			again()
		} else {
			end()
		}
		addErr := s.call(t, "ADD")
		if addErr != nil {
			failed++
		}
		if !limitedAdd && addErr != nil {
			t.Fatalf("%s: ADD: %v", what, addErr)
		}
		if gone && !limitedAdd {
			check(t, testnet.Delete(s.pod.Path))
		}
		again()
		var delErr error
		for range delTries + 1 {
			if delErr = s.call(t, "DEL"); delErr == nil {
				break
			}
		}
		end()
		about := fmt.Sprintf("%s, ADD: %v, DEL: %v", what, addErr, delErr)
		if delErr == nil {
			r.try()
			s.clean(t, r, about)
		}
		if gone && !limitedAdd {
			s.del(t, r, about)
			s.clean(t, r, about)
			s.newPod(t)
		}
		s.recover(t, r, false, about)
	}
	s.wrap = wrap
	return failed
}

// TestRandomGroupKill kills the plugin and all its delegates at the same moment, as the kernel does when the memory of
// their cgroup is exhausted (memory.oom.group), and as a service manager does when it stops the cgroup of a runtime.
func TestRandomGroupKill(t *testing.T) {
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		group, wrap := limitProcesses(t)
		s := newSite(t, kind, two, nil)
		s.slow(t, "0.0$((RANDOM % 10))")
		r := table.row(fmt.Sprintf("plugin and delegates killed at random, %s", kind))
		most := 0
		for n, end := 0, share(); time.Now().Before(end); n++ {
			verb := "ADD"
			if n%3 == 2 {
				s.attach(t)
				verb = "DEL"
			}
			after := rand.N(2 * window)
			s.wrap = wrap
			p := s.start(t, s.pod, verb)
			s.wrap = nil
			time.Sleep(after)
			most = max(most, group.kill(t))
			if err := p.end(); err != nil && !errors.Is(err, errKilled) {
				t.Errorf("%s: %v", verb, err)
			}
			s.removeEmptyReservations(t)
			s.recover(t, r, n%2 == 1, fmt.Sprintf("group of %s killed after %s", verb, after))
		}
		t.Logf("up to %d processes killed at once", most)
		if most < 2 {
			t.Error("no delegate was killed with the plugin: nothing is shown")
		}
	})
}

// removeEmptyReservations removes the files that host-local leaves when it is killed after it has created a reservation
// and before it has written the owner. No later DEL or GC of that plugin can free such a file.
func (s *site) removeEmptyReservations(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Reservations(), "*", "*.*.*.*"))
	check(t, err)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Size() == 0 {
			t.Logf("host-local was killed at its reservation %s", f)
			check(t, os.Remove(f))
		}
	}
}
