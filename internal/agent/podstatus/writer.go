package podstatus

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

const (
	// waitLimit limits how long Accept waits for the status of a report that requests it.
	waitLimit = 2 * time.Second
	// maxWaiting limits the number of pods whose statuses wait. A node has some hundreds of pods.
	maxWaiting = 4096
)

// Observer receives what the Writer does, for metrics and traces.
type Observer interface {
	// StatusWritten is called for a report whose status was written, or that has no status. at is the time of the report
	// in nanoseconds since 1970, or 0 if it is not known, and of is what the report has for traces.
	StatusWritten(containerID string, at int64, of *publish.Trace)
	// StatusRetried is called for an attempt that has to be repeated.
	StatusRetried()
	// StatusGivenUp is called for a report whose status will never be written.
	StatusGivenUp()
	// Observe is called for a report that was left in a file, before its events are written.
	Observe(r *publish.Report)
}

// Options are the settings of a Writer. All of them are required, except Arrived.
type Options struct {
	Cluster publish.Cluster
	// Arrived is called with each report that has a status, before its file may be removed. The same report may come
	// twice.
	Arrived func(*publish.Report)
	// Dir is the directory of the reports that wait. Plugins leave reports in it, too.
	Dir      string
	Observer Observer
	// Clock measures the pauses between attempts.
	Clock clock.WithTickerAndDelayedExecution
	Log   *slog.Logger
}

// Writer writes network statuses to the cluster. For each pod it writes the latest one, and never two at a time. A
// report that cannot be written at once is kept in a file, so that no status is lost while the daemon restarts or the
// API server is unavailable. Cancelling the context of Run closes the Writer.
type Writer struct {
	cluster  publish.Cluster
	arrived  func(*publish.Report)
	log      *slog.Logger
	observer Observer
	clock    clock.WithTickerAndDelayedExecution

	latest    *latest
	failures  failures
	forbidden forbidden
	// work has the keys of the pods whose status is to be written now. lanes has their order.
	work    workqueue.TypedDelayingInterface[string]
	lanes   *lanes
	retries *rate.Limiter
	batches workqueue.TypedDelayingInterface[*eventBatch]

	// disk is held during all work on files, so that the file of a report is never written after the report was dropped.
	// It guards spool, and the fields of pending that say so.
	disk  sync.Mutex
	spool *spool

	// watching is true while files that plugins create are seen at once.
	watching atomic.Bool
}

// New returns a Writer. It writes nothing before Run is called.
func New(o Options) *Writer {
	if o.Arrived == nil {
		o.Arrived = func(*publish.Report) {}
	}
	w := &Writer{
		arrived: o.Arrived, cluster: o.Cluster, log: o.Log, observer: o.Observer, clock: o.Clock,
		latest: newLatest(), spool: newSpool(o.Dir, o.Log), retries: rate.NewLimiter(rate.Every(retrySpacing), 1),
	}
	w.lanes = &lanes{repeated: w.latest.tried}
	w.work = workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[string]{
		Clock: o.Clock, Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Queue: w.lanes}),
	})
	w.batches = workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[*eventBatch]{Clock: o.Clock})
	return w
}

// Run writes statuses and events until ctx ends, including those of the reports that an earlier daemon or a plugin left
// in files. Events that wait when ctx ends are still written for shutdownGrace.
func (w *Writer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, w.work.ShutDown)
	defer stop()
	g.Go(func() error { return w.watch(ctx) })
	g.Go(func() error { return w.probeForbidden(ctx) })
	for range writers {
		g.Go(func() error {
			for w.next(ctx) {
			}
			return nil
		})
	}
	g.Go(func() error { return w.runEvents(ctx) })
	return g.Wait()
}

// Accept takes a report that came over the socket. If r.Wait is set, it returns after the first attempt to write the
// status, or after waitLimit, or when ctx ends. A status that is not written yet is in a file when Accept returns, so
// that it survives a kill of this process. A report that is too large for its file is shrunk.
func (w *Writer) Accept(ctx context.Context, r *publish.Report) {
	if r.Shrink(maxReport / 2) {
		w.log.Warn("the report is too large: DNS settings, device information or attachments are left out of the status",
			"pod", r.Pod.LogName(), "container", r.ContainerID)
	}
	if !r.HasStatus() {
		w.Announce(r)
		return
	}
	p := w.take(r)
	if r.Wait {
		select {
		case <-p.attempted:
		case <-ctx.Done():
		case <-w.clock.After(waitLimit):
		}
	}
	w.keep(p)
}

// take registers a report with a status, and queues the status. It returns the pending report that represents r, which
// is an earlier value if the same report also came in a file. Reports in files that were not read yet count as earlier
// ones.
func (w *Writer) take(r *publish.Report) *pending {
	p := newPending(r)
	w.disk.Lock()
	waiting := w.scan()
	w.arrived(r)
	registered := w.register(p)
	w.disk.Unlock()
	w.queue(waiting...)
	if registered == p {
		w.queue(p)
	}
	return registered
}

// register makes p the latest report of its pod, and drops the report that it replaces. It returns the report that
// represents p. The caller holds disk.
func (w *Writer) register(p *pending) *pending {
	registered, replaced := w.latest.register(p)
	if replaced != nil {
		replaced.finish()
		w.discard(replaced)
	}
	switch {
	case registered != p:
	case w.latest.waits(p):
		w.limit()
	default: // it arrived before
		p.finish()
	}
	return registered
}

// queue queues the statuses of reports for writing.
func (w *Writer) queue(reports ...*pending) {
	for _, p := range reports {
		w.work.Add(p.key)
	}
}

// DropDeleted drops the report of a sandbox that is deleted, whose status is no longer needed. at is the time of
// the DEL, or 0 if the plugin sets none. The report of a later ADD of the same sandbox is kept: it comes in a file, and
// may be read before a DEL that waited on the socket.
func (w *Writer) DropDeleted(pod request.Pod, container string, at int64) {
	if container == "" {
		return
	}
	w.disk.Lock()
	waiting := w.scan()
	if p := w.latest.ofSandbox(pod, container, at); p != nil && w.latest.remove(p) {
		w.discard(p)
		p.finish()
	}
	w.disk.Unlock()
	w.queue(waiting...)
}

// Waiting returns the number of pods whose status is not written yet.
func (w *Writer) Waiting() float64 { return float64(w.latest.len()) }

// Pending reports whether a status of a pod is not written yet.
func (w *Writer) Pending(pod request.Pod) bool {
	p, _ := w.latest.get(podKey(pod))
	return p != nil
}

// Watching reports whether a report that a plugin leaves in a file is seen at once. Without a watch it is seen by the
// next scan of the directory.
func (w *Writer) Watching() bool { return w.watching.Load() }
