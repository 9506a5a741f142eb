package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryRuleHasATest: the rules that this project implements are cited by a test, or have a reason.
func TestEveryRuleHasATest(t *testing.T) {
	t.Parallel()
	if err := run(io.Discard, filepath.Join("..", "..")); err != nil {
		t.Error(err)
	}
}

// TestMissing: a rule that nobody cites is an error.
func TestMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x_test.go"),
		[]byte("// TestX: something (behaviour.md A1, A3-A5; B1 and B2)."), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := citations(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []string{"A1", "A3", "A4", "A5", "B1", "B2"} {
		if len(got[r]) != 1 {
			t.Errorf("%s is not found", r)
		}
	}
	if len(got) != 6 {
		t.Errorf("found too much: %v", got)
	}
	if err := run(io.Discard, dir); err == nil || !strings.Contains(err.Error(), "rule A2 has no test") {
		t.Errorf("got %v", err)
	}
}
