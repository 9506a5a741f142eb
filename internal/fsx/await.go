package fsx

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lookAgain is how often Await looks in spite of its watch: a mount, the target of a link, a directory further up that
	// is replaced, a change on another host's side of a network file system are not told. lookOften is how often it does
	// where there can be no watch, because root has used up what the kernel grants a user (fs.inotify.max_user_instances,
	// often 128).
	lookAgain = 5 * time.Second
	lookOften = 250 * time.Millisecond
	// coming are the events that can bring a file, or take the directory away in which it was expected.
	coming = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
)

// Await waits until there is something at path, a file or a directory, and returns the cause of ctx's end if that comes
// first. Its parents need not exist yet. A file that is there costs a look at it and no more.
//
// Each waiting Await takes one of the few inotify instances of the user, so that many processes should not wait for the
// same file at a time.
func Await(ctx context.Context, path string) error {
	if there(path) {
		return nil
	}
	w := newWatch()
	defer w.close()
	for {
		dir := deepest(path)
		moved := w.move(dir)
		// Only now, or what came before the watch would be missed.
		if there(path) {
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

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// deepest is the directory nearest to path that exists.
func deepest(path string) string {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
	}
}

// watch tells of what comes into one directory; where there can be no watch it only tells the time.
type watch struct {
	file *os.File // nil where there can be none
	id   int      // of the directory, 0 for none
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

// move makes dir, as it is now, the directory that is watched; it may have been another one under the same name.
// False means that it cannot be, and none is.
func (w *watch) move(dir string) bool {
	if w.file == nil {
		return false
	}
	before := w.id
	w.id = 0
	conn, err := w.file.SyscallConn() // Fd would make the file blocking, and its reads endless
	if err != nil {
		return false
	}
	err = conn.Control(func(fd uintptr) {
		id, err := unix.InotifyAddWatch(int(fd), dir, coming)
		if before != 0 && (err != nil || id != before) {
			_, _ = unix.InotifyRmWatch(int(fd), uint32(before)) // it may have ended with its directory
		}
		if err == nil {
			w.id = id
		}
	})
	return err == nil && w.id != 0
}

// wait returns when something has happened or when it is time to look again, and with the cause when ctx has ended.
func (w *watch) wait(ctx context.Context) error {
	if w.id == 0 {
		timer := time.NewTimer(lookOften)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := w.file.SetReadDeadline(time.Now().Add(lookAgain))
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err == nil {
		var events [4096]byte // what has happened does not matter
		_, err = w.file.Read(events[:])
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !os.IsTimeout(err) {
		w.close()
		w.file, w.id = nil, 0 // it tells the time from now on
	}
	return nil
}
