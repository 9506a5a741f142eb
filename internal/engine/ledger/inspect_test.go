package ledger

import (
	"os"
	"path/filepath"
	"testing"
)

// TestInspect: looking changes nothing, whatever is there (behaviour.md D80; P06).
func TestInspect(t *testing.T) {
	t.Parallel()
	s := store(t)
	if err := s.Write(full(t)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.Dir, "broken"), `[{"Bytes":"e30="},`)
	if r, err := s.Inspect("c0ffee", "eth0"); err != nil || len(r.Attachments) != 2 || r.Netns != "/run/netns/x" {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := s.Inspect("broken", "eth0"); err == nil || r == nil {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := s.Inspect("none", "eth0"); err != nil || r != nil {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, damagedDir)); err == nil {
		t.Error("something was put aside")
	}
	if d, err := s.Damaged(); err != nil || len(d) != 0 {
		t.Errorf("%v, %v", d, err)
	}
	if _, err := s.Read("broken", "eth0"); err != nil {
		t.Fatal(err)
	}
	if d, err := s.Damaged(); err != nil || len(d) != 1 {
		t.Errorf("%v, %v", d, err)
	}
}
