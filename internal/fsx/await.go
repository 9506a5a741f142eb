package fsx

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// recheckInterval is how often Await checks the path in spite of its watch. inotify does not report a mount, a change
	// of a link's target, a parent directory that is replaced, or a change by another host on a network file system.
	// pollInterval is how often Await checks if it has no watch, because root has used up the limit of a user
	// (fs.inotify.max_user_instances, often 128).
	recheckInterval = 5 * time.Second
	pollInterval    = 250 * time.Millisecond
	// creationEvents is the set of events that may create the file or remove the directory in which it is expected.
	creationEvents = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
)

// Await waits until a file or a directory exists at path. If ctx ends first, it returns the cause. The parents of path
// need not exist yet. For an existing file it only calls stat.
//
// Each waiting call takes one of the user's few inotify instances, so many processes should not wait for the same file
// at the same time.
func Await(ctx context.Context, path string) error {
	if exists(path) {
		return nil
	}
	w := newWatch()
	defer w.close()
	for {
		dir := deepest(path)
		moved := w.move(dir)
		// This check must follow the start of the watch, or a file that was created in between would be missed.
		if exists(path) {
			return nil
		}
		if moved && deepest(path) != dir {
			continue
		}
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// deepest returns the existing directory that is nearest to path.
func deepest(path string) string {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
	}
}

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
