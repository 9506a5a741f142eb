package daemon

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

	"multus/internal/engine/publish"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/netsel"
)

const (
	// waitLimit is how long a report that asks to wait is waited for.
	waitLimit = 2 * time.Second
	// writers is how many statuses are written at the same time. At most retriers of them are repeated attempts.
	writers  = 8
	retriers = 4
	// firstRetry and lastRetry bound the pauses between attempts while the API server is away. forbiddenPause is the pause
	// after a missing permission, and the longest one after an error of unknown kind.
	firstRetry     = 250 * time.Millisecond
	lastRetry      = 15 * time.Second
	forbiddenPause = 2 * time.Minute
	// forbiddenProbes is how many of the statuses that were not permitted are tried after each forbiddenPause.
	forbiddenProbes = 4
	// retrySpacing is the shortest time between two repeated attempts: 20 a second, less than half of what the client of
	// the API server allows for all requests.
	retrySpacing = 50 * time.Millisecond
	// tellAgain is how long the same failure of a pod is not reported again; maxTold is how many of them are remembered.
	tellAgain = time.Minute
	maxTold   = 4096
	// maxWaiting is how many pods' statuses may wait. A node has some hundreds of pods.
	maxWaiting = 4096
	// maxInMemory is how many waiting reports that have a file are held in memory, each of smallReport bytes at most. The
	// others are read again when they are written.
	maxInMemory = 64
	smallReport = 256 << 10
)

// StatusNotWritten is the reason of the event of a pod whose network-status was given up.
const StatusNotWritten = "NetworkStatusNotWritten"

// queue writes network statuses to the cluster: for each pod the latest one, by one writer at a time. A report that
// cannot be written at once is kept in a file, so that neither a restart of the daemon nor a long absence of the API
// server loses a status. A report that the API server rejects for good is given up. A queue is closed by ending the
// context of run.
type queue struct {
	cluster publish.Cluster
	log     *slog.Logger
	// onWritten, onRetry and onGivenUp count; onTaken gets each report that came in a file.
	onWritten, onRetry, onGivenUp func()
	onTaken                       func(*publish.Report)
	// pause is forbiddenPause, but in tests.
	pause time.Duration

	spool *spool
	// statuses has the keys of pods whose status is to be written now, lanes their order.
	statuses workqueue.TypedDelayingInterface[string]
	lanes    *lanes
	batches  workqueue.TypedDelayingInterface[*eventBatch]

	// mu guards all below, and the fields of pending that say so. It is never held during I/O or a call of a work queue,
	// and it is acquired after spool.mu.
	mu sync.Mutex
	// pods is the latest report of each pod whose status is not written yet, by its key.
	pods map[string]*pending
	// seen remembers the reports that arrived, whether or not they are written.
	seen *recent
	// forbidden are the reports for which the permission was missing, in the order in which they are tried again.
	forbidden []*pending
	// nextRetry is when the next repeated attempt may begin.
	nextRetry time.Time
	// told are the failures that were reported in the last minute, by pod and message.
	told map[string]time.Time
}

// pending is a report whose status is to be written.
type pending struct {
	pod       publish.Pod
	key       string
	container string
	// id identifies the report: that of another one differs in pod, container or time.
	id string
	// time is that of the report.
	time int64
	once sync.Once
	done chan struct{} // closed after the first attempt

	// report is nil while the file alone has it. It is guarded by queue.mu, as all fields up to probing.
	report *publish.Report
	// dropped is set when the report is not needed any more: it is written, given up, or a later one has come.
	dropped bool
	tries   int
	// probing is set while a report for which the permission was missing is tried again.
	probing bool

	// file is the name of the file that has the report, "" for none; told says that its events are emitted, marked that
	// the file says so. They are guarded by spool.mu.
	file         string
	told, marked bool
}

func newPending(r *publish.Report) *pending {
	if r.Time == 0 { // of a plugin that gives none
		r.Time = time.Now().UnixNano()
	}
	return &pending{
		pod: r.Pod, key: podKey(r.Pod), container: r.ContainerID, id: r.File(), time: r.Time, report: r,
		done: make(chan struct{}), told: r.Told, marked: r.Told,
	}
}

// finish releases what waits for the first attempt.
func (p *pending) finish() { p.once.Do(func() { close(p.done) }) }

