package fsx

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// unlink removes the file at path, if it exists. It refuses directories.
func unlink(path string) error {
	for {
		err := unix.Unlink(path)
		switch err {
		case nil, unix.ENOENT:
			return nil
		case unix.EINTR:
			continue
		case unix.EROFS: // the kernel returns it before it checks whether the file exists
			if _, lerr := os.Lstat(path); errors.Is(lerr, fs.ErrNotExist) {
				return nil
			}
		}
		return err
	}
}

// random fills b, which has at most 256 bytes. It uses getrandom directly: crypto/rand would add its start-up time to
// the plugin.
func random(b []byte) error {
	for {
		n, err := unix.Getrandom(b, 0)
		if err == nil && n == len(b) { // up to 256 bytes are returned at once
			return nil
		}
		if err != nil && err != unix.EINTR {
			return err
		}
	}
}
