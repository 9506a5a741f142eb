// Package podstatus writes the network status and the events of pods to the cluster. It keeps what cannot be written yet
// in files. It does not decide what a status contains, which is the task of internal/engine/publish. The daemon and its
// handlers of the socket import it.
package podstatus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/workqueue"

	"multus/internal/agent/recent"
	"multus/internal/engine/publish"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/netsel"
)

const (
	// waitLimit limits how long the daemon waits for the status of a report that requests it.
	waitLimit = 2 * time.Second
	// writers is the number of statuses that are written at the same time. At most retriers of them are repeated attempts.
	writers  = 8
	retriers = 4
	// firstRetry and lastRetry limit the pauses between attempts while the API server is away. forbiddenPause is the pause
	// after a missing permission, and the longest pause after an error of unknown kind.
	firstRetry     = 250 * time.Millisecond
	lastRetry      = 15 * time.Second
	forbiddenPause = 2 * time.Minute
	// forbiddenProbes is the number of forbidden statuses that are tried after each forbiddenPause.
	forbiddenProbes = 4
	// retrySpacing is the shortest time between two repeated attempts. It allows 20 attempts a second, less than half of
	// the rate at which the API client sends all its requests.
	retrySpacing = 50 * time.Millisecond
	// failureInterval is the time in which the same failure of a pod is reported once. maxFailures limits the number of
	// such failures in memory.
	failureInterval = time.Minute
	maxFailures     = 4096
	// maxWaiting limits the number of pods whose statuses wait. A node has some hundreds of pods.
	maxWaiting = 4096
	// maxInMemory limits how many of the waiting reports that have a file are also held in memory, each with at most
	// smallReport bytes. The others are read again when they are written.
	maxInMemory = 64
	smallReport = 256 << 10
)

// StatusNotWritten is the reason of the event of a pod whose network status was given up.
const StatusNotWritten = "NetworkStatusNotWritten"

// Metrics is implemented by the metrics of the daemon.
type Metrics interface {
	// StatusWritten counts a report whose status was written, or that has none.
	StatusWritten()
	// StatusRetried counts an attempt that has to be repeated.
	StatusRetried()
	// StatusGivenUp counts a report whose status will never be written.
	StatusGivenUp()
	// Observe records the timings of a report that was left in a file.
	Observe(r *publish.Report)
}

// Options are the settings of a Writer. All of them are required.
type Options struct {
	Cluster publish.Cluster
	// Dir is the directory of the reports that wait. Plugins leave reports in it, too.
	Dir     string
	Metrics Metrics
	Log     *slog.Logger
}

// Writer writes network statuses to the cluster. For each pod it writes the latest one, and never two at a time. A
// report that cannot be written at once is kept in a file, so that no status is lost while the daemon restarts or the
// API server is away. A report that the API server rejects for good is given up. Cancelling the context of Run closes
// the Writer.
type Writer struct {
	cluster publish.Cluster
	log     *slog.Logger
	metrics Metrics
	// pause is forbiddenPause, except in tests.
	pause time.Duration

	spool *spool
	// work has the keys of the pods whose status is to be written now. lanes has their order.
	work    workqueue.TypedDelayingInterface[string]
	lanes   *lanes
	batches workqueue.TypedDelayingInterface[*eventBatch]

	// mu guards the fields below, and the fields of pending that say so. It is never held during I/O or during a call of a
	// work queue. If spool.mu is needed too, that is locked first.
	mu sync.Mutex
	// pods has, by key, the latest report of each pod whose status is not written yet.
	pods map[string]*pending
	// seen has the reports that arrived last, whether or not they are written.
	seen *recent.Names
	// forbidden are the reports for which the permission was missing, in the order in which they are tried again.
	forbidden []*pending
	// nextRetry is the earliest time of the next repeated attempt.
	nextRetry time.Time
	// failures are the failures of the last minute that were reported, by pod and message.
	failures map[string]time.Time
}

// pending is a report whose status is to be written.
type pending struct {
	pod       publish.Pod
	key       string
	container string
	// id identifies the report. Reports with the same id have the same pod, container and time.
	id string
	// time is the time of the report.
	time int64
	once sync.Once
	done chan struct{} // closed after the first attempt

	// report is nil while the report is in its file only. It and the fields up to probing are guarded by queue.mu.
	report *publish.Report
	// dropped is set when the report is no longer needed: it was written, given up, or replaced by a later one.
	dropped bool
	tries   int
	// probing is set while a forbidden status is tried again.
	probing bool

	// file is the name of the report's file, or "". eventsWritten reports whether the events of the report are written,
	// and eventsMarked reports whether the file records that. They are guarded by spool.mu.
	file                        string
	eventsWritten, eventsMarked bool
}

