package fsx

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

const (
	// recheckInterval is how often Await checks the path in spite of its watch. inotify does not report a mount, a change
	// of a link's target, a parent directory that is replaced, or a change by another host on a network file system.
	// pollInterval is how often Await checks if it has no watch, because root has used up the limit of a user
	// (fs.inotify.max_user_instances, often 128).
	recheckInterval = 5 * time.Second
	pollInterval    = 250 * time.Millisecond
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
