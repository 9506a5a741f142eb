package fsx

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

var (
	// ErrName is wrapped by the error for a name that is not one plain component of a path.
	ErrName = errors.New("not a plain file name")
	// ErrNotRegular is wrapped by the error for a link, a pipe, a device, a socket or a directory.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooLarge is wrapped by the error for a file that is larger than its reader accepts.
	ErrTooLarge = errors.New("file too large")
)

// PlainName returns an error that wraps ErrName if name, joined to a directory, could be anything but an entry of that
// directory: an empty name, "." and "..", and every name with a slash or a NUL byte.
func PlainName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	return nil
}

// ReadRegular returns the content of the file name in dir, which may have at most limit bytes. It does not follow a
// link at that name and does not block on a pipe. A plain name and O_NOFOLLOW keep the lookup inside dir on every
// kernel, as openat2 with RESOLVE_BENEATH does on newer ones. Errors wrap ErrName, ErrNotRegular and ErrTooLarge.
func ReadRegular(dir, name string, limit int64) ([]byte, error) {
	if err := PlainName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	return readRegular(path, openNoFollow, limit)
}

// ReadFile is ReadRegular for a path that the administrator chose: it follows links.
func ReadFile(path string, limit int64) ([]byte, error) { return readRegular(path, open, limit) }

func readRegular(path string, open func(string) (*os.File, error), limit int64) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read %q: %w", path, ErrNotRegular)
	case info.Size() > limit:
		return nil, fmt.Errorf("read %q: %w: %d bytes, at most %d", path, ErrTooLarge, info.Size(), limit)
	}
	b := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	_, err = b.ReadFrom(io.LimitReader(f, limit+1)) // the file may have grown
	if err == nil && int64(b.Len()) > limit {
		return nil, fmt.Errorf("read %q: %w: more than %d bytes", path, ErrTooLarge, limit)
	}
	return b.Bytes(), err
}

// RemoveLink removes path if it is a symbolic link, and returns the target of the link. It returns "" for anything
// else, and if path does not exist.
func RemoveLink(path string) (target string, err error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return "", nil
	case err != nil:
		return "", err
	case info.Mode()&os.ModeSymlink == 0:
		return "", nil
	}
	if target, err = os.Readlink(path); err == nil {
		err = Remove(path)
	}
	return target, err
}

// MakeDir is os.MkdirAll for a directory that only this program uses: a symbolic link in its place is removed, not
// followed.
func MakeDir(path string, perm os.FileMode) error {
	if _, err := RemoveLink(path); err != nil {
		return err
	}
	return os.MkdirAll(path, perm)
}
