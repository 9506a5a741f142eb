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
func (q *Writer) watch(ctx context.Context) error {
	var w watched
	defer func() { w.close() }()
	unwatched := false
	for {
		if !w.current(q.spool.dir) {
			w.close()
			var err error
			if w, err = watchDir(q.spool.dir); err != nil && !unwatched {
				q.log.Warn("cannot watch for reports: scanning for them instead", "every", scanIntervalUnwatched.String(),
					"err", err)
			}
			unwatched = err != nil
		}
		q.scanAndQueue() // after the watch exists, so that no file is missed
		wait := scanInterval
		if unwatched {
			wait = scanIntervalUnwatched
		}
		if !q.events(ctx, &w, time.After(wait)) {
			return nil
		}
	}
}

// events takes up files as they are created. It returns true when the whole directory has to be scanned, and false when
// ctx ends.
func (q *Writer) events(ctx context.Context, w *watched, look <-chan time.Time) bool {
	created, lost := w.channels()
	for {
		select {
		case <-ctx.Done():
			return false
		case e := <-created:
			if e.Has(fsnotify.Create) {
				if p := q.scanFile(filepath.Base(e.Name)); p != nil {
					q.push(p)
				}
			}
			if e.Has(fsnotify.Remove) && e.Name == q.spool.dir {
				return true // another process may create it again
			}
		case err := <-lost:
			q.log.Debug("watch for reports failed: scanning for them", "err", err)
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
