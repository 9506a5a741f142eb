package resultcache

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestName checks that names that libcni refuses at ADD have no entry.
func TestName(t *testing.T) {
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
		got, err := Name(tc.network, tc.container, tc.ifName)
		if (err == nil) != (tc.want != "") || err == nil && got != tc.want {
			t.Errorf("%q %q %q: %q, %v", tc.network, tc.container, tc.ifName, got, err)
		}
	}
}

// TestPlace checks that only a regular file is an entry. A link or a pipe in its place is not, and it is removed
// without its target.
func TestPlace(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	file := func(name string) string { return filepath.Join(Dir(state), name) }
	if err := errors.Join(
		os.Mkdir(Dir(state), 0o700), os.WriteFile(file("net-c-eth0"), []byte("x"), 0o600),
		os.Symlink("net-c-eth0", file("link-c-eth0")), unix.Mkfifo(file("pipe-c-eth0"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"net-c-eth0": true, "link-c-eth0": false, "pipe-c-eth0": false,
		"none-c-eth0": false,
	} {
		if got := Has(state, name); got != want {
			t.Errorf("Has(%s) = %t", name, got)
		}
		if _, err := Read(state, name); (err == nil) != want {
			t.Errorf("Read(%s): %v", name, err)
		}
		if err := Clear(state, name); err != nil {
			t.Errorf("Clear(%s): %v", name, err)
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
	path := filepath.Join(Dir(state), "net-c-eth0")
	link := filepath.Join(Dir(state), "z")
	if err := errors.Join(os.Mkdir(Dir(state), 0o700), os.WriteFile(path, []byte(entry), 0o600),
		os.Symlink("/dev/zero", link)); err != nil {
		t.Fatal(err)
	}
	var aside []string
	got, err := List(state, "c", slog.New(slog.DiscardHandler), func(path string) error {
		aside = append(aside, path)
		return os.Remove(path)
	})
	if err != nil || len(got) != 1 || got[0].Network != "net" || len(aside) != 1 || aside[0] != link {
		t.Errorf("%+v, aside %v, %v", got, aside, err)
	}
}
