package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sync/errgroup"

	"multus/internal/engine/publish"
	"multus/internal/failpoint"
	"multus/internal/fsx"
	"multus/internal/netsel"
)

const (
	// waitLimit is how long a report that asks to wait is waited for.
	waitLimit = 2 * time.Second
	// writers is how many statuses are written at the same time, tellers how many pods' events.
	writers = 8
	tellers = 2
	// firstRetry and lastRetry bound the pauses between attempts.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 15 * time.Second
	// lookAgain is how often reports are looked for that plugins left in files, should the watch miss one.
	lookAgain = time.Minute
	// tellAgain is how long the same failure of a pod is not told again.
	tellAgain = time.Minute
)

// queue writes reports to the cluster, each until it is written or its pod is gone. A report that could not
// be written at once is kept in a file, so that neither a restart of the daemon nor a long absence of the
// API server loses a status. Close by ending the context of run.
type queue struct {
	cluster publish.Cluster
	dir     string
	log     *slog.Logger
	// onWritten and onRetry count; onTaken is told of each report that came in a file.
	onWritten, onRetry func()
	onTaken            func(*publish.Report)

	work chan *job
	// tales are reports whose events are to be written: after the status, and so that none waits for them.
	tales chan *publish.Report

	// mu guards latest, the newest report of each pod that is not written yet, and the fields old and
	// spool of every job.
	mu     sync.Mutex
	latest map[string]*job
	// told are the failures that were told of late, by pod and message, with the time.
	told map[string]time.Time
}

type job struct {
	report  *publish.Report
	key     string
	once    sync.Once
	done    chan struct{} // closed after the first attempt
	old     bool          // a newer report of the pod has come: this one must not be written any more
	spool   bool          // the pod's file is there
	written bool          // the cluster has it
}

func newQueue(c publish.Cluster, dir string, log *slog.Logger) *queue {
	return &queue{cluster: c, dir: dir, log: log, work: make(chan *job, 1024), tales: make(chan *publish.Report, 1024), latest: map[string]*job{}, told: map[string]time.Time{}, onWritten: func() {}, onRetry: func() {}, onTaken: func(*publish.Report) {}}
}

// waiting is how many pods' status is not written yet.
func (q *queue) waiting() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(len(q.latest))
}

// repeated tells that a pod's failure was told a moment ago: a runtime tries again every few seconds.
func (q *queue) repeated(r *publish.Report) bool {
	if r.Failure == nil || len(r.Attached) > 0 {
		return false
	}
	now := time.Now()
	key := fileKey(r.Pod) + " " + r.Failure.Message
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.DeleteFunc(q.told, func(_ string, at time.Time) bool { return now.Sub(at) > tellAgain })
	_, ok := q.told[key]
	if !ok {
		q.told[key] = now
	}
	return ok
}

// add takes a report. The channel is closed after the first attempt to write it.
func (q *queue) add(r *publish.Report) <-chan struct{} { return q.take(r).done }

func (q *queue) take(r *publish.Report) *job {
	j := &job{report: r, key: fileKey(r.Pod), done: make(chan struct{})}
	if q.repeated(r) {
		close(j.done)
		return j
	}
	q.enqueue(j)
	return j
}

func (q *queue) enqueue(j *job) {
	q.mu.Lock()
	q.register(j)
	q.mu.Unlock()
	q.push(j)
}

// register makes j the pod's latest report, unless it is not. The caller holds mu.
func (q *queue) register(j *job) {
	if !j.report.HasStatus() {
		return
	}
	before := q.latest[j.key]
	if before != nil && before.report.Time > j.report.Time {
		j.old = true // left by a plugin before the later one came
		return
	}
	if before != nil {
		before.old = true
	}
	q.latest[j.key] = j
}

func (q *queue) push(j *job) {
	select {
	case q.work <- j:
	default:
		// Thousands are waiting: keep it in the file only, the next start takes it up.
		q.keep(j)
		j.once.Do(func() { close(j.done) })
		q.log.Error("too many reports wait: status is written after a restart", "pod", j.key, "container", j.report.ContainerID)
	}
}

