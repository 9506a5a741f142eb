package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"multus/internal/engine/publish"
	"multus/internal/failpoint"
	"multus/internal/netsel"
)

const (
	// waitLimit is how long a report that asks to wait is waited for.
	waitLimit = 2 * time.Second
	// writers is how many statuses are written at the same time, tellers how many pods' events.
	writers = 8
	tellers = 4
	// tellTries is how often events are tried, with pauses from firstRetry on, doubled: about a minute.
	tellTries = 9
	// firstRetry and lastRetry bound the pauses between attempts.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 15 * time.Second
	// lastWords is how long events are written after the end was asked for.
	lastWords = 2 * time.Second
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
	// tales are reports whose events are to be written: beside the status, so that no pod waits for them.
	tales chan tale

	// mu guards latest, the newest report of each pod that is not written yet, and the fields of every job
	// from old to before.
	mu     sync.Mutex
	latest map[string]*job
	// files are the names of those that were read, and whether their report is still needed: one that is not could not be
	// removed. None is read twice.
	files map[string]bool
	// told are the failures that were told of late, by pod and message, with the time.
	told map[string]time.Time
}

type job struct {
	report  *publish.Report
	key     string
	once    sync.Once
	done    chan struct{} // closed after the first attempt
	old     bool          // a newer report of the pod has come: this one must not be written any more
	file    string        // the name of the file that has it, "" for none
	written bool          // the cluster has it
	refused bool          // an attempt has failed
	shelved bool          // there was no room for it in work
	told    bool          // the cluster has its events
	marked  bool          // the file says so
	// before is the pod's report that was not written yet when this one came. busy is held while the API server is asked.
	before *job
	busy   sync.Mutex
}

// tale is a report whose events are written from number next on.
type tale struct {
	job         *job
	next, tries int
}

func newJob(r *publish.Report) *job {
	return &job{report: r, key: podKey(r.Pod), done: make(chan struct{}), told: r.Told, marked: r.Told}
}

func newQueue(c publish.Cluster, dir string, log *slog.Logger) *queue {
	return &queue{cluster: c, dir: dir, log: log, work: make(chan *job, 1024), tales: make(chan tale, 1024), latest: map[string]*job{}, files: map[string]bool{}, told: map[string]time.Time{}, onWritten: func() {}, onRetry: func() {}, onTaken: func(*publish.Report) {}}
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
	key := podKey(r.Pod) + " " + r.Failure.Message
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
	j := newJob(r)
	if q.repeated(r) {
		close(j.done)
		return j
	}
	q.enqueue(j)
	return j
}

// enqueue puts a report in its place among those of its pod, also those in files that were not read yet: taken up only
// after this one is written, an earlier one would be written over it.
func (q *queue) enqueue(j *job) {
	var waiting []*job
	if j.report.HasStatus() {
		waiting, _ = q.look()
	}
	q.mu.Lock()
	q.register(j)
	q.mu.Unlock()
	for _, w := range append(waiting, j) {
		q.push(w)
	}
}

// register makes j the pod's latest report, unless it is not. The file of the earlier of two is not needed from now on: its
// sandbox is gone. The later one is in a file, too, or its plugin has no answer yet and leaves it in one if this
// process ends. The caller holds mu.
func (q *queue) register(j *job) {
	if !j.report.HasStatus() {
		return
	}
	before := q.latest[j.key]
	if before != nil && before.report.Time > j.report.Time {
		j.old = true // left by a plugin before the later one came
		q.discard(j)
		return
	}
	if before != nil {
		before.old = true
		q.discard(before)
	}
	j.before = before
	q.latest[j.key] = j
}

func (q *queue) push(j *job) {
	select {
	case q.work <- j:
	default:
		q.shelve(j)
	}
}

// shelve puts a report aside, as thousands are waiting: it is pushed again at one of the next looks. It stays in memory,
// since it may be that it cannot be kept in its file.
func (q *queue) shelve(j *job) {
	defer j.once.Do(func() { close(j.done) })
	if !j.report.HasStatus() {
		q.log.Warn("events not written: too many reports wait", "pod", j.key, "container", j.report.ContainerID)
		return
	}
	q.keep(j)
	q.mu.Lock()
	j.shelved = true
	q.mu.Unlock()
	q.log.Warn("too many reports wait: status is written later", "pod", j.key, "container", j.report.ContainerID)
}

