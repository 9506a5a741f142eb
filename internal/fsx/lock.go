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

var (
	// ErrLocked is wrapped by the error of Acquire and TryAcquire if the lock is held elsewhere.
	ErrLocked = errors.New("already held")
	// ErrShared is wrapped in addition to ErrLocked by the error of TryAcquire if only shared locks are in the way. Multus
	// takes no shared locks; they belong to a process that can read the file and not write it.
	ErrShared = errors.New("by a shared lock, which Multus does not use")
)

// Lock is an advisory lock on one key, held from Acquire until the last copy of its descriptor is closed.
//
// All keys share one lock file. A key is one byte of the file, at an offset that is a hash of the key. So no file has
// to be removed per key, and the lock file must never be removed: two processes would then lock two different files.
// Two keys whose 62-bit hashes collide exclude each other. That only costs waiting time, unless one process needs both
// at the same time; with a million keys the odds of any collision are one in ten million.
//
// It is an open-file-description lock (F_OFD_SETLK): it belongs to the open file, not to the process. A child that
// inherits File shares the description, and so does a child that was forked without exec. Each of them keeps the lock
// after all others have closed it or died, even by SIGKILL. For this reason a DEL waits for the delegates of an ADD
// whose plugin was killed (architecture, "Ledger"). Two calls of Acquire in one process also exclude each other.
type Lock struct {
	file *os.File
}

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

// File returns the file that holds the lock, to be inherited by children. A child that has it holds the lock as long as
// it runs. The file belongs to the Lock; do not close it.
func (l *Lock) File() *os.File { return l.file }

// Close closes this process's copy of the lock's descriptor. It never unlocks: if a child has inherited the descriptor,
// the child keeps the lock, and an explicit unlock would take it away from the child as well.
func (l *Lock) Close() error { return l.file.Close() }

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
