package fsx

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Held reports whether any process, including this one, holds the lock on key in file. It neither takes a lock nor
// waits, so the result may be outdated when it is returned. If the file does not exist, the lock is not held.
func Held(file, key string) (bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("inspect lock %q in %q: %w", key, file, err)
	}
	defer f.Close() // nothing was written
	held, err := holder(f, key)
	if err != nil {
		return false, fmt.Errorf("inspect lock %q in %q: %w", key, file, err)
	}
	return held != unix.F_UNLCK, nil
}

// holder returns the type of a lock that conflicts with one on key through f: F_WRLCK, F_RDLCK, or F_UNLCK for none.
func holder(f *os.File, key string) (int16, error) {
	// The kernel returns the result in this structure.
	flock := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: offset(key), Len: 1}
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &flock)
		if !errors.Is(err, unix.EINTR) {
			return flock.Type, os.NewSyscallError("fcntl", err)
		}
	}
}
