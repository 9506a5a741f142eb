package ledger

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInspect checks that Inspect changes nothing, whatever the directory contains (behaviour D80; multus-cni#1449).
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
		t.Error("a file was moved aside")
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

// TestSurvey checks that a record that cannot be read completely is reported as damaged and stays in place. It is also
// reported as damaged after Read has set it aside, until the sandbox is deleted.
func TestSurvey(t *testing.T) {
	t.Parallel()
	s := store(t)
	if err := s.Write(full(t)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.Dir, "broken"), `[{"Bytes":"e30="},`)
	write(t, filepath.Join(s.Dir, "lock"), "")
	for _, err := range []error{
		os.Symlink("/dev/null", filepath.Join(s.Dir, "link")),
		os.Mkdir(filepath.Join(s.Dir, "other-net"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	result(t, s, "n", "no-config", "net1", `{}`)
	survey := func(id string, damaged, foreign bool, attached int) {
		t.Helper()
		r, err := s.Survey(id, "eth0")
		if err != nil || r.Damaged != damaged || r.Foreign != foreign || len(r.Attachments) != attached {
			t.Errorf("%s: %+v, %v", id, r, err)
		}
	}
	for range 2 {
		survey("c0ffee", false, false, 2)
		survey("broken", true, false, 0)
		survey("lock", true, true, 0)
		survey("other-net", true, true, 0)
		survey("link", true, false, 0)
		survey("no-config", true, false, 0)
		survey("none", false, false, 0)
	}
	if _, err := s.Read("link", "eth0"); err != nil || s.Has("link") || !s.HasTrace("link") {
		t.Errorf("moved aside: %v", err)
	}
	survey("link", true, false, 0)
	if err := s.Remove("link"); err != nil || s.HasTrace("link") {
		t.Errorf("deleted: %v", err)
	}
	survey("link", false, false, 0)
	if d, err := s.Damaged(); err != nil || len(d) != 1 {
		t.Errorf("kept: %v, %v", d, err)
	}
	if err := s.SetAside("broken"); err != nil || !s.Has("broken") {
		t.Errorf("%v", err)
	}
	if d, err := s.Damaged(); err != nil || len(d) != 2 {
		t.Errorf("kept: %v, %v", d, err)
	}
	if _, err := s.Survey("../x", "eth0"); err == nil || s.HasTrace("../x") {
		t.Error("a name that leads out of the directory")
	}
}

// TestUnchangeable checks which sandboxes are left alone, and that the reason is given.
func TestUnchangeable(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Record){
		"":                                       func(*Record) {},
		"the record is damaged":                  func(r *Record) { r.Damaged = true },
		"was undone":                             func(r *Record) { r.Progress.Undone = true },
		"the DEL of the sandbox has begun":       func(r *Record) { r.Progress.Begun = 1 },
		"attached before the node was last star": func(r *Record) { r.Boot = "earlier" },
	} {
		r := full(t)
		r.Boot = "now"
		change(r)
		if got := r.Unchangeable("now"); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if r := full(t); r.BeforeBoot("now") {
		t.Error("the boot of the record is not known")
	}
}
