package cniconfig

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"multus/internal/testutil/eventually"
)

// fakeClock is a clock that a test controls. It counts the waits that were begun: those until a directory is quiet, and
// the longer ones.
type fakeClock struct {
	*clocktesting.FakeClock
	short, long atomic.Int32
}

func newClock() *fakeClock {
	return &fakeClock{FakeClock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
}

func (c *fakeClock) After(d time.Duration) <-chan time.Time {
	after := c.FakeClock.After(d)
	c.Step(0) // end a wait that is over already, as the real clock does
	if d > latest {
		c.long.Add(1)
	} else {
		c.short.Add(1)
	}
	return after
}

// inConflict returns a controller whose conflict has just begun, because its file was removed too often.
func inConflict(t *testing.T) (s *Controller, c *fakeClock, file string) {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "10-a.conflist", primary("a", "a"))
	s, c, file = controllerAt(t, dir, `{}`), newClock(), filepath.Join(dir, FileName)
	s.clock = c
	for range conflictLimit + 2 {
		s.sync()
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if !errors.Is(s.InForce(), ErrConflict) {
		t.Fatalf("no conflict: %v", s.InForce())
	}
	return s, c, file
}

// TestConflictHeals checks that a conflict ends when the other program restores our file.
func TestConflictHeals(t *testing.T) {
	t.Parallel()
	s, _, file := inConflict(t)
	if err := os.WriteFile(file, s.good, 0o600); err != nil {
		t.Fatal(err)
	}
	s.sync()
	if s.InForce() != nil || s.Ready() != nil {
		t.Errorf("our file is in place, and %v", s.InForce())
	}
	// If the file is removed again at once, the same conflict continues.
	lost := 0
	s.OnConflict = func(error) { lost++ }
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.sync()
	if !errors.Is(s.InForce(), ErrConflict) || lost != 1 || exists(file) {
		t.Errorf("removed again: %v, %d conflicts reported", s.InForce(), lost)
	}
}

// TestBackOffLasts checks that nothing is written during the back-off, whatever changes, and that the file is put back
// afterwards.
func TestBackOffLasts(t *testing.T) {
	t.Parallel()
	s, c, file := inConflict(t)
	for i, step := range []time.Duration{
		time.Second, conflictWindow, conflictWindow,
		backOff - 2*conflictWindow - 2*time.Second,
	} {
		c.Step(step)
		put(t, filepath.Dir(file), "10-a.conflist", primary("a", string(rune('b'+i))))
		s.sync()
		if exists(file) || !errors.Is(s.InForce(), ErrConflict) {
			t.Fatalf("after %s: the file is there: %v, owned: %v", c.Now(), exists(file), s.InForce())
		}
	}
	c.Step(time.Second)
	s.sync()
	if !exists(file) || s.InForce() != nil {
		t.Errorf("after the back-off: the file is there: %v, owned: %v", exists(file), s.InForce())
	}
}

// TestBackOffEndsWithoutAnEvent checks that events do not extend the back-off, and that its end needs no event.
func TestBackOffEndsWithoutAnEvent(t *testing.T) {
	t.Parallel()
	s, c, file := inConflict(t)
	runController(t, s)
	var quiet int32
	// waits reports whether sync has returned and the controller waits for the end of the back-off, for the nth time. It
	// lets the directories become quiet after each event.
	waits := func(n int32) func() bool {
		return func() bool {
			for ; quiet < c.short.Load(); quiet++ {
				c.Step(settle)
			}
			return c.long.Load() >= n
		}
	}
	for i := range int32(4) {
		eventually.Within(t, waitTimeout, "the wait", waits(i+1))
		c.Step(backOff/4 - time.Second)
		put(t, filepath.Dir(file), "99-other.conflist", primary("other", string('b'+i)))
	}
	eventually.Within(t, waitTimeout, "the last event", waits(5))
	if exists(file) {
		t.Fatal("written during the back-off")
	}
	c.Step(4 * time.Second)
	eventually.Within(t, waitTimeout, "the file", func() bool {
		c.Step(settle) // the controller may have computed its wait just before the clock moved
		return exists(file) && s.InForce() == nil
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestWatchFollowsDirectories checks that a directory that was removed or replaced is watched again.
func TestWatchFollowsDirectories(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(t *testing.T, dir string){
		"removed": func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
		"renamed away": func(t *testing.T, dir string) {
			if err := os.Rename(dir, dir+".old"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, which := range []string{"the runtime's", "the cluster network's"} {
			t.Run(name+" "+which, func(t *testing.T) {
				t.Parallel()
				base := t.TempDir()
				runtime, source := filepath.Join(base, "net.d"), filepath.Join(base, "source")
				for _, d := range []string{runtime, source} {
					if err := os.Mkdir(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				put(t, source, "10-a.conflist", primary("a", "a"))
				s := controllerAt(t, runtime, `{"multusAutoconfigDir":"`+source+`"}`)
				runController(t, s)
				file := filepath.Join(runtime, FileName)
				eventually.Within(t, waitTimeout, "the file", func() bool { return s.Ready() == nil && exists(file) })
				dir := runtime
				if which != "the runtime's" {
					dir = source
				}
				replace(t, dir)
				eventually.Within(t, waitTimeout, "the directory", func() bool { return exists(dir) })
				for i, name := range []string{"10-a.conflist", "05-b.conflist"} { // the second file shows that the watch exists
					put(t, source, name, primary("x", string(rune('k'+i))))
					eventually.Within(t, waitTimeout, name, func() bool { return has(file, name) && s.Ready() == nil })
				}
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				eventually.Within(t, waitTimeout, "the file, put back", func() bool { return exists(file) })
			})
		}
	}
}
