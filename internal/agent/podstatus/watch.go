package podstatus

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

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
	created, lost := dir.channels()
	for {
		select {
		case <-ctx.Done():
			return false
		case e := <-created:
			if e.Has(fsnotify.Create) {
				w.scanFile(filepath.Base(e.Name))
			}
			if e.Has(fsnotify.Remove) && e.Name == w.spool.dir {
				return true // another process may create it again
			}
		case err := <-lost:
			w.log.Debug("watch for reports failed: scanning for them", "err", err)
			return true
		case <-look:
			return true
		}
	}
}

// watched is a directory and its watch. Watcher is nil if the watch could not be created: the kernel limits the number
// of watches of a user.
type watched struct {
	*fsnotify.Watcher
	dir os.FileInfo
}

func watchDir(dir string) (w watched, err error) {
	if err := fsx.MakeDir(dir, 0o700); err != nil {
		return watched{}, fmt.Errorf("watch reports: %w", err)
	}
	if w.Watcher, err = fsnotify.NewWatcher(); err != nil {
		return watched{}, fmt.Errorf("watch reports in %s: %w", dir, err)
	}
	if err = w.Add(dir); err == nil {
		w.dir, err = os.Stat(dir)
	}
	if err != nil {
		w.close()
		return watched{}, fmt.Errorf("watch reports in %s: %w", dir, err)
	}
	return w, nil
}

// current reports whether the watch is on the directory that exists now.
func (w *watched) current(dir string) bool {
	info, err := os.Lstat(dir)
	return w.Watcher != nil && err == nil && os.SameFile(info, w.dir)
}

// channels returns the channels of the watch. Without a watch they are nil and never deliver.
func (w *watched) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.Watcher == nil {
		return nil, nil
	}
	return w.Events, w.Errors
}

func (w *watched) close() {
	if w.Watcher != nil {
		_ = w.Close() // nothing was written
	}
	*w = watched{}
}
