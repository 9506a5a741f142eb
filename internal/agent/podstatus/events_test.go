package podstatus

import (
	"context"
	"slices"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/testutil/eventually"
)

// pairingCluster is a Cluster in which the write of an event blocks until another one is written at the same time. The
// first answer to an event with the message "later" is ErrRetry.
type pairingCluster struct {
	begun   chan struct{}
	written chan string
	again   chan string
}

func (c *pairingCluster) SetStatus(context.Context, request.Pod, string, string, *publish.Unready) error {
	return nil
}

func (c *pairingCluster) Emit(ctx context.Context, _ request.Pod, e publish.Event) error {
	select {
	case c.begun <- struct{}{}:
	case <-c.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.Message == "later" {
		select {
		case c.again <- e.Message:
			return publish.ErrRetry
		default:
		}
	}
	c.written <- e.Message
	return nil
}

// TestEventsTogether checks that the events of a pod are written concurrently, so that the last one does not wait for
// all others, and that only an event which fails temporarily is written again.
func TestEventsTogether(t *testing.T) {
	t.Parallel()
	c := &pairingCluster{begun: make(chan struct{}), written: make(chan string, 4), again: make(chan string, 1)}
	q, stop := start(t, c, t.TempDir())
	q.emit(&eventBatch{events: []publish.Event{{Message: "first"}, {Message: "later"}}})
	if got := eventually.Receive(t, "events are written at the same time", c.written); got != "first" {
		t.Errorf("%q was written first", got)
	}
	q.emit(&eventBatch{events: []publish.Event{{Message: "other"}}}) // concurrent with the second attempt
	got := []string{
		eventually.Receive(t, "the second attempt", c.written), eventually.Receive(t, "the other batch", c.written),
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"later", "other"}) {
		t.Errorf("written: %v", got)
	}
	stop()
	if len(c.written) > 0 {
		t.Errorf("%s was written twice", <-c.written)
	}
}

// TestFailureIsAnnouncedOnce checks that the same failure of a pod causes one event a minute, and that another failure
// causes an event at once.
func TestFailureIsAnnouncedOnce(t *testing.T) {
	t.Parallel()
	now := clocktesting.NewFakeClock(time.Now())
	q := newFakeWriter(newFailingCluster(), t.TempDir(), now)
	announce := func(message string) { q.Announce(publish.Missing(sandbox("web", 1).Pod, "c", message)) }
	for i, tc := range []struct {
		message string
		after   time.Duration
		want    int // events that wait
	}{{"a", 0, 1}, {"a", failureInterval, 1}, {"b", 0, 2}, {"a", time.Second, 3}} {
		now.Step(tc.after)
		announce(tc.message)
		if got := q.batches.Len(); got != tc.want {
			t.Errorf("step %d: %d events wait, want %d", i, got, tc.want)
		}
	}
}
