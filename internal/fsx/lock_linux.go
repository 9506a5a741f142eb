package fsx

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Acquire takes the lock on key in file and waits until the lock is free or ctx ends. If ctx ends, the error wraps both
// ErrLocked and ctx.Err(). A free lock is taken even if ctx has ended, because that needs no wait. A missing file is
// created with mode 0600, its missing parents with mode 0700.
//
// The kernel has no way to cancel a wait. After ctx has ended, a goroutine, a thread and a descriptor remain until the
// lock is free; it is then released at once.
func Acquire(ctx context.Context, file, key string) (*Lock, error) {
	f, err := openLockFile(file)
	if err != nil {
		return nil, fmt.Errorf("lock %q in %q: %w", key, file, err)
	}
	err = setLock(f, unix.F_OFD_SETLK, key)
	if err == nil {
		return &Lock{file: f}, nil
	}
	if !errors.Is(err, ErrLocked) {
		return nil, errors.Join(fmt.Errorf("lock %q in %q: %w", key, file, err), f.Close())
	}

	won := make(chan error)
	go wait(ctx, f, key, won)
	select {
	case err = <-won:
	case <-ctx.Done():
		return nil, fmt.Errorf("lock %q in %q: %w: %w", key, file, ErrLocked, ctx.Err())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q in %q: %w", key, file, err), f.Close())
	}
	return &Lock{file: f}, nil
}

// wait blocks in the kernel until f has the lock and passes the result to Acquire. If Acquire has returned, it closes
// f, which releases the lock: f has no other user.
func wait(ctx context.Context, f *os.File, key string, won chan<- error) {
	err := setLock(f, unix.F_OFD_SETLKW, key)
	select {
	case won <- err:
	case <-ctx.Done():
		f.Close() // there is no receiver for an error, and nothing was written
	}
}

// TryAcquire is Acquire without waiting. If the lock is held, the error wraps ErrLocked and, if it applies, ErrShared.
func TryAcquire(file, key string) (*Lock, error) {
	f, err := openLockFile(file)
	if err == nil {
		if err = setLock(f, unix.F_OFD_SETLK, key); err == nil {
			return &Lock{file: f}, nil
		}
		if held, herr := holder(f, key); herr == nil && held == unix.F_RDLCK && errors.Is(err, ErrLocked) {
			err = fmt.Errorf("%w: %w", err, ErrShared)
		}
		err = errors.Join(err, f.Close())
	}
	return nil, fmt.Errorf("lock %q in %q: %w", key, file, err)
}

// Release unlocks for all processes, including those that have inherited the lock and are still running. It is for the
// end of an operation that has waited for all its children. Processes that they left running must not hold the lock
// forever.
func (l *Lock) Release() error {
	// The description holds no other byte of the file.
	err := unix.FcntlFlock(l.file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart})
	return errors.Join(os.NewSyscallError("fcntl", err), l.Close())
}

// openLockFile opens a separate description for each lock: descriptions, not descriptors, own locks.
func openLockFile(file string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
}

// setLock runs F_OFD_SETLK or F_OFD_SETLKW. It returns ErrLocked if the lock is held elsewhere.
func setLock(f *os.File, cmd int, key string) error {
	flock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: offset(key), Len: 1}
	for {
		// Fd is safe here: regular files are always in blocking mode, and f is closed only after this returns.
		err := unix.FcntlFlock(f.Fd(), cmd, &flock)
		switch err {
		case nil:
			return nil
		case unix.EINTR: // the Go runtime sends signals to its own process
		case unix.EAGAIN, unix.EACCES:
			return ErrLocked
		default:
			return os.NewSyscallError("fcntl", err)
		}
	}
}

// offset returns the byte of the lock file that represents key. It has 62 bits, because the kernel requires offset plus
// length to fit a signed 64-bit number.
func offset(key string) int64 {
	h := fnv.New64a()
	h.Write([]byte(key)) // a hash never fails
	return int64(h.Sum64() >> 2)
}