// run writes reports until ctx ends; it takes up what an earlier daemon or a plugin left.
func (q *queue) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return q.watch(ctx) })
	for range writers {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case j := <-q.work:
					q.write(ctx, g, j)
				}
			}
		})
	}
	for range tellers {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case r := <-q.tales:
					q.writeEvents(ctx, r)
				}
			}
		})
	}
	return g.Wait()
}

// watch takes up the reports that plugins leave in files: those of pods that do not wait for their status, and all
// that the daemon did not answer in time.
func (q *queue) watch(ctx context.Context) error {
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	w, err := q.watcher()
	if err != nil {
		q.log.Warn("reports that wait are looked for once a minute", "err", err)
		w = &fsnotify.Watcher{} // its channels say nothing
	} else {
		defer w.Close()
	}
	q.takeUp()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if e.Has(fsnotify.Create) {
				q.takeUpFile(filepath.Base(e.Name))
			}
		case err := <-w.Errors: // events were lost
			q.log.Debug("looking for reports that wait", "err", err)
			q.takeUp()
		case <-look.C:
			q.takeUp()
		}
	}
}

func (q *queue) watcher() (*fsnotify.Watcher, error) {
	if err := os.MkdirAll(q.dir, 0o700); err != nil {
		return nil, fmt.Errorf("watch reports: %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		err = w.Add(q.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("watch reports in %s: %w", q.dir, err)
	}
	return w, nil
}

// write makes the first attempt; further ones are made aside, so that one pod does not hold up others.
func (q *queue) write(ctx context.Context, g *errgroup.Group, j *job) {
	var err error
	old := q.superseded(j)
	if !old {
		err = q.attempt(ctx, j.report)
	}
	if err == nil {
		q.forget(j)
	} else {
		q.keep(j)
	}
	j.once.Do(func() { close(j.done) }) // who waits, waits for the status alone
	if err == nil {
		q.onWritten()
		if !old {
			q.tell(j.report)
		}
		return
	}
	q.onRetry()
	q.log.Warn("status not written yet, trying again", "pod", j.key, "container", j.report.ContainerID, "err", err)
	g.Go(func() error {
		q.retry(ctx, j)
		return nil
	})
}

func (q *queue) retry(ctx context.Context, j *job) {
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		select {
		case <-ctx.Done():
			return // the file has it
		case <-time.After(pause):
		}
		if q.superseded(j) {
			return
		}
		err := q.attempt(ctx, j.report)
		if err == nil {
			q.forget(j)
			q.onWritten()
			q.tell(j.report)
			q.log.Info("status written", "pod", j.key, "container", j.report.ContainerID)
			return
		}
		q.onRetry()
		if !errors.Is(err, publish.ErrRetry) {
			q.log.Error("status not written", "pod", j.key, "container", j.report.ContainerID, "err", err)
		}
	}
}

// attempt writes the status.
func (q *queue) attempt(ctx context.Context, r *publish.Report) error {
	failpoint.At("daemon.status.before")
	err := publish.WriteStatus(ctx, q.cluster, r, netsel.Status)
	failpoint.At("daemon.status.after")
	return err
}

// tell has the events of a report written, once: what is not told now is not told.
func (q *queue) tell(r *publish.Report) {
	select {
	case q.tales <- r:
	default:
		q.log.Warn("events not written: too many wait", "pod", fileKey(r.Pod), "container", r.ContainerID)
	}
}

func (q *queue) writeEvents(ctx context.Context, r *publish.Report) {
	if err := publish.WriteEvents(ctx, q.cluster, r); err != nil {
		q.log.Warn("events not written", "pod", fileKey(r.Pod), "container", r.ContainerID, "err", err)
	}
}

func (q *queue) superseded(j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return j.old
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

func read(path string) (*publish.Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &publish.Report{}
	return r, json.Unmarshal(b, r)
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
	case err != nil && !errors.Is(err, os.ErrNotExist):
		q.log.Error("report passed over", "file", path, "err", errors.Join(err, os.Rename(path, path+".damaged")))
	}
}

func (q *queue) file(j *job) string { return filepath.Join(q.dir, j.key+".json") }

// fileKey names a pod's report; neither namespaces nor pods nor UIDs have an underscore or a slash.
func fileKey(p publish.Pod) string { return fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID) }
