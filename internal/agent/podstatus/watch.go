package podstatus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/fsx"
)

const (
	// scanInterval is the interval at which the directory is scanned for reports that the watch has missed.
	// scanIntervalUnwatched is the interval without a watch.
	scanInterval          = time.Minute
	scanIntervalUnwatched = time.Second
)

// watch takes up the reports that plugins leave in files: those of pods that do not wait for their status, and those
// that the daemon did not answer in time. It returns when ctx has ended.
func (w *Writer) watch(ctx context.Context) error {
	var dir watched
	defer func() { dir.close() }()
	unwatched := false
	for {
		if !dir.current(w.spool.dir) {
			dir.close()
			var err error
			if dir, err = watchDir(w.spool.dir); err != nil && !unwatched {
				w.log.Warn("cannot watch for reports: scanning for them instead", "every", scanIntervalUnwatched.String(),
					"err", err)
			}
			unwatched = err != nil
			w.watching.Store(!unwatched)
		}
		w.scanAndQueue() // after the watch exists, so that no file is missed
		wait := scanInterval
		if unwatched {
			wait = scanIntervalUnwatched
		}
		if !w.follow(ctx, &dir, w.clock.After(wait)) {
			return nil
		}
	}
}

// follow takes up files as they are created. It returns true when the whole directory has to be scanned, and false when
// ctx ends.
func (w *Writer) follow(ctx context.Context, dir *watched, look <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case name, watching := <-dir.created:
			if !watching {
				w.log.Debug("the watch for reports has ended: watching again")
				dir.close()
				return true
			}
			w.scanFile(name)
		case <-look:
			return true
		}
	}
}

// watched is a directory and its watch. The zero value has no watch: the kernel limits the number of watches of a user.
type watched struct {
	dir os.FileInfo
	// created delivers the names of files that are complete. It is closed when the watch ends or has missed one. Without
	// a watch it is nil and never delivers.
	created <-chan string
	stop    func()
}

// watchDir watches a directory, which it creates if it does not exist. The watch is of renamed files only: plugins
// write a report to a temporary file, and a watch of all changes would wake the daemon several times for each report.
func watchDir(dir string) (watched, error) {
	if err := fsx.MakeDir(dir, 0o700); err != nil {
		return watched{}, fmt.Errorf("watch reports: %w", err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return watched{}, fmt.Errorf("watch reports in %s: %w", dir, err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR)
	info, serr := os.Stat(dir)
	if err = errors.Join(err, serr); err != nil {
		_ = events.Close() // nothing was written
		return watched{}, fmt.Errorf("watch reports in %s: %w", dir, err)
	}
	created, ended := make(chan string), make(chan struct{})
	go deliver(events, created, ended)
	return watched{dir: info, created: created, stop: func() {
		close(ended)
		_ = events.Close() // ends a read
	}}, nil
}

// deliver sends the names of the events to created until the watch ends.
func deliver(events io.Reader, created chan<- string, ended <-chan struct{}) {
	defer close(created)
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := events.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			mask := binary.NativeEndian.Uint32(b[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			name := unix.ByteSliceToString(b[unix.SizeofInotifyEvent:end])
			b = b[end:]
			if mask&unix.IN_MOVED_TO == 0 { // the directory is gone, or the queue of events has overflowed
				return
			}
			select {
			case created <- name:
			case <-ended:
				return
			}
		}
	}
}

// current reports whether the watch is on the directory that exists now.
func (w *watched) current(dir string) bool {
	info, err := os.Lstat(dir)
	return w.stop != nil && err == nil && os.SameFile(info, w.dir)
}

func (w *watched) close() {
	if w.stop != nil {
		w.stop()
	}
	*w = watched{}
}