func newQueue(c publish.Cluster, dir string, log *slog.Logger) *queue {
	q := &queue{
		cluster: c, log: log, pause: forbiddenPause, spool: newSpool(dir),
		pods: map[string]*pending{}, seen: newRecent(2 * maxWaiting), told: map[string]time.Time{},
		onWritten: func() {}, onRetry: func() {}, onGivenUp: func() {}, onTaken: func(*publish.Report) {},
	}
	q.lanes = &lanes{repeated: q.repeatedAttempt}
	q.statuses = workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[string]{
		Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Queue: q.lanes}),
	})
	q.batches = workqueue.NewTypedDelayingQueue[*eventBatch]()
	return q
}

// waiting is how many pods' status is not written yet.
func (q *queue) waiting() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(len(q.pods))
}

// repeated reports whether the same failure of a pod was reported a moment ago: a runtime tries again every few
// seconds.
func (q *queue) repeated(r *publish.Report) bool {
	now := time.Now()
	key := podKey(r.Pod) + " " + fault.Clip(r.Failure.Message, fault.MaxMessage)
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.told[key]; ok && now.Sub(q.told[key]) <= tellAgain {
		return true
	}
	if len(q.told) >= maxTold {
		maps.DeleteFunc(q.told, func(_ string, at time.Time) bool { return now.Sub(at) > tellAgain })
	}
	if len(q.told) < maxTold {
		q.told[key] = now
	}
	return false
}

// add takes a report. The channel is closed after the first attempt to write it.
func (q *queue) add(r *publish.Report) <-chan struct{} { return q.take(r).done }

// take takes a report that came over the socket. It returns what stands for the report: another value than at the first
// time if it came in a file, too. Reports in files that were not read yet arrived before it.
func (q *queue) take(r *publish.Report) *pending {
	p := newPending(r)
	if !r.HasStatus() {
		if !q.repeated(r) {
			q.emitEvents(p, r)
			q.onWritten()
		}
		p.finish()
		return p
	}
	q.spool.mu.Lock()
	waiting, _ := q.look()
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

// register makes p the latest report of its pod, by the order of arrival: clocks may be set back. It returns p, the
// report that is waiting already if p is the same one, or p without effect if the same one was here before. The file
// of an earlier report is removed: its sandbox is gone. The caller holds spool.mu.
func (q *queue) register(p *pending) *pending {
	q.mu.Lock()
	latest := q.pods[p.key]
	switch {
	case latest != nil && latest.id == p.id:
		q.mu.Unlock()
		return latest
	case !q.seen.add(p.id):
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

// push has the status of a report written now.
func (q *queue) push(p *pending) { q.statuses.Add(p.key) }

// limit gives reports up while more than maxWaiting wait, the oldest first, or while their files are too large, the
// largest first. The caller holds spool.mu.
func (q *queue) limit() {
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
		q.giveUp(victim, fmt.Errorf("too many reports wait in %s", q.spool.dir))
	}
}

func (p *pending) arrivedBefore(other *pending, order *recent) bool {
	return order.number(p.id) < order.number(other.id)
}

// run writes reports until ctx ends; it takes up what an earlier daemon or a plugin left.
func (q *queue) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, q.statuses.ShutDown)
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

// next writes the next status, and returns false when ctx has ended.
func (q *queue) next(ctx context.Context) bool {
	key, ended := q.statuses.Get()
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
	q.statuses.Done(key)
	return ctx.Err() == nil
}

// repeatedAttempt reports whether the status of a pod was tried before.
func (q *queue) repeatedAttempt(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.pods[key]
	return p != nil && p.tries > 0
}

// pace waits until another repeated attempt may begin. It returns false if ctx ends before.
func (q *queue) pace(ctx context.Context) bool {
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

// write makes one attempt. Events are emitted beside it: no pod waits for them.
func (q *queue) write(ctx context.Context, p *pending) {
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
	if first && !report.Told {
		q.emitEvents(p, report)
	}
	failpoint.At("daemon.status.before")
	err = publish.WriteStatus(ctx, q.cluster, report, netsel.Status)
	failpoint.At("daemon.status.after")
	q.settle(p, err)
}

// reportOf returns the report, from its file if need be.
func (q *queue) reportOf(p *pending) (*publish.Report, error) {
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

// settle does what the outcome of an attempt asks for.
func (q *queue) settle(p *pending, err error) {
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
		q.forget(p)
		q.onWritten()
		if tries > 0 {
			q.log.Info("status written", "pod", podName(p.pod), "container", p.container)
		}
		if probing {
			q.permitted()
		}
	case errors.Is(err, publish.ErrRefused):
		q.spool.mu.Lock()
		defer q.spool.mu.Unlock()
		q.giveUp(p, err)
	default:
		q.onRetry()
		q.keep(p)
		q.postpone(p, tries, err)
	}
}

// postpone plans the next attempt after one that failed, and logs the first one.
func (q *queue) postpone(p *pending, tries int, err error) {
	if errors.Is(err, publish.ErrForbidden) {
		q.mu.Lock()
		q.forbidden = append(q.forbidden, p)
		q.mu.Unlock()
		if tries == 1 {
			q.log.Error("status not written: correct the role of Multus; a few are tried again from time to time",
				"every", q.pause.String(), "pod", podName(p.pod), "container", p.container, "err", clipped(err))
		}
		return
	}
	longest := lastRetry
	if !errors.Is(err, publish.ErrRetry) {
		longest = q.pause
	}
	if tries == 1 {
		q.log.Warn("status not written yet, trying again",
			"pod", podName(p.pod), "container", p.container, "err", clipped(err))
	}
	q.statuses.AddAfter(p.key, retryPause(tries, longest))
}

// retryPause is the pause after n failed attempts, doubled for each, with jitter.
func retryPause(n int, longest time.Duration) time.Duration {
	d := min(firstRetry<<min(n-1, 16), longest)
	return d/2 + rand.N(d/2)
}

// probeForbidden tries some of the statuses again for which the permission was missing, until ctx ends. One timer
// serves all of them.
func (q *queue) probeForbidden(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(q.pause/2 + rand.N(q.pause)):
		}
		for _, key := range q.nextForbidden(forbiddenProbes) {
			q.statuses.Add(key)
		}
	}
}