func newPending(r *publish.Report) *pending {
	if r.Time == 0 { // a plugin that sets no time
		r.Time = time.Now().UnixNano()
	}
	return &pending{
		pod: r.Pod, key: podKey(r.Pod), container: r.ContainerID, id: r.File(), time: r.Time, report: r,
		done: make(chan struct{}), eventsWritten: r.EventsWritten, eventsMarked: r.EventsWritten,
	}
}

// finish unblocks the callers that wait for the first attempt.
func (p *pending) finish() { p.once.Do(func() { close(p.done) }) }

// New returns a Writer. It writes nothing before Run is called.
func New(o Options) *Writer {
	q := &Writer{
		cluster: o.Cluster, log: o.Log, metrics: o.Metrics, pause: forbiddenPause, spool: newSpool(o.Dir),
		pods: map[string]*pending{}, seen: recent.New(2 * maxWaiting), failures: map[string]time.Time{},
	}
	q.lanes = &lanes{repeated: q.repeatedAttempt}
	q.work = workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[string]{
		Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Queue: q.lanes}),
	})
	q.batches = workqueue.NewTypedDelayingQueue[*eventBatch]()
	return q
}

// Waiting returns the number of pods whose status is not written yet.
func (q *Writer) Waiting() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(len(q.pods))
}

// failureRepeated reports whether the same failure of the pod was reported in the last minute. A runtime repeats a
// failed ADD every few seconds.
func (q *Writer) failureRepeated(r *publish.Report) bool {
	now := time.Now()
	key := podKey(r.Pod) + " " + fault.Clip(r.Failure.Message, fault.MaxMessage)
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.failures[key]; ok && now.Sub(q.failures[key]) <= failureInterval {
		return true
	}
	if len(q.failures) >= maxFailures {
		maps.DeleteFunc(q.failures, func(_ string, at time.Time) bool { return now.Sub(at) > failureInterval })
	}
	if len(q.failures) < maxFailures {
		q.failures[key] = now
	}
	return false
}

// Accept takes a report that came over the socket. If r.Wait is set, it returns after the first attempt to write the
// status, or after waitLimit, or when ctx ends. A status that is not written yet is in a file when Accept returns, so
// that it survives a kill of this process. A report that is too large for its file is shrunk.
func (q *Writer) Accept(ctx context.Context, r *publish.Report) {
	if r.Shrink(maxReport / 2) {
		q.log.Warn("the report is too large: DNS settings, device information or attachments are left out of the status",
			"pod", PodName(r.Pod), "container", r.ContainerID)
	}
	if !r.HasStatus() {
		q.Announce(r)
		return
	}
	p := q.take(r)
	if r.Wait {
		select {
		case <-p.done:
		case <-ctx.Done():
		case <-time.After(waitLimit):
		}
	}
	q.keep(p)
}

// Announce writes the events of a report without a status, unless the same failure was reported in the last minute. It
// does not wait for the cluster.
func (q *Writer) Announce(r *publish.Report) {
	if q.failureRepeated(r) {
		return
	}
	q.emitEvents(newPending(r), r)
	q.metrics.StatusWritten()
}

// take takes a report with a status, and returns the pending report that represents it. That is an earlier value if the
// same report also came in a file. Reports in files that were not read yet count as earlier ones.
func (q *Writer) take(r *publish.Report) *pending {
	p := newPending(r)
	q.spool.mu.Lock()
	waiting, _ := q.scan()
	latest := q.register(p)
	q.spool.mu.Unlock()
	for _, w := range waiting {
		q.push(w)
	}
	if latest == p {
		q.push(p)
	}
	return latest
}

// register makes p the latest report of its pod. The order of arrival decides, because clocks may be set back. It
// returns the waiting report instead if that is the same one. If the same report arrived before and no longer waits, it
// returns p, dropped. It removes the file of the report that p replaces, because the sandbox of that one is gone. The
// caller holds spool.mu.
func (q *Writer) register(p *pending) *pending {
	q.mu.Lock()
	latest := q.pods[p.key]
	switch {
	case latest != nil && latest.id == p.id:
		q.mu.Unlock()
		return latest
	case !q.seen.Add(p.id):
		p.dropped = true
		q.mu.Unlock()
		p.finish()
		return p
	}
	if latest != nil {
		latest.dropped = true
	}
	q.pods[p.key] = p
	q.mu.Unlock()
	if latest != nil {
		latest.finish()
		q.discard(latest)
	}
	q.limit()
	return p
}

// push queues the status of a report for writing.
func (q *Writer) push(p *pending) { q.work.Add(p.key) }

