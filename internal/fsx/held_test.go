package fsx

import (
	"path/filepath"
	"testing"
)

// TestHeld: a lock is seen without being taken, by key.
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
		t.Fatalf("looking took the lock: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Held(t.TempDir()+"/locks/below", "a"); err != nil {
		t.Errorf("no directory: %v", err)
	}
}
