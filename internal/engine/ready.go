package engine

import (
	"context"
	"errors"
	"os"

	"multus/internal/engine/session"
	"multus/internal/fault"
	"multus/internal/fsx"
)

// waitReady waits for readinessindicatorfile (behaviour D11, M1). It runs before the sandbox's lock is taken, so
// that no DEL has to wait for it.
func waitReady(ctx context.Context, s *session.Session) error {
	file := s.Conf.ReadinessIndicatorFile
	if file == "" {
		return nil
	}
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, ReadyLimit)
	defer cancel()
	// Only one process of the node watches the file. The number of inotify instances of root is limited, and the kubelet
	// and the runtime need theirs, most of all at boot, when every pod waits. Once the file appears, the lock passes from
	// one waiting process to the next.
	lock, err := fsx.Acquire(waiting, s.LockFile, "ready "+file)
	if err == nil {
		err = errors.Join(fsx.Await(waiting, file), lock.Release())
	}
	_, missing := os.Stat(file)
	switch {
	case missing == nil:
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case waiting.Err() != nil:
		err = missing
	}
	return fault.NotReady.Wrap(err, file)
}
