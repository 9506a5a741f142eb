package autoconf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/fsnotify/fsnotify"
)

// watch follows directories by name: one that was removed and made again is watched again.
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

// follow watches the directory that has this name now. With create, a directory that does not exist is made; without,
// it is not watched, and that is no error.
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
	// The kernel may have dropped the watch on the directory of before already.
	if err := w.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	// Looked at after the watch: what replaces the directory in between is found at the next look.
	w.seen[dir] = info
	return nil
}

// lost forgets a directory that an event says was removed or renamed. Its successor may have the same inode number.
func (w *watch) lost(e fsnotify.Event) {
	if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		delete(w.seen, e.Name)
	}
}
