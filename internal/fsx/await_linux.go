package fsx

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// creationEvents is the set of events that may create the file or remove the directory in which it is expected.
const creationEvents = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// watch reports changes in one directory. If there can be no watch, it is only a timer.
type watch struct {
	file *os.File // nil if there can be no watch
	id   int      // watch descriptor of the directory, 0 for none
}

func newWatch() *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &watch{}
	}
	return &watch{file: os.NewFile(uintptr(fd), "inotify")}
}

func (w *watch) close() {
	if w.file != nil {
		_ = w.file.Close() // it was only read
	}
}

// move sets the watched directory to dir. The previous directory may have had the same name. If move returns false, no
// directory is watched.
func (w *watch) move(dir string) bool {
	if w.file == nil {
		return false
	}
	before := w.id
	w.id = 0
	conn, err := w.file.SyscallConn() // Fd would make the file blocking, and its reads could not be interrupted
	if err != nil {
		return false
	}
	err = conn.Control(func(fd uintptr) {
		id, err := unix.InotifyAddWatch(int(fd), dir, creationEvents)
		if before != 0 && (err != nil || id != before) {
			_, _ = unix.InotifyRmWatch(int(fd), uint32(before)) // the watch may have ended with its directory
		}
		if err == nil {
			w.id = id
		}
	})
	return err == nil && w.id != 0
}

// wait returns nil when an event has occurred or when it is time to check again. It returns the cause when ctx has
// ended.
func (w *watch) wait(ctx context.Context) error {
	if w.id == 0 {
		timer := time.NewTimer(pollInterval)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := w.file.SetReadDeadline(time.Now().Add(recheckInterval))
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err == nil {
		var events [4096]byte // the kind of event does not matter
		_, err = w.file.Read(events[:])
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !os.IsTimeout(err) {
		w.close()
		w.file, w.id = nil, 0 // only a timer from now on
	}
	return nil
}
