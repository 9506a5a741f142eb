package fsx

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// reading is a read of a file with a size limit, and its expected outcome.
type reading struct {
	name  string
	limit int64
	want  string
	err   error
}

func (r reading) check(t *testing.T, got []byte, err error) {
	t.Helper()
	if !errors.Is(err, r.err) || string(got) != r.want {
		t.Errorf("%q: %q, %v, want %q, %v", r.name, got, err, r.want, r.err)
	}
}

// TestReadRegular checks that only a regular file in the directory itself is read, up to the size limit, and that no
// link is followed.
func TestReadRegular(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(
		os.WriteFile(outside, []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(dir, "file"), []byte("12345678"), 0o600),
		os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600),
		os.Symlink(outside, filepath.Join(dir, "link")), os.Symlink("file", filepath.Join(dir, "inside")),
		os.Symlink("/dev/zero", filepath.Join(dir, "zero")), os.Mkdir(filepath.Join(dir, "dir"), 0o700),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []reading{
		{"file", 8, "12345678", nil},
		{"file", 1 << 20, "12345678", nil},
		{"file", 7, "", ErrTooLarge},
		{"empty", 0, "", nil},
		{"missing", 8, "", fs.ErrNotExist},
		{"link", 8, "", ErrNotRegular},
		{"inside", 8, "", ErrNotRegular},
		{"zero", 8, "", ErrNotRegular},
		{"dir", 8, "", ErrNotRegular},
		{"fifo", 8, "", ErrNotRegular},
		{"", 8, "", ErrName},
		{".", 8, "", ErrName},
		{"..", 8, "", ErrName},
		{"../" + filepath.Base(dir) + "/file", 8, "", ErrName},
		{"dir/../file", 8, "", ErrName},
		{"file\x00x", 8, "", ErrName},
	} {
		got, err := ReadRegular(dir, tc.name, tc.limit)
		tc.check(t, got, err)
	}
}

// TestReadFile checks that a link is followed, but only to a regular file up to the size limit.
func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(path("file"), []byte("12345678"), 0o600), os.Symlink("file", path("link")),
		os.Symlink("/dev/zero", path("zero")),
		os.Symlink("loop", path("loop")), unix.Mkfifo(path("fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []reading{
		{"file", 8, "12345678", nil},
		{"link", 8, "12345678", nil},
		{"link", 7, "", ErrTooLarge},
		{"zero", 8, "", ErrNotRegular},
		{"fifo", 8, "", ErrNotRegular},
		{".", 8, "", ErrNotRegular},
		{"loop", 8, "", unix.ELOOP},
		{"missing", 8, "", fs.ErrNotExist},
	} {
		got, err := ReadFile(path(tc.name), tc.limit)
		tc.check(t, got, err)
	}
}

// FuzzPlainName checks that a plain name, joined to a directory, is an entry of that directory.
func FuzzPlainName(f *testing.F) {
	for _, s := range []string{"", ".", "..", "a", "../a", "a/b", "/", "a\x00", "…", " ", "a/.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if PlainName(name) != nil {
			return
		}
		if path := filepath.Join("/d", name); filepath.Dir(path) != "/d" || !strings.HasSuffix(path, name) {
			t.Errorf("%q leads to %q", name, path)
		}
	})
}

// TestMakeDir checks that a link in the place of the directory is not followed, and that a directory stays unchanged.
func TestMakeDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside, link := filepath.Join(dir, "outside"), filepath.Join(dir, "a", "b")
	for _, err := range []error{os.Mkdir(outside, 0o700), os.Mkdir(filepath.Dir(link), 0o700), os.Symlink(outside, link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := MakeDir(link, 0o700); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(link); err != nil || !info.IsDir() {
			t.Fatalf("%v, %v", info, err)
		}
		if err := os.WriteFile(filepath.Join(link, "kept"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(outside, "kept"), filepath.Join(dir, "none", "c", "kept")} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is there", path)
		}
	}
	if err := MakeDir(filepath.Join(dir, "none", "c"), 0o700); err != nil {
		t.Error(err)
	}
}