// limit gives up reports while too many wait, or while their files are too large. It starts with the oldest report in
// the first case, and with the largest in the second. The caller holds spool.mu.
func (q *Writer) limit() {
	for {
		var victim *pending
		q.mu.Lock()
		tooMany := len(q.pods) > maxWaiting
		if tooMany || q.spool.tooLarge() {
			for _, p := range q.pods {
				switch {
				case victim == nil,
					tooMany && p.arrivedBefore(victim, q.seen),
					!tooMany && q.spool.sizes[p.file] > q.spool.sizes[victim.file]:
					victim = p
				}
			}
		}
		q.mu.Unlock()
		if victim == nil || !tooMany && q.spool.sizes[victim.file] == 0 {
			return
		}
		q.giveUp(victim, fmt.Errorf("too many reports are waiting in %s", q.spool.dir))
	}
}

func (p *pending) arrivedBefore(other *pending, order *recent.Names) bool {
	return order.Number(p.id) < order.Number(other.id)
}

// Run writes reports until ctx ends, including those that an earlier daemon or a plugin left in files.
func (q *Writer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, q.work.ShutDown)
	defer stop()
	g.Go(func() error { return q.watch(ctx) })
	g.Go(func() error { return q.probeForbidden(ctx) })
	for range writers {
		g.Go(func() error {
			for q.next(ctx) {
			}
			return nil
		})
	}
	g.Go(func() error { return q.runEvents(ctx) })
	return g.Wait()
}

// next writes the next status. It returns false when ctx has ended.
func (q *Writer) next(ctx context.Context) bool {
	key, ended := q.work.Get()
	if ended {
		return false
	}
	q.mu.Lock()
	p := q.pods[key]
	again := p != nil && p.tries > 0
	q.mu.Unlock()
	if p != nil && ctx.Err() == nil && (!again || q.pace(ctx)) {
		q.write(ctx, p)
	}
	q.lanes.finished(key)
	q.work.Done(key)
	return ctx.Err() == nil
}

// repeatedAttempt reports whether the next attempt to write the status of a pod is a repeated one.
func (q *Writer) repeatedAttempt(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.pods[key]
	return p != nil && p.tries > 0
}

// pace waits until another repeated attempt may begin. It returns false if ctx ends first.
func (q *Writer) pace(ctx context.Context) bool {
	q.mu.Lock()
	at := time.Now()
	if q.nextRetry.After(at) {
		at = q.nextRetry
	}
	q.nextRetry = at.Add(retrySpacing)
	q.mu.Unlock()
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Until(at)):
		return true
	}
}

// write makes one attempt. Events are written in the background, because no pod waits for them.
func (q *Writer) write(ctx context.Context, p *pending) {
	defer p.finish()
	report, err := q.reportOf(p)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, errDamaged) {
			err = fmt.Errorf("%w: %w", publish.ErrRefused, err)
		}
		q.settle(p, err)
		return
	}
	q.mu.Lock()
	first := p.tries == 0
	q.mu.Unlock()
	if first && !report.EventsWritten {
		q.emitEvents(p, report)
	}
	failpoint.At("daemon.status.before")
	err = publish.WriteStatus(ctx, q.cluster, report, netsel.Status)
	failpoint.At("daemon.status.after")
	q.settle(p, err)
}

// reportOf returns the report, which it reads from its file if it is not in memory.
func (q *Writer) reportOf(p *pending) (*publish.Report, error) {
	q.mu.Lock()
	r := p.report
	q.mu.Unlock()
	if r != nil {
		return r, nil
	}
	q.spool.mu.Lock()
	defer q.spool.mu.Unlock()
	return q.spool.read(p.file)
}

// settle handles the outcome of an attempt.
func (q *Writer) settle(p *pending, err error) {
	q.mu.Lock()
	dropped, probing := p.dropped, p.probing
	p.probing = false
	if err != nil {
		p.tries++
	}
	tries := p.tries
	q.mu.Unlock()
	switch {
	case dropped:
	case err == nil:
		q.removeWritten(p)
		q.metrics.StatusWritten()
		if tries > 0 {
			q.log.Info("status written", "pod", PodName(p.pod), "container", p.container)
		}
		if probing {
			q.permitted()
		}
	case errors.Is(err, publish.ErrRefused):
		q.spool.mu.Lock()
		defer q.spool.mu.Unlock()
		q.giveUp(p, err)
	default:
		q.metrics.StatusRetried()
		q.keep(p)
		q.postpone(p, tries, err)
	}
}

