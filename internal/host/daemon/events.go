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
	// eventWriters is how many pods' events are written at the same time.
	eventWriters = 4
	// maxBatches is how many pods' events may wait.
	maxBatches = 1024
	// eventTries is how often events are tried, with pauses from firstRetry on, doubled: about a minute.
	eventTries = 9
	// shutdownGrace is how long events are written after the end was asked for.
	shutdownGrace = 2 * time.Second
)

// eventBatch is the events of one report, which are written from number next on.
type eventBatch struct {
	pod         publish.Pod
	container   string
	events      []publish.Event
	next, tries int
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

// writeEvents writes events, once each. While the API server is away they are tried again for a minute.
func (q *queue) writeEvents(ctx context.Context, b *eventBatch) {
	var err error
	b.next, err = publish.EmitFrom(ctx, q.cluster, b.pod, b.events, b.next)
	if b.report != nil && !errors.Is(err, publish.ErrRetry) {
		q.markTold(b.report) // what is refused for good is not tried again
	}
	if err == nil {
		return
	}
	if b.tries++; errors.Is(err, publish.ErrRetry) && b.tries < eventTries && ctx.Err() == nil {
		pause := firstRetry << (b.tries - 1)
		q.batches.AddAfter(b, pause/2+rand.N(pause))
		return
	}
	q.log.Warn("events not written", "pod", podName(b.pod), "container", b.container, "err", clipped(err))
}
