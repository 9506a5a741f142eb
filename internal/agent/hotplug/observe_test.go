package hotplug

import (
	"testing"
	"time"
)

// TestObservation checks when a runner is requested to observe the sandboxes: when it is due, also if no pod has to be
// changed, and again after a while if no runner has done it (behaviour R25).
func TestObservation(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		if q.TakeObservation() || q.Unattended() {
			t.Error("an observation is due without an interval")
		}
		q.ObserveIn(time.Minute)
		if q.TakeObservation() || q.Unattended() {
			t.Error("an observation is due at once")
		}
		if _, after := q.next(t, time.Hour); after != time.Minute {
			t.Errorf("a runner that waits gets it after %s", after)
		}
		if !q.TakeObservation() || q.TakeObservation() {
			t.Error("it is not handed out once")
		}
		if _, after := q.next(t, time.Hour); after != observeAgain || !q.TakeObservation() {
			t.Errorf("without a result it is handed out again after %s", after)
		}
		q.ObserveIn(time.Minute)
		_, _ = q.next(t, time.Second) // the runner ends after this
		time.Sleep(time.Minute)
		if !q.Unattended() {
			t.Error("no runner is started")
		}
		if names, after := q.next(t, time.Hour); len(names) > 0 || after != 0 || q.Unattended() {
			t.Errorf("%q after %s", names, after)
		}
	})
}

// TestObservationSooner checks that a runner that waits gets an observation whose time was changed meanwhile.
func TestObservationSooner(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		q.ObserveIn(time.Hour)
		go func() {
			time.Sleep(time.Second)
			q.ObserveIn(time.Second)
		}()
		if _, after := q.next(t, 2*time.Hour); after != 2*time.Second {
			t.Errorf("after %s", after)
		}
	})
}

// TestBusy checks which pods may be changed now: those that are handed out or will be next.
func TestBusy(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		p := pod("web", "lan")
		if q.Busy(p.Identity()) {
			t.Error("an unknown pod")
		}
		q.Observe(p)
		q.hands(t, "web")
		if !q.Busy(p.Identity()) {
			t.Error("a pod that is handed out")
		}
		if err := q.Done(p.Identity(), "no"); err != nil {
			t.Fatal(err)
		}
		if q.Busy(p.Identity()) {
			t.Error("a pod whose change has failed")
		}
	})
}
