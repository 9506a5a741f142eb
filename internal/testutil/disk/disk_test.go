package disk

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCut checks that synced data exists after a power loss and that other data is lost. All tests that use the disk
// depend on it.
func TestCut(t *testing.T) {
	d := New(t)
	write := func(name string, sync bool) {
		t.Helper()
		f, err := os.Create(filepath.Join(d.Dir, name))
		must(t, err)
		_, err = f.WriteString(name)
		must(t, err)
		if sync {
			must(t, f.Sync())
		}
		must(t, f.Close())
	}
	write("data lost", false) // the journal has its name: the sync of the next file writes it
	write("kept", true)
	write("all lost", false)
	d.Cut(t)
	if _, err := os.ReadFile(filepath.Join(d.Dir, "kept")); err == nil {
		t.Error("a disk without power answers")
	}
	d.Mount(t)
	for name, want := range map[string]string{"data lost": "", "kept": "kept"} {
		if got, err := os.ReadFile(filepath.Join(d.Dir, name)); err != nil || string(got) != want {
			t.Errorf("%q holds %q: %v; want %q", name, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(d.Dir, "all lost")); err == nil {
		t.Error("a file that was never synced is there")
	}
}
