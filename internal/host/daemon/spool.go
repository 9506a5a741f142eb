package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"multus/internal/engine/publish"
	"multus/internal/failpoint"
	"multus/internal/fsx"
)

const (
	// lookAgain is how often reports are looked for that plugins left in files, should the watch miss one; lookOften how
	// often where there can be no watch.
	lookAgain = time.Minute
	lookOften = time.Second
	// damaged is the end of the name of a file that is no report, which is kept for damagedAge.
	damaged    = ".damaged"
	damagedAge = 24 * time.Hour
)

// watch takes up the reports that plugins leave in files: those of pods that do not wait for their status, and all
// that the daemon did not answer in time.
func (q *queue) watch(ctx context.Context) error {
	var w watched
	defer func() { w.close() }()
	blind := false
	for {
		if !w.whole(q.dir) {
			w.close()
			var err error
			if w, err = watchDir(q.dir); err != nil && !blind {
				q.log.Warn("reports that wait are not watched but looked for", "every", lookOften.String(), "err", err)
			}
			blind = err != nil
		}
		q.takeUp() // only now: what came before the watch would be missed
		wait := lookAgain
		if blind {
			wait = lookOften
		}
		if !q.events(ctx, &w, time.After(wait)) {
			return nil
		}
	}
}

// events takes up files as they come, until it is time to look at all of them, or ctx ends: then it returns false.
func (q *queue) events(ctx context.Context, w *watched, look <-chan time.Time) bool {
	created, lost := w.channels()
	for {
		select {
		case <-ctx.Done():
			return false
		case e := <-created:
			if e.Has(fsnotify.Create) {
				q.takeUpFile(filepath.Base(e.Name))
			}
			if e.Has(fsnotify.Remove) && e.Name == q.dir {
				return true // somebody may make it again
			}
		case err := <-lost:
			q.log.Debug("looking for reports that wait", "err", err)
			return true
		case <-look:
			return true
		}
	}
}

// watched is a directory with a watch, or without one: the kernel grants a user so many and no more.
type watched struct {
	*fsnotify.Watcher
	dir os.FileInfo
}

func watchDir(dir string) (w watched, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
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

// whole tells that the watch is on the directory that is there now.
func (w *watched) whole(dir string) bool {
	info, err := os.Stat(dir)
	return w.Watcher != nil && err == nil && os.SameFile(info, w.dir)
}

// channels of one that has no watch say nothing.
func (w *watched) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.Watcher == nil {
		return nil, nil
	}
	return w.Events, w.Errors
}

func (w *watched) close() {
	if w.Watcher != nil {
		_ = w.Close() // nothing is written
	}
	*w = watched{}
}

// forget drops a report that was written, and the pod's file, be it that of an earlier sandbox: it must never be
// written after this one. That of a later sandbox stays.
func (q *queue) forget(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.old || !j.report.HasStatus() {
		return
	}
	j.written = true
	delete(q.latest, j.key)
	if left, err := read(q.file(j)); err != nil || left.Time > j.report.Time {
		return // none, or damaged: takeUp says so
	}
	if err := fsx.Remove(q.file(j)); err != nil {
		q.log.Warn("remove report that was written", "pod", j.key, "container", j.report.ContainerID, "err", err)
	}
	failpoint.At("daemon.spool.removed")
}

// keep writes a report to its file, unless it is there, or not needed any more.
func (q *queue) keep(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.old || j.written || j.spool || !j.report.HasStatus() {
		return
	}
	if left, err := read(q.file(j)); err == nil && left.Time > j.report.Time {
		return
	}
	b, err := json.Marshal(j.report)
	if err == nil {
		err = os.MkdirAll(q.dir, 0o700)
	}
	if err == nil {
		err = fsx.Replace(q.file(j), b, 0o600) // after a reboot there is no such sandbox
	}
	if err != nil {
		q.log.Error("keep report", "pod", j.key, "container", j.report.ContainerID, "err", err)
		return
	}
	j.spool = true
	failpoint.At("daemon.spool.written")
}

// errDamaged says that a file has no report in it.
var errDamaged = errors.New("no report")

func read(path string) (*publish.Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &publish.Report{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return r, nil
}

// takeUp queues the reports that are in files and not known, and removes what killed writers left half-written.
func (q *queue) takeUp() {
	if err := fsx.Sweep(q.dir, fsx.Abandoned); err != nil {
		q.log.Warn("files of killed processes are left", "err", err)
	}
	entries, err := os.ReadDir(q.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		q.log.Error("read reports that wait", "err", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), damaged) && time.Since(info.ModTime()) > damagedAge {
			_ = os.Remove(filepath.Join(q.dir, e.Name())) // nobody came to look at it
		}
		q.takeUpFile(e.Name())
	}
}

// takeUpFile queues the report of a file, if it is one and not known.
func (q *queue) takeUpFile(name string) {
	key, ok := strings.CutSuffix(name, ".json")
	if !ok || strings.HasPrefix(key, ".") {
		return
	}
	path := filepath.Join(q.dir, name)
	// In one go: while a later report of the pod is being written, the file is still there.
	q.mu.Lock()
	r, err := read(path)
	j := &job{report: r, key: key, done: make(chan struct{}), spool: true}
	fresh := err == nil && (q.latest[key] == nil || q.latest[key].report.Time < r.Time)
	if fresh {
		q.register(j)
	}
	q.mu.Unlock()
	switch {
	case fresh:
		q.onTaken(r)
		q.push(j)
	case errors.Is(err, errDamaged):
		q.log.Error("report passed over", "file", path, "err", errors.Join(err, os.Rename(path, path+damaged)))
	case err != nil && !errors.Is(err, os.ErrNotExist):
		q.log.Error("report is read later", "file", path, "err", err)
	}
}

func (q *queue) file(j *job) string { return filepath.Join(q.dir, j.key+".json") }
