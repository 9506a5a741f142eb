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

// gateCluster is a Cluster that records the conditions that are written without a status.
type gateCluster struct {
	failingCluster

	errs  []error
	wrote chan string
}

func (c *gateCluster) SetStatus(_ context.Context, _ request.Pod, _, value string, unready *publish.Unready) error {
	if len(c.errs) > 0 {
		err := c.errs[0]
		c.errs = c.errs[1:]
		return err
	}
	c.wrote <- value + unready.Message
	return nil
}

// TestConditionWithoutStatus checks that the condition of a report without a status is written with each report, also
// if its events are not repeated, and tried again while the API server is unavailable.
func TestConditionWithoutStatus(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakeClock(time.Now())
	c := &gateCluster{errs: []error{publish.ErrRetry}, wrote: make(chan string, 10)}
	c.emitted = make(chan string, 10)
	q := newFakeWriter(c, t.TempDir(), clock)
	stop := runUntil(t, q)
	defer stop()
	r := &publish.Report{
		Command: request.Update, Pod: sandbox("web", 1).Pod, ContainerID: "c", Unready: publish.Lacking([]string{"a/b"}),
		Events: []publish.Event{{Type: publish.Warning, Reason: "R", Message: "m"}},
	}
	q.Accept(t.Context(), r)
	eventually.Receive(t, "the event", c.emitted)
	eventually.True(t, "a second attempt waits", clock.HasWaiters)
	var got string
	eventually.True(t, "the condition", func() bool {
		clock.Step(firstRetry)
		select {
		case got = <-c.wrote:
			return true
		default:
			return false
		}
	})
	if got != "not attached: a/b" {
		t.Errorf("condition %q", got)
	}
	q.Accept(t.Context(), r)
	eventually.Receive(t, "the condition of the repeated report", c.wrote)
	if len(c.emitted) > 0 {
		t.Error("the event was written twice")
	}
}
