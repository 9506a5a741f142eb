package fsx

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Held tells whether somebody holds the lock on key in file, this process included. It takes no lock and waits for
// none, so the answer may be old when it arrives. Of a file that is not there nobody holds anything.
func Held(file, key string) (bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at lock %q in %q: %w", key, file, err)
	}
	defer f.Close() // nothing was written
	// The kernel answers in the structure: the lock that is in the way, or F_UNLCK.
	flock := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: offset(key), Len: 1}
	for {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &flock)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return false, fmt.Errorf("look at lock %q in %q: %w", key, file, os.NewSyscallError("fcntl", err))
	}
	return flock.Type != unix.F_UNLCK, nil
}
