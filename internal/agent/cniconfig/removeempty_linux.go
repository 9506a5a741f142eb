package cniconfig

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// removeEmpty removes a directory, if it is empty.
func removeEmpty(dir string) error {
	switch err := unix.Rmdir(dir); err {
	case nil, unix.ENOTEMPTY, unix.EEXIST, unix.ENOENT:
		return nil
	default:
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
}
