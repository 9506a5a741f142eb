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
	// ErrLocked is what the error of Acquire and TryAcquire wraps if somebody else holds the lock.
	ErrLocked = errors.New("held by somebody else")
	// ErrShared is wrapped beside ErrLocked by the error of TryAcquire if what is in the way are shared locks only, which
	// nobody takes here: those of a process that may read the file, not write it.
	ErrShared = errors.New("by a process that is not Multus")
)

// Lock is an advisory lock on one key, held from Acquire until the last copy of its descriptor is closed.
//
// All keys share one lock file: a key is one byte of it, at an offset that is a hash of the key. So nothing has to
// be cleaned up per key, and the file must never be removed: two processes would then lock two different files. Two
// keys whose 62-bit hashes collide exclude each other, which costs waiting and nothing else, unless one process
// wants both at a time; with a million keys the odds of any collision are one in ten million.
//
// It is an open-file-description lock (F_OFD_SETLK): it belongs to the open file, not to the process. A child that
// is given File shares the description, and so does a child that was forked without exec. Each of them keeps the
// lock after everybody else has closed or died, SIGKILL included. That is what makes a DEL wait for the delegates
// of an ADD whose plugin was killed (architecture, "Ledger"). Two Acquires exclude each other inside one process as
// well.
type Lock struct {
	file *os.File
}

// Acquire takes the lock on key in file, waiting until it is free or ctx ends; then the error wraps both ErrLocked
// and ctx.Err(). A lock that is free is taken even if ctx has ended, for that needs no wait. A missing file is
// created with 0600, its missing parents with 0700.
//
// The kernel offers no way to give up a wait, so after a wait that ctx ended a goroutine, a thread and a descriptor
// stay until the lock is free; it is then given back at once.
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

// wait blocks in the kernel until f has the lock and hands it over to Acquire. If Acquire has left, closing f,
// which nobody else knows, gives the lock back.
func wait(ctx context.Context, f *os.File, key string, won chan<- error) {
	err := setLock(f, unix.F_OFD_SETLKW, key)
	select {
	case won <- err:
	case <-ctx.Done():
		f.Close() // nobody is left to hear of an error, and nothing was written
	}
}

// TryAcquire is Acquire without waiting: if the lock is held, the error wraps ErrLocked, and ErrShared where that
// holds.
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

// File is the descriptor that holds the lock, to be handed to children: one that has it keeps the lock for as long as
// it lives. It stays the Lock's; do not close it.
func (l *Lock) File() *os.File { return l.file }

// Close gives up this process's part of the lock. It never unlocks: if a child has inherited the descriptor, the
// lock stays with the child, and an explicit unlock would take it away from there as well.
func (l *Lock) Close() error { return l.file.Close() }

// Release gives the lock up for everybody, also for processes that have inherited it and live on: at the end of an
// operation whose children have all been waited for. What they left behind on purpose must not hold the lock for good.
func (l *Lock) Release() error {
	// The description holds no other byte of the file.
	err := unix.FcntlFlock(l.file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart})
	return errors.Join(os.NewSyscallError("fcntl", err), l.Close())
}

// openLockFile opens a description of its own for each lock: descriptions, not descriptors, own locks.
func openLockFile(file string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
}

// setLock runs one F_OFD_SETLK or F_OFD_SETLKW. Held elsewhere is ErrLocked.
func setLock(f *os.File, cmd int, key string) error {
	flock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: offset(key), Len: 1}
	for {
		// Fd is safe here: regular files are always in blocking mode, and f is closed only after this returns.
		err := unix.FcntlFlock(f.Fd(), cmd, &flock)
		switch err {
		case nil:
			return nil
		case unix.EINTR: // the Go runtime sends itself signals
		case unix.EAGAIN, unix.EACCES:
			return ErrLocked
		default:
			return os.NewSyscallError("fcntl", err)
		}
	}
}

// offset is the byte of the lock file that stands for key. 62 bits, because the kernel wants offset plus length to
// fit a signed 64-bit number.
func offset(key string) int64 {
	h := fnv.New64a()
	h.Write([]byte(key)) // a hash never fails
	return int64(h.Sum64() >> 2)
}
