package cniconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/fsnotify/fsnotify"
)

// watch watches directories by name: a directory that was removed and created again is watched again.
type watch struct {
	*fsnotify.Watcher
	seen map[string]os.FileInfo
}

func newWatch() (*watch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch CNI configuration: %w", err)
	}
	return &watch{Watcher: w, seen: map[string]os.FileInfo{}}, nil
}

// follow watches the directory that has this name now. If the directory does not exist, it is created with create set,
// and ignored otherwise.
func (w *watch) follow(dir string, create bool) error {
	if create {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) && !create {
		delete(w.seen, dir)
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	if old := w.seen[dir]; old != nil && os.SameFile(old, info) {
		return nil
	}
	// The kernel may already have dropped the watch on the previous directory.
	if err := w.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	// info is older than the watch: if the directory is replaced in between, the next call notices the difference.
	w.seen[dir] = info
	return nil
}

// lost removes a directory that was removed or renamed from the watch. Its successor may have the same inode number.
func (w *watch) lost(e fsnotify.Event) {
	if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		delete(w.seen, e.Name)
	}
}
