package hotplug

import (
	"slices"
	"time"

	"multus/internal/engine/request"
)

// observeAgain is the time after which a runner is requested again to observe the sandboxes, if none has done it.
const observeAgain = 10 * time.Second

// observation is when the sandboxes of the node are to be observed.
type observation struct {
	enabled bool
	next    time.Time
}

// ObserveIn makes the queue hand out an observation of the sandboxes after d. It replaces the time of an earlier call.
func (q *Queue) ObserveIn(d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.observation = observation{enabled: true, next: q.clock.Now().Add(d)}
	q.announce()
}

// ObserveNoMore ends the hand-out of observations.
func (q *Queue) ObserveNoMore() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.observation = observation{}
}

// TakeObservation hands out the observation of the sandboxes if it is due. It is handed out again after a while if
// neither ObserveIn nor ObserveNoMore is called.
func (q *Queue) TakeObservation() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.observationDue() {
		return false
	}
	q.observation.next = q.clock.Now().Add(observeAgain)
	return true
}

// observationDue reports whether the sandboxes are to be observed. The caller holds mu.
func (q *Queue) observationDue() bool {
	return q.observation.enabled && !q.clock.Now().Before(q.observation.next)
}

// untilObservation returns a timer that fires when the sandboxes are to be observed. The caller holds mu.
func (q *Queue) untilObservation() *time.Timer {
	if !q.observation.enabled {
		timer := time.NewTimer(time.Hour)
		timer.Stop()
		return timer
	}
	return time.NewTimer(q.observation.next.Sub(q.clock.Now()))
}

// Busy reports whether the networks of a pod may be changed now.
func (q *Queue) Busy(pod request.Pod) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Contains(q.ready, pod) || slices.Contains(q.out, pod)
}