// postpone schedules the next attempt. It logs the first failure of a report only.
func (q *Writer) postpone(p *pending, tries int, err error) {
	if errors.Is(err, publish.ErrForbidden) {
		q.mu.Lock()
		q.forbidden = append(q.forbidden, p)
		q.mu.Unlock()
		if tries == 1 {
			q.log.Error("status not written: correct the role of Multus; a few are retried periodically",
				"every", q.pause.String(), "pod", PodName(p.pod), "container", p.container, "err", clipped(err))
		}
		return
	}
	longest := lastRetry
	if !errors.Is(err, publish.ErrRetry) {
		longest = q.pause
	}
	if tries == 1 {
		q.log.Warn("status not written yet, trying again",
			"pod", PodName(p.pod), "container", p.container, "err", clipped(err))
	}
	q.work.AddAfter(p.key, retryPause(tries, longest))
}

// RetryPause returns the pause after n failed attempts to write to the cluster.
func RetryPause(n int) time.Duration { return retryPause(n, lastRetry) }

// retryPause returns the pause after n failed attempts: it doubles with each attempt, and has jitter.
func retryPause(n int, longest time.Duration) time.Duration {
	d := min(firstRetry<<min(n-1, 16), longest)
	return d/2 + rand.N(d/2)
}

// probeForbidden retries some of the forbidden statuses from time to time, until ctx ends. One timer serves all of
// them.
func (q *Writer) probeForbidden(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(q.pause/2 + rand.N(q.pause)):
		}
		for _, key := range q.nextForbidden(forbiddenProbes) {
			q.work.Add(key)
		}
	}
}

// permitted queues all forbidden statuses, after one of them was accepted.
func (q *Writer) permitted() {
	for _, key := range q.nextForbidden(maxWaiting) {
		q.work.Add(key)
	}
}

// nextForbidden removes up to n reports from the forbidden ones and returns their keys.
func (q *Writer) nextForbidden(n int) (keys []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var rest []*pending
	for _, p := range q.forbidden {
		switch {
		case p.dropped:
		case len(keys) < n:
			p.probing = true
			keys = append(keys, p.key)
		default:
			rest = append(rest, p)
		}
	}
	q.forbidden = rest
	return keys
}

// drop marks a report as no longer needed. It returns false if the report was dropped before.
func (q *Writer) drop(p *pending) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.dropped {
		return false
	}
	p.dropped, p.report = true, nil
	if q.pods[p.key] == p {
		delete(q.pods, p.key)
	}
	return true
}

// removeWritten drops a report whose status was written, and removes its file.
func (q *Writer) removeWritten(p *pending) {
	q.spool.mu.Lock()
	defer q.spool.mu.Unlock()
	if q.drop(p) && p.file != "" {
		q.discard(p)
		failpoint.At("daemon.spool.removed")
	}
}

// giveUp drops a report that will never be written, and reports that in the log and in an event of the pod. The caller
// holds spool.mu.
func (q *Writer) giveUp(p *pending, why error) {
	if !q.drop(p) {
		return
	}
	q.discard(p)
	p.finish()
	q.metrics.StatusGivenUp()
	text := clipped(why)
	q.log.Error("status given up", "pod", PodName(p.pod), "container", p.container, "err", text)
	q.emit(&eventBatch{pod: p.pod, container: p.container, events: []publish.Event{{
		Type: publish.Warning, Reason: StatusNotWritten, Seldom: true, ContainerID: p.container,
		Message: "the networks of the pod are attached, but the annotation " + netsel.Status + " was not written: " + text,
	}}})
}

// DropDeleted drops the report of a sandbox that is deleted, whose status is no longer needed. at is the time of
// the DEL, or 0 if the plugin sets none. The report of a later ADD of the same sandbox is kept: it comes in a file, and
// may be read before a DEL that waited on the socket.
func (q *Writer) DropDeleted(pod publish.Pod, container string, at int64) {
	if container == "" {
		return
	}
	q.spool.mu.Lock()
	waiting, _ := q.scan()
	var of *pending
	q.mu.Lock()
	for _, p := range q.pods {
		if at != 0 && p.time > at {
			continue
		}
		if p.container == container && p.pod.Namespace == pod.Namespace && p.pod.Name == pod.Name {
			of = p
		}
	}
	q.mu.Unlock()
	if of != nil && q.drop(of) {
		q.discard(of)
		of.finish()
	}
	q.spool.mu.Unlock()
	for _, w := range waiting {
		q.push(w)
	}
}

// PodName returns the name of a pod for a log line.
func PodName(p publish.Pod) string {
	return fault.Clip(p.Namespace, fault.MaxName) + "/" + fault.Clip(p.Name, fault.MaxName)
}

// clipped returns the text of an error for a log line.
func clipped(err error) string { return fault.Clip(err.Error(), fault.MaxMessage) }

// podKey returns the key of a pod. The underscore separates the parts because namespaces, pod names and UIDs never
// contain one.
func podKey(p publish.Pod) string { return fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID) }
