package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
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
				if j := q.lookAt(filepath.Base(e.Name)); j != nil {
					q.push(j)
				}
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

// forget drops a report that was written, and its file.
func (q *queue) forget(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.old || !j.report.HasStatus() {
		return
	}
	j.written = true
	delete(q.latest, j.key)
	if j.file != "" {
		q.discard(j)
		failpoint.At("daemon.spool.removed")
	}
}

// keep writes a report to its file, unless it is there, or not needed any more.
func (q *queue) keep(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.keepLocked(j)
}

// refuse keeps a report whose status the cluster did not take.
func (q *queue) refuse(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	j.refused = true
	q.keepLocked(j)
}

// toldOf notes that the events of a report are told. Its file has to say so if it may outlive this process; of most the
// status is written right then.
func (q *queue) toldOf(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	j.told = true
	if j.refused {
		q.keepLocked(j)
	}
}

// keepLocked is keep for a caller that holds mu.
func (q *queue) keepLocked(j *job) {
	if j.old || j.written || !j.report.HasStatus() || j.file != "" && j.marked == j.told {
		return
	}
	r := *j.report
	r.Told = j.told
	b, err := json.Marshal(&r)
	if err == nil {
		err = os.MkdirAll(q.dir, 0o700)
	}
	name := cmp.Or(j.file, r.File())
	if err == nil {
		// After a reboot there is no such sandbox. Should the plugin leave the report, too, it is the same one.
		err = fsx.Replace(filepath.Join(q.dir, name), b, 0o600)
	}
	if err != nil {
		q.log.Error("keep report", "pod", j.key, "container", j.report.ContainerID, "err", err)
		return
	}
	j.file, j.marked, q.files[name] = name, r.Told, true
	failpoint.At("daemon.spool.written")
}

// discard removes the file of a report that is not needed any more: nothing else has ever been in it (publish.File), or
// will be. The caller holds mu.
func (q *queue) discard(j *job) {
	if j.file != "" {
		q.remove(j.file)
		j.file = ""
	}
}

// remove removes a file. One that cannot be removed is tried again at each look, and never taken up. The caller holds mu.
func (q *queue) remove(name string) {
	if err := fsx.Remove(filepath.Join(q.dir, name)); err != nil {
		q.files[name] = false
		q.log.Warn("remove report that is not needed any more", "file", name, "err", err)
		return
	}
	delete(q.files, name)
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
	if !r.HasStatus() { // no other is ever left in a file
		return nil, fmt.Errorf("%w: it has no status", errDamaged)
	}
	return r, nil
}

// takeUp queues the reports that are in files and not known, and removes what killed writers left half-written.
func (q *queue) takeUp() {
	if err := fsx.Sweep(q.dir, fsx.Abandoned); err != nil {
		q.log.Warn("files of killed processes are left", "err", err)
	}
	waiting, entries := q.look()
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), damaged) && time.Since(info.ModTime()) > damagedAge {
			_ = os.Remove(filepath.Join(q.dir, e.Name())) // nobody came to look at it
		}
	}
	for _, j := range append(waiting, q.unshelve()...) {
		q.push(j)
	}
}

// look registers the reports that are in files and not known; who calls pushes them, when all are registered: of those
// of a pod the latest alone is written.
func (q *queue) look() ([]*job, []os.DirEntry) {
	entries, err := os.ReadDir(q.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		q.log.Error("read reports that wait", "err", err)
	}
	var jobs []*job
	for _, e := range entries {
		if j := q.lookAt(e.Name()); j != nil {
			jobs = append(jobs, j)
		}
	}
	return jobs, entries
}

// lookAt registers the report of a file, if it is one, not known, and the pod's latest. Else it returns nil.
func (q *queue) lookAt(name string) *job {
	if filepath.Ext(name) != ".json" || strings.HasPrefix(name, ".") {
		return nil
	}
	q.mu.Lock()
	j := q.lookAtLocked(name)
	q.mu.Unlock()
	if j != nil {
		q.onTaken(j.report)
	}
	return j
}

// lookAtLocked is lookAt for a caller that holds mu.
func (q *queue) lookAtLocked(name string) *job {
	if needed, known := q.files[name]; known {
		if !needed {
			q.remove(name)
		}
		return nil
	}
	r, name, err := q.claim(name)
	path := filepath.Join(q.dir, name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, errDamaged):
		q.log.Error("report passed over", "file", path, "err", errors.Join(err, os.Rename(path, path+damaged)))
		return nil
	case err != nil:
		q.log.Error("report is read later", "file", path, "err", err)
		return nil
	}
	j := newJob(r)
	j.file, q.files[name] = name, true
	switch latest := q.latest[j.key]; {
	case latest == nil || latest.report.Time != r.Time:
		q.register(j)
	case latest.file == "": // it came over the socket, too
		latest.file, latest.marked, j.old = name, r.Told, true
	default:
		j.old = true
		q.discard(j)
	}
	if j.old {
		return nil
	}
	return j
}

// claim reads the report of a file and returns it with the file's name from then on, which nobody else writes to. Plugins
// and daemons of before have one name for all reports of a pod: what is under it may be replaced at any time, so that it
// is moved first, unread. What is read, and then removed or set aside, is what was moved; what comes under the old name
// later is another file. If this process ends meanwhile the next one takes it up as any other.
func (q *queue) claim(name string) (*publish.Report, string, error) {
	if !publish.IsFileName(name) {
		own := publish.FileName(time.Now().UnixNano(), rand.Uint64())
		if err := os.Rename(filepath.Join(q.dir, name), filepath.Join(q.dir, own)); err != nil {
			return nil, name, err
		}
		name = own
	}
	r, err := read(filepath.Join(q.dir, name))
	return r, name, err
}
