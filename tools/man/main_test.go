package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPages checks that every command has a page with its flags, and that two runs write the same pages.
func TestPages(t *testing.T) {
	t.Parallel()
	first, second := t.TempDir(), t.TempDir()
	for _, dir := range []string{first, second} {
		if err := write(dir); err != nil {
			t.Fatal(err)
		}
	}
	pages, err := filepath.Glob(filepath.Join(first, "*.1"))
	if err != nil || len(pages) < 14 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range pages {
		a, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, filepath.Base(page)))
		if err != nil || string(a) != string(b) {
			t.Errorf("%s differs from one run to the next: %v", filepath.Base(page), err)
		}
	}
	doctor, err := os.ReadFile(filepath.Join(first, "multusctl-doctor.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"multusctl-doctor", `--networks-dir`, "a command that helps"} {
		if !strings.Contains(strings.ReplaceAll(string(doctor), `\-`, "-"), want) {
			t.Errorf("no %q in\n%s", want, doctor)
		}
	}
	if err := write(filepath.Join(first, "multusctl.1", "x")); err == nil {
		t.Error("a directory that cannot be made")
	}
}
