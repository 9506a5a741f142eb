package podstatus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"multus/internal/engine/publish"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/netsel"
)

const (
	// writers is the number of statuses that are written at the same time. At most retriers of them are repeated attempts.
	writers  = 8
	retriers = 4
	// firstRetry and lastRetry limit the pauses between attempts while the API server is unavailable. After an error of
	// unknown kind, the pauses grow up to forbiddenPause.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 15 * time.Second
	// retrySpacing is the shortest time between two repeated attempts. It allows 20 attempts a second, less than half of
	// the rate at which the API client sends all its requests.
	retrySpacing = 50 * time.Millisecond
)

// StatusNotWritten is the reason of the event of a pod whose network status was given up.
const StatusNotWritten = "NetworkStatusNotWritten"

// next writes the next status. It returns false when ctx has ended.
func (w *Writer) next(ctx context.Context) bool {
	key, ended := w.work.Get()
	if ended {
		return false
	}
	p, repeated := w.latest.get(key)
	if p != nil && ctx.Err() == nil && (!repeated || w.retries.Wait(ctx) == nil) {
		w.attempt(ctx, p)
	}
	w.lanes.finished(key)
	w.work.Done(key)
	return ctx.Err() == nil
}

// attempt tries to write a status once. Events are written in the background, because no pod waits for them.
func (w *Writer) attempt(ctx context.Context, p *pending) {
	defer p.finish()
	r, tries := w.latest.load(p)
	if r == nil {
		var err error
		if r, err = w.readFile(p); err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, errDamaged) {
				err = fmt.Errorf("%w: %w", publish.ErrRefused, err)
			}
			w.settle(p, err)
			return
		}
	}
	out, err := publish.Prepare(r)
	if err != nil {
		w.settle(p, err)
		return
	}
	if tries == 0 && !r.EventsWritten {
		w.emitEvents(p, out.Events, nil)
	}
	failpoint.At("daemon.status.before")
	err = out.WriteStatus(ctx, w.cluster, netsel.Status)
	failpoint.At("daemon.status.after")
	w.settle(p, err)
}

// settle handles the outcome of an attempt.
func (w *Writer) settle(p *pending, err error) {
	tries, probe, waits := w.latest.endAttempt(p, err != nil)
	switch {
	case !waits:
	case err == nil:
		w.removeWritten(p)
		w.observer.StatusWritten(p.container, p.time, p.trace)
		if tries > 0 {
			w.log.Info("status written", "pod", p.pod.LogName(), "container", p.container)
		}
		if probe {
			w.retryForbidden(maxWaiting)
		}
	case errors.Is(err, publish.ErrRefused):
		w.disk.Lock()
		defer w.disk.Unlock()
		w.giveUp(p, err)
	default:
		w.observer.StatusRetried()
		w.keep(p)
		w.postpone(p, tries, err)
	}
}

// postpone schedules the next attempt. It logs the first failure of a report only.
func (w *Writer) postpone(p *pending, tries int, err error) {
	if errors.Is(err, publish.ErrForbidden) {
		w.forbidden.add(p)
		if tries == 1 {
			w.log.Error("status not written: correct the role of Multus; a few are retried periodically",
				"every", forbiddenPause.String(), "pod", p.pod.LogName(), "container", p.container, "err", fault.Text(err))
		}
		return
	}
	longest := lastRetry
	if !errors.Is(err, publish.ErrRetry) {
		longest = forbiddenPause
	}
	if tries == 1 {
		w.log.Warn("status not written yet, trying again",
			"pod", p.pod.LogName(), "container", p.container, "err", fault.Text(err))
	}
	w.work.AddAfter(p.key, retryPause(tries, longest))
}

// RetryPause returns the pause after n failed attempts to write to the cluster.
func RetryPause(n int) time.Duration { return retryPause(n, lastRetry) }

// retryPause returns the pause after n failed attempts: it doubles with each attempt, and has jitter.
func retryPause(n int, longest time.Duration) time.Duration {
	d := min(firstRetry<<min(n-1, 16), longest)
	return d/2 + rand.N(d/2)
}

// giveUp ends a report that will never be written, and reports that in the log and in an event of the pod. The caller
// holds disk.
func (w *Writer) giveUp(p *pending, why error) {
	if !w.latest.remove(p) {
		return
	}
	w.discard(p)
	p.finish()
	w.observer.StatusGivenUp()
	text := fault.Text(why)
	w.log.Error("status given up", "pod", p.pod.LogName(), "container", p.container, "err", text)
	w.emit(&eventBatch{pod: p.pod, container: p.container, events: []publish.Event{{
		Type: publish.Warning, Reason: StatusNotWritten, Seldom: true, ContainerID: p.container,
		Message: "the networks of the pod are attached, but the annotation " + netsel.Status + " was not written: " + text,
	}}})
}
