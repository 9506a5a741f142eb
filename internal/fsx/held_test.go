package fsx

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHeld checks that Held detects a lock by its key and does not take it.
func TestHeld(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "locks")
	held := func(key string) bool {
		t.Helper()
		is, err := Held(file, key)
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	if held("a") {
		t.Error("held before there is a file")
	}
	l, err := TryAcquire(file, "a")
	if err != nil {
		t.Fatal(err)
	}
	if !held("a") || held("b") {
		t.Errorf("a is held: %t, b is held: %t", held("a"), held("b"))
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if held("a") {
		t.Error("held after it was released")
	}
	l, err = TryAcquire(file, "a")
	if err != nil {
		t.Fatalf("Held acquired the lock: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Held(t.TempDir()+"/locks/below", "a"); err != nil {
		t.Errorf("no directory: %v", err)
	}
}

// TestShared checks that the error for the lock of a process that can only read the file differs from that for a lock
// of Multus.
func TestShared(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "locks")
	l, err := TryAcquire(file, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryAcquire(file, "a"); !errors.Is(err, ErrLocked) || errors.Is(err, ErrShared) {
		t.Errorf("held by us: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	flock := unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET, Start: offset("a"), Len: 1}
	if err := unix.FcntlFlock(reader.Fd(), unix.F_OFD_SETLK, &flock); err != nil {
		t.Fatal(err)
	}
	if _, err := TryAcquire(file, "a"); !errors.Is(err, ErrLocked) || !errors.Is(err, ErrShared) {
		t.Errorf("held by a reader: %v", err)
	}
	if held, err := Held(file, "a"); err != nil || !held {
		t.Errorf("held by a reader: %t, %v", held, err)
	}
}
