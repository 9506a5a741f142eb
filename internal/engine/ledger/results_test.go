package ledger

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestResultName checks that names that libcni refuses at ADD have no entry.
func TestResultName(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ network, container, ifName, want string }{
		{"net", "c", "eth0", "net-c-eth0"},
		{"", "c", "eth0", ""},
		{"../net", "c", "eth0", ""},
		{"net", "c/../d", "eth0", ""},
		{"net", "c", "..", ""},
		{"net", "c", "a/b", ""},
		{"net\x00", "c", "eth0", ""},
	} {
		got, err := ResultName(tc.network, tc.container, tc.ifName)
		if (err == nil) != (tc.want != "") || err == nil && got != tc.want {
			t.Errorf("%q %q %q: %q, %v", tc.network, tc.container, tc.ifName, got, err)
		}
	}
}

// TestResultPlace checks that only a regular file is an entry. A link or a pipe in its place is not, and it is removed
// without its target.
func TestResultPlace(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	file := func(name string) string { return filepath.Join(ResultsDir(state), name) }
	if err := errors.Join(
		os.Mkdir(ResultsDir(state), 0o700), os.WriteFile(file("net-c-eth0"), []byte("x"), 0o600),
		os.Symlink("net-c-eth0", file("link-c-eth0")), unix.Mkfifo(file("pipe-c-eth0"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"net-c-eth0": true, "link-c-eth0": false, "pipe-c-eth0": false,
		"none-c-eth0": false,
	} {
		if got := HasResult(state, name); got != want {
			t.Errorf("HasResult(%s) = %t", name, got)
		}
		if _, err := ReadResult(state, name); (err == nil) != want {
			t.Errorf("ReadResult(%s): %v", name, err)
		}
		if err := ClearResult(state, name); err != nil {
			t.Errorf("ClearResult(%s): %v", name, err)
		}
		if _, err := os.Lstat(file(name)); (err == nil) != want {
			t.Errorf("%s after Clear: %v", name, err)
		}
	}
}

// TestList checks that a file that libcni cannot have written is passed to aside unread, and that the entries are
// listed.
func TestList(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	entry := `{"kind":"cniCacheV1","containerId":"c","config":"e30=","ifName":"eth0","networkName":"net","result":{"cniVersion":"1.0.0"}}`
	path := filepath.Join(ResultsDir(state), "net-c-eth0")
	link := filepath.Join(ResultsDir(state), "z")
	if err := errors.Join(os.Mkdir(ResultsDir(state), 0o700), os.WriteFile(path, []byte(entry), 0o600),
		os.Symlink("/dev/zero", link)); err != nil {
		t.Fatal(err)
	}
	var aside []string
	got, err := listResults(state, "c", slog.New(slog.DiscardHandler), func(path string) error {
		aside = append(aside, path)
		return os.Remove(path)
	})
	if err != nil || len(got) != 1 || got[0].Network != "net" || len(aside) != 1 || aside[0] != link {
		t.Errorf("%+v, aside %v, %v", got, aside, err)
	}
}
