package fsx

import (
	"errors"
	"os"
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

// File returns the file that holds the lock, to be inherited by children. A child that has it holds the lock as long as
// it runs. The file belongs to the Lock; do not close it.
func (l *Lock) File() *os.File { return l.file }

// Close closes this process's copy of the lock's descriptor. It never unlocks: if a child has inherited the descriptor,
// the child keeps the lock, and an explicit unlock would take it away from the child as well.
func (l *Lock) Close() error { return l.file.Close() }
