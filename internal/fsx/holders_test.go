package fsx

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestHolders checks that a process that has inherited a lock is found, and no other process. It is not parallel: a
// process that another test starts has all descriptors for a moment.
func TestHolders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "locks")
	lock, err := Acquire(t.Context(), file, "k")
	if err != nil {
		t.Fatal(err)
	}
	other, err := Acquire(t.Context(), file, "other")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	child := exec.Command("cat")
	child.ExtraFiles = []*os.File{lock.File()}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	both := []int{os.Getpid(), child.Process.Pid}
	slices.Sort(both)
	check := func(what, key string, want ...int) {
		t.Helper()
		got, err := Holders(file, key)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", what, got, err, want)
		}
	}
	check("parent and child hold it", "k", both...)
	check("another key", "other", os.Getpid())
	check("a key without a lock", "none")
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	check("only the child holds it", "k", child.Process.Pid)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	check("released", "k")
}

func TestOwns(t *testing.T) {
	t.Parallel()
	info := []byte("pos:\t0\nflags:\t02100002\nlock:\t1: OFDLCK  ADVISORY  WRITE -1 fe:00:42 77 77\nlock:\t2: POSIX  " +
		"ADVISORY  WRITE 9 fe:00:42 5 5\n")
	for start, want := range map[int64]bool{77: true, 7: false, 5: false, 42: false} {
		if owns(info, start) != want {
			t.Errorf("offset %d: not %t", start, want)
		}
	}
	if owns(nil, 0) || owns([]byte("lock:\nlock: 1: OFDLCK\n"), 1) {
		t.Error("damaged lines")
	}
}
