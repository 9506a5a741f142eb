package fsx

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// awaited starts Await and returns once Await has a watch.
func awaited(ctx context.Context, t *testing.T, path string) <-chan error {
	t.Helper()
	before := watches(t)
	done := make(chan error, 1)
	go func() { done <- Await(ctx, path) }()
	for end := time.Now().Add(limit); watches(t) == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no watch is possible")
		}
	}
	return done
}

// watches returns the number of inotify instances of this process.
func watches(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

// TestAwait checks that a file is detected by the watch and not by polling, in whatever way it is created.
func TestAwait(t *testing.T) {
	const path = "a/b/file"
	mkdir := func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		// has exists before; come creates the file.
		has  string
		come func(t *testing.T)
	}{
		{"created", "a/b", func(t *testing.T) { t.Helper(); write(t, path, "") }},
		{"renamed into its place", "a/b", func(t *testing.T) {
			t.Helper()
			write(t, "temp", "")
			rename(t, "temp", path)
		}},
		{"after one parent", "a", func(t *testing.T) {
			t.Helper()
			mkdir(t, "a/b")
			write(t, path, "")
		}},
		{"after all parents", ".", func(t *testing.T) {
			t.Helper()
			mkdir(t, "a")
			mkdir(t, "a/b")
			write(t, path, "")
		}},
		{"with its parents", ".", func(t *testing.T) {
			t.Helper()
			mkdir(t, "x")
			mkdir(t, "x/b")
			write(t, "x/b/file", "")
			rename(t, "x", "a")
		}},
		{"in another directory of the same name", "a/b", func(t *testing.T) {
			t.Helper()
			mkdir(t, "x")
			rename(t, "a/b", "old")
			rename(t, "x", "a/b")
			write(t, path, "")
		}},
		{"after its directory was removed", "a/b", func(t *testing.T) {
			t.Helper()
			if err := os.RemoveAll("a"); err != nil {
				t.Fatal(err)
			}
			mkdir(t, "a")
			mkdir(t, "a/b")
			write(t, path, "")
		}},
		{"among many others", "a/b", func(t *testing.T) {
			t.Helper()
			for range 1000 {
				write(t, "a/b/other", "")
				rename(t, "a/b/other", "a/b/other2")
			}
			write(t, path, "")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.MkdirAll(tt.has, 0o700); err != nil {
				t.Fatal(err)
			}
			done := awaited(t.Context(), t, path)
			start := time.Now()
			tt.come(t)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took >= recheckInterval {
				t.Errorf("seen after %s only", took)
			}
		})
	}
	t.Run("the file already exists", func(t *testing.T) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Await(ended, t.TempDir()); err != nil {
			t.Error(err)
		}
	})
}

// TestAwaitEnds checks that Await returns the cause of the context and leaves nothing open.
func TestAwaitEnds(t *testing.T) {
	before := watches(t)
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := awaited(ctx, t, filepath.Join(t.TempDir(), "file"))
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	if got := watches(t); got != before {
		t.Errorf("%d watches, %d before", got, before)
	}
}

// TestAwaitWithoutWatch checks that Await polls if it cannot have a watch.
func TestAwaitWithoutWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	w := newWatch()
	err := w.wait(t.Context())
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	gaveUp := Await(ended, path)
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); rerr != nil {
		t.Fatal(rerr)
	}
	if w.file != nil || w.move(t.TempDir()) || err != nil {
		t.Errorf("a watch was created: %v", err)
	}
	if !errors.Is(gaveUp, context.Canceled) {
		t.Errorf("error %v, want %v", gaveUp, context.Canceled)
	}
	write(t, path, "")
	if err := Await(t.Context(), path); err != nil {
		t.Error(err)
	}
}
