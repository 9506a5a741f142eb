package podstatus

import (
	"maps"
	"strings"
	"sync"
	"time"

	"multus/internal/engine/publish"
	"multus/internal/fault"
)

const (
	// failureInterval is the time in which the same failure of a pod is reported once. maxFailures limits the number of
	// such failures in memory.
	failureInterval = time.Minute
	maxFailures     = 4096
)

// failures has the times of the failures that were reported in the last minute, by pod and message. The zero value is
// ready to use.
type failures struct {
	mu    sync.Mutex
	times map[string]time.Time
}

// repeated reports whether the same failure of the pod was reported in the last minute. A runtime repeats a failed ADD
// every few seconds. The events of an UPDATE without a status are a failure, too.
func (f *failures) repeated(r *publish.Report, now time.Time) bool {
	parts := []string{podKey(r.Pod)}
	if r.Failure != nil {
		parts = append(parts, fault.Clip(r.Failure.Message, fault.MaxMessage))
	}
	for i := range r.Events {
		parts = append(parts, fault.Clip(r.Events[i].Message, fault.MaxMessage))
	}
	key := strings.Join(parts, " ")
	f.mu.Lock()
	defer f.mu.Unlock()
	if at, ok := f.times[key]; ok && now.Sub(at) <= failureInterval {
		return true
	}
	if len(f.times) >= maxFailures {
		maps.DeleteFunc(f.times, func(_ string, at time.Time) bool { return now.Sub(at) > failureInterval })
	}
	if f.times == nil {
		f.times = map[string]time.Time{}
	}
	if len(f.times) < maxFailures {
		f.times[key] = now
	}
	return false
}

// Announce writes the events of a report without a status, unless the same failure was reported in the last minute, and
// the condition of the pod's readiness gate if the report has one. It does not wait for the cluster.
func (w *Writer) Announce(r *publish.Report) {
	repeated := w.failures.repeated(r, w.clock.Now())
	if repeated && r.Unready == nil {
		return
	}
	p := newPending(r)
	var events []publish.Event
	if !repeated {
		var err error
		if events, err = publish.Events(r); err != nil {
			w.log.Warn("events not written", "pod", p.pod.LogName(), "container", p.container, "err", fault.Text(err))
		}
		w.observer.StatusWritten(p.container, 0, nil)
	}
	w.emitEvents(p, events, r.Unready)
}
