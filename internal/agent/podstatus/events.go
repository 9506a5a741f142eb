package podstatus

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

const (
	// eventWriters is the number of pods whose events are written at the same time. eventsAtOnce is the number of
	// concurrent events of each of them.
	eventWriters = 4
	eventsAtOnce = 4
	// maxBatches limits the number of event batches that wait.
	maxBatches = 1024
	// eventTries is how often the events of a batch are tried. The pauses start at firstRetry and double, about a minute
	// in total.
	eventTries = 9
	// shutdownGrace is how long events are still written after the daemon was stopped.
	shutdownGrace = 2 * time.Second
)

// eventBatch is the events of one report that are not written yet.
type eventBatch struct {
	pod       request.Pod
	container string
	events    []publish.Event
	// unready is the condition of the pod's readiness gate, if it is written without a status. Like an event, it is lost
	// if the API server is unavailable for longer. The next report of the pod has it again.
	unready *publish.Unready
	tries   int
	// report is the report of the events if its file must record that they are written, or nil.
	report *pending
}

// emitEvents queues the events of a report for writing, and the condition of a report without a status.
func (w *Writer) emitEvents(p *pending, events []publish.Event, unready *publish.Unready) {
	for i := range events {
		events[i].Message = fault.Clip(events[i].Message, fault.MaxMessage)
	}
	w.emit(&eventBatch{pod: p.pod, container: p.container, events: events, unready: unready, report: p})
}

func (w *Writer) emit(b *eventBatch) {
	if w.batches.Len() >= maxBatches {
		w.log.Warn("events not written: too many are waiting", "pod", b.pod.LogName(), "container", b.container)
		return
	}
	w.batches.Add(b)
}

// runEvents writes events until ctx ends. For shutdownGrace after that, it writes those that wait.
func (w *Writer) runEvents(ctx context.Context) error {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		w.batches.ShutDown() // Get still returns the batches that wait
		w.clock.AfterFunc(shutdownGrace, cancel)
	})
	defer stop()
	var g errgroup.Group
	for range eventWriters {
		g.Go(func() error {
			for {
				b, ended := w.batches.Get()
				if ended || last.Err() != nil {
					return nil
				}
				w.writeEvents(last, b)
				w.batches.Done(b)
			}
		})
	}
	return g.Wait()
}

// writeEvents writes the events of a batch, once each, and its condition. It retries those that fail while the API
// server is unavailable, for about a minute.
func (w *Writer) writeEvents(ctx context.Context, b *eventBatch) {
	again, err := w.writeEach(ctx, b)
	b.events = again
	if b.unready != nil {
		failed := w.cluster.SetStatus(ctx, b.pod, "", "", b.unready)
		if !errors.Is(failed, publish.ErrRetry) {
			b.unready = nil
		}
		if !errors.Is(failed, publish.ErrGone) {
			err = errors.Join(err, failed)
		}
	}
	if b.report != nil && len(again) == 0 {
		w.markEventsWritten(b.report) // an event that was rejected for good is not retried
	}
	if err == nil {
		return
	}
	if b.tries++; (len(again) > 0 || b.unready != nil) && b.tries < eventTries && ctx.Err() == nil {
		pause := firstRetry << (b.tries - 1)
		w.batches.AddAfter(b, pause/2+rand.N(pause))
		return
	}
	w.log.Warn("events not written", "pod", b.pod.LogName(), "container", b.container, "err", fault.Text(err))
}

// writeEach writes the events of a batch concurrently. Their timestamps are in seconds, so that the order is not
// visible. It returns the events to retry, and the errors of all that failed.
func (w *Writer) writeEach(ctx context.Context, b *eventBatch) (again []publish.Event, err error) {
	errs := make([]error, len(b.events))
	var g errgroup.Group
	g.SetLimit(eventsAtOnce)
	for i, e := range b.events {
		g.Go(func() error {
			errs[i] = publish.Emit(ctx, w.cluster, b.pod, e)
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	for i, e := range b.events {
		if errors.Is(errs[i], publish.ErrRetry) {
			again = append(again, e)
		}
	}
	return again, errors.Join(errs...)
}