// unshelve returns the reports that were put aside and are still needed; who calls pushes them.
func (q *queue) unshelve() []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	var jobs []*job
	for _, j := range q.latest {
		if j.shelved {
			j.shelved = false
			jobs = append(jobs, j)
		}
	}
	return jobs
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
			q.tellAll(ctx)
			return nil
		})
	}
	return g.Wait()
}

// write makes the first attempt, while the events are written; further ones are made aside, so that one pod does not hold
// up others.
func (q *queue) write(ctx context.Context, g *errgroup.Group, j *job) {
	defer j.once.Do(func() { close(j.done) }) // who waits, waits for the status alone
	if !q.superseded(j) && !j.report.Told {
		q.tell(tale{job: j})
	}
	switch err := q.attempt(ctx, j); {
	case errors.Is(err, errOld):
	case err == nil:
		q.forget(j)
		q.onWritten()
	default:
		q.refuse(j)
		q.onRetry()
		q.log.Warn("status not written yet, trying again", "pod", j.key, "container", j.report.ContainerID, "err", err)
		g.Go(func() error {
			q.retry(ctx, j)
			return nil
		})
	}
}

func (q *queue) retry(ctx context.Context, j *job) {
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		select {
		case <-ctx.Done():
			return // the file has it
		case <-time.After(pause):
		}
		err := q.attempt(ctx, j)
		if errors.Is(err, errOld) {
			return
		}
		if err == nil {
			q.forget(j)
			q.onWritten()
			q.log.Info("status written", "pod", j.key, "container", j.report.ContainerID)
			return
		}
		q.refuse(j) // the disk may have been full
		q.onRetry()
		if !errors.Is(err, publish.ErrRetry) {
			q.log.Error("status not written", "pod", j.key, "container", j.report.ContainerID, "err", err)
		}
	}
}

// errOld says that a later sandbox of the pod has a status.
var errOld = errors.New("superseded")

// attempt writes the status. An older one of the pod that is on its way arrives first: nothing in the request says which
// is later.
func (q *queue) attempt(ctx context.Context, j *job) error {
	for b := q.previous(j); b != nil; b = q.previous(b) {
		b.busy.Lock()
		b.busy.Unlock() //nolint:staticcheck // it is old by now, so that it begins nothing more
	}
	q.mu.Lock()
	j.before = nil
	q.mu.Unlock()
	j.busy.Lock()
	defer j.busy.Unlock()
	if q.superseded(j) {
		return errOld
	}
	failpoint.At("daemon.status.before")
	err := publish.WriteStatus(ctx, q.cluster, j.report, netsel.Status)
	failpoint.At("daemon.status.after")
	return err
}

func (q *queue) previous(j *job) *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	return j.before
}

// tell has events written.
func (q *queue) tell(t tale) {
	select {
	case q.tales <- t:
	default:
		q.log.Warn("events not written: too many wait", "pod", t.job.key, "container", t.job.report.ContainerID)
	}
}

// tellAll writes events until ctx ends, and for a moment longer those that wait then.
func (q *queue) tellAll(ctx context.Context) {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })
	defer stop()
	for last.Err() == nil {
		select {
		case t := <-q.tales:
			q.writeEvents(last, t)
			continue
		default:
		}
		select {
		case t := <-q.tales:
			q.writeEvents(last, t)
		case <-ctx.Done():
			return // nothing waits
		}
	}
}

// writeEvents writes events, once each; while the API server is away they are tried again for a minute.
func (q *queue) writeEvents(ctx context.Context, t tale) {
	var err error
	if t.next, err = publish.ResumeEvents(ctx, q.cluster, t.job.report, t.next); !errors.Is(err, publish.ErrRetry) {
		q.toldOf(t.job) // what is refused for good is not tried again
	}
	if err == nil {
		return
	}
	if t.tries++; errors.Is(err, publish.ErrRetry) && t.tries < tellTries && ctx.Err() == nil {
		time.AfterFunc(firstRetry<<(t.tries-1), func() { q.tell(t) })
		return
	}
	q.log.Warn("events not written", "pod", t.job.key, "container", t.job.report.ContainerID, "err", err)
}

func (q *queue) superseded(j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return j.old
}

// podKey names a pod; neither namespaces nor pods nor UIDs have an underscore.
func podKey(p publish.Pod) string { return fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID) }
