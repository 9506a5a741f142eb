package fsx

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestWriteAtomic(t *testing.T) {
	for _, tt := range []struct {
		name string
		old  string // content before, "" for no file
		data string
		perm os.FileMode
	}{
		{name: "new", data: "content", perm: 0o600},
		{name: "replaces", old: "a longer old content", data: "new", perm: 0o644},
		{name: "empty", old: "old", data: "", perm: 0o600},
		{name: "more than the umask allows", data: "x", perm: 0o666},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			if tt.old != "" {
				write(t, path, tt.old)
			}
			if err := WriteAtomic(path, []byte(tt.data), tt.perm); err != nil {
				t.Fatal(err)
			}
			if got := read(t, path); got != tt.data {
				t.Errorf("content %q, want %q", got, tt.data)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != tt.perm {
				t.Errorf("mode %v, want %v", info.Mode(), tt.perm)
			}
			wantNames(t, dir, "file")
		})
	}
}

func TestWriteAtomicReplacesALink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	write(t, target, "untouched")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := WriteAtomic(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, target); got != "untouched" {
		t.Errorf("the target of the link holds %q", got)
	}
	if got := read(t, link); got != "new" {
		t.Errorf("the path holds %q", got)
	}
}

func TestWriteAtomicFails(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setUp func(t *testing.T, dir string) (path string)
		want  error
	}{
		{"directory missing", func(_ *testing.T, dir string) string {
			return filepath.Join(dir, "missing", "file")
		}, fs.ErrNotExist},
		{"directory is a file", func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "file"), "")
			return filepath.Join(dir, "file", "file")
		}, syscall.ENOTDIR},
		{"path is a directory", func(t *testing.T, dir string) string { // fails as late as in rename
			if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
				t.Fatal(err)
			}
			return filepath.Join(dir, "sub")
		}, fs.ErrExist},
		{"read-only directory", func(t *testing.T, dir string) string {
			if os.Geteuid() == 0 {
				t.Skip("root writes to read-only directories; see TestWriteAtomicReadOnlyFilesystem")
			}
			if err := os.Chmod(dir, 0o500); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(dir, 0o700) })
			return filepath.Join(dir, "file")
		}, fs.ErrPermission},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := tt.setUp(t, dir)
			before := names(t, dir)
			err := WriteAtomic(path, []byte("new"), 0o600)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if err == nil || !strings.HasPrefix(err.Error(), `write "`+path+`": `) {
				t.Errorf("error %v does not name the path", err)
			}
			wantNames(t, dir, before...)
		})
	}
}

// TestWriteAtomicReadOnlyFilesystem uses a read-only file system: a read-only directory does not stop root.
func TestWriteAtomicReadOnlyFilesystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "file")
	write(t, path, "old")

	// A megabyte does not fit into 64 KiB: the write fails in the middle, and its temporary file must be removed.
	if err := WriteAtomic(path, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("full filesystem: error %v, want %v", err, syscall.ENOSPC)
	}
	wantNames(t, dir, "file")

	if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := WriteAtomic(path, []byte("new"), 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("read-only filesystem: error %v, want %v", err, syscall.EROFS)
	}
	if got := read(t, path); got != "old" {
		t.Errorf("content %q after failures, want the old one", got)
	}
}

// TestWriteAtomicReaders reads as fast as possible while the file is replaced.
func TestWriteAtomicReaders(t *testing.T) {
	const versions = 100
	path := filepath.Join(t.TempDir(), "file")
	// Larger than any buffer on the way. Each version consists of a single repeated byte and has a length of its own.
	version := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, 100_000+i) }
	if err := WriteAtomic(path, version(0), 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error)
	go func() {
		defer close(written)
		for i := range versions {
			if err := WriteAtomic(path, version(i), 0o600); err != nil {
				written <- err
				return
			}
		}
	}()
	for reads := 0; ; reads++ {
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d reads of %d versions", reads, versions)
			return
		default:
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		if i := len(got) - 100_000; i < 0 || i >= versions || !bytes.Equal(got, version(i)) {
			t.Errorf("read %d bytes that no version has", len(got))
		}
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	file, sub := filepath.Join(dir, "file"), filepath.Join(dir, "sub")
	write(t, file, "")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"there", "gone"} {
		if err := Remove(file); err != nil {
			t.Errorf("file is %s: %v", step, err)
		}
	}
	if err := Remove(filepath.Join(dir, "missing", "file")); err != nil {
		t.Errorf("directory is missing: %v", err)
	}
	if err := Remove(sub); err == nil {
		t.Error("removed a directory")
	}
	wantNames(t, dir, "sub")
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-time.Hour)
	ours, err := tempName()
	if err != nil {
		t.Fatal(err)
	}
	keep := []string{
		"file", ".hidden", tempPrefix, tempPrefix + "0123", tempPrefix + "0123456789abcdeg",
		"x" + ours, ours + ".conf",
	}
	for _, name := range append(keep, ours) {
		write(t, filepath.Join(dir, name), "")
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	young, subdir := tempPrefix+"0123456789abcdef", tempPrefix+"fedcba9876543210"
	write(t, filepath.Join(dir, young), "")
	if err := os.Mkdir(filepath.Join(dir, subdir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, subdir), old, old); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(dir, time.Minute); err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir, append(keep, young, subdir)...)

	if err := Sweep(filepath.Join(dir, "missing"), 0); err != nil {
		t.Errorf("missing directory: %v", err)
	}
	if err := Sweep(filepath.Join(dir, "file"), 0); err == nil {
		t.Error("sweeping a file is not an error")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// names returns the names in dir, sorted.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("directory holds %q, want %q", got, want)
	}
}

// TestWriteAtomicIf checks that a file stays if the condition does not hold, and that no temporary file is left.
func TestWriteAtomicIf(t *testing.T) {
	t.Parallel()
	for _, still := range []bool{true, false} {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		written, err := WriteAtomicIf(path, []byte("new"), 0o600, func() bool { return still })
		got, rerr := os.ReadFile(path)
		if err != nil || rerr != nil || written != still || string(got) != map[bool]string{true: "new", false: "old"}[still] {
			t.Errorf("still %t: written %t, %q, %v", still, written, got, errors.Join(err, rerr))
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("left: %v, %v", entries, err)
		}
	}
}
