package daemon

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"multus/internal/engine/publish"
	"multus/internal/fault"
)

const (
	// eventWriters is how many pods' events are written at the same time, eventsAtOnce is how many of each pod.
	eventWriters = 4
	eventsAtOnce = 4
	// maxBatches is how many pods' events may wait.
	maxBatches = 1024
	// eventTries is how often events are tried, with pauses from firstRetry on, doubled: about a minute.
	eventTries = 9
	// shutdownGrace is how long events are written after the end was asked for.
	shutdownGrace = 2 * time.Second
)

// eventBatch is the events of one report that are not written yet.
type eventBatch struct {
	pod       publish.Pod
	container string
	events    []publish.Event
	tries     int
	// report is set for the events of a report whose file has to say that they are written.
	report *pending
}

// emitEvents has the events of a report written.
func (q *queue) emitEvents(p *pending, r *publish.Report) {
	events, err := publish.Events(r)
	if err != nil {
		q.log.Warn("events not written", "pod", podName(p.pod), "container", p.container, "err", clipped(err))
	}
	for i := range events {
		events[i].Message = fault.Clip(events[i].Message, fault.MaxMessage)
	}
	q.emit(&eventBatch{pod: p.pod, container: p.container, events: events, report: p})
}

func (q *queue) emit(b *eventBatch) {
	if q.batches.Len() >= maxBatches {
		q.log.Warn("events not written: too many wait", "pod", podName(b.pod), "container", b.container)
		return
	}
	q.batches.Add(b)
}

// runEvents writes events until ctx ends, and for shutdownGrace longer those that wait then.
func (q *queue) runEvents(ctx context.Context) error {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		q.batches.ShutDown() // what waits is still returned by Get
		time.AfterFunc(shutdownGrace, cancel)
	})
	defer stop()
	var g errgroup.Group
	for range eventWriters {
		g.Go(func() error {
			for {
				b, ended := q.batches.Get()
				if ended || last.Err() != nil {
					return nil
				}
				q.writeEvents(last, b)
				q.batches.Done(b)
			}
		})
	}
	return g.Wait()
}

// writeEvents writes events, once each. Those that fail while the API server is away are tried again for a minute.
func (q *queue) writeEvents(ctx context.Context, b *eventBatch) {
	again, err := q.writeEach(ctx, b)
	b.events = again
	if b.report != nil && len(again) == 0 {
		q.markTold(b.report) // what is refused for good is not tried again
	}
	if err == nil {
		return
	}
	if b.tries++; len(again) > 0 && b.tries < eventTries && ctx.Err() == nil {
		pause := firstRetry << (b.tries - 1)
		q.batches.AddAfter(b, pause/2+rand.N(pause))
		return
	}
	q.log.Warn("events not written", "pod", podName(b.pod), "container", b.container, "err", clipped(err))
}

// writeEach writes the events of a batch, several at the same time: they have times of a second, so that their order
// cannot be seen. It returns those that are to be tried again, and the errors of all that failed.
func (q *queue) writeEach(ctx context.Context, b *eventBatch) (again []publish.Event, err error) {
	errs := make([]error, len(b.events))
	var g errgroup.Group
	g.SetLimit(eventsAtOnce)
	for i, e := range b.events {
		g.Go(func() error {
			errs[i] = publish.Emit(ctx, q.cluster, b.pod, e)
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