// permitted has all statuses written for which the permission was missing: one of them was accepted.
func (q *queue) permitted() {
	for _, key := range q.nextForbidden(maxWaiting) {
		q.statuses.Add(key)
	}
}

// nextForbidden takes up to n reports out of those for which the permission was missing.
func (q *queue) nextForbidden(n int) (keys []string) {
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

// drop marks a report as not needed any more. It returns false if it was dropped before.
func (q *queue) drop(p *pending) bool {
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

// forget drops a report that was written, and removes its file.
func (q *queue) forget(p *pending) {
	q.spool.mu.Lock()
	defer q.spool.mu.Unlock()
	if q.drop(p) && p.file != "" {
		q.discard(p)
		failpoint.At("daemon.spool.removed")
	}
}

// giveUp drops a report that will never be written: the log and an event of the pod say so. The caller holds spool.mu.
func (q *queue) giveUp(p *pending, why error) {
	if !q.drop(p) {
		return
	}
	q.discard(p)
	p.finish()
	q.onGivenUp()
	text := clipped(why)
	q.log.Error("status given up", "pod", podName(p.pod), "container", p.container, "err", text)
	q.emit(&eventBatch{pod: p.pod, container: p.container, events: []publish.Event{{
		Type: publish.Warning, Reason: StatusNotWritten, Seldom: true, ContainerID: p.container,
		Message: "the networks of the pod are attached, but the annotation " + netsel.Status + " was not written: " + text,
	}}})
}

// deleted drops the report of a sandbox that is deleted: its status is of no use any more. at is the time of the DEL, 0
// if the plugin gives none. A report of a later ADD of the same sandbox stays: it comes in a file, and may be read
// before a DEL that waits on the socket.
func (q *queue) deleted(pod publish.Pod, container string, at int64) {
	if container == "" {
		return
	}
	q.spool.mu.Lock()
	waiting, _ := q.look()
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

// podName and clipped are what a log line has of a pod and of an error.
func podName(p publish.Pod) string {
	return fault.Clip(p.Namespace, fault.MaxName) + "/" + fault.Clip(p.Name, fault.MaxName)
}

func clipped(err error) string { return fault.Clip(err.Error(), fault.MaxMessage) }

// podKey names a pod; neither namespaces nor pods nor UIDs have an underscore.
func podKey(p publish.Pod) string { return fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID) }
