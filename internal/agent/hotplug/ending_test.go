package hotplug_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"multus/internal/agent/hotplug"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
	"multus/internal/testutil/eventually"
)

// plugged is a pod that requests a network and has only the cluster network.
var plugged = &plan.Pod{
	Ref: plan.Ref{Namespace: "default", Name: "web"}, UID: "1", Annotations: map[string]string{
		netsel.Networks: "net-a", netsel.Status: `[{"name":"primary","interface":"eth0","default":true}]`,
	},
}

func run(t *testing.T, c clock.PassiveClock) (*hotplug.Queue, context.CancelFunc, <-chan error) {
	t.Helper()
	q := hotplug.New(c, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	return q, cancel, ended
}

// TestWaitEndsWithDaemon checks that a runner that waits for work does not delay the end of the daemon, which waits for
// the requests in flight.
func TestWaitEndsWithDaemon(t *testing.T) {
	t.Parallel()
	q, cancel, ended := run(t, clock.RealClock{})
	got := make(chan []request.Pod, 1)
	go func() { got <- q.Next(context.Background()) }()
	cancel()
	if pods := eventually.Receive(t, "the answer", got); len(pods) > 0 {
		t.Errorf("handed out: %v", pods)
	}
	if err := eventually.Receive(t, "the end", ended); err != nil {
		t.Error(err)
	}
}

// TestUnattendedAtOnce checks that work which arrives just after a runner has ended is reported at once. The runtime's
// next STATUS would otherwise start no runner, but only the one after it.
func TestUnattendedAtOnce(t *testing.T) {
	t.Parallel()
	q, cancel, _ := run(t, clocktesting.NewFakePassiveClock(time.Now()))
	defer cancel()
	over, end := context.WithCancel(t.Context())
	end()
	if pods := q.Next(over); len(pods) > 0 { // the runner ends after this
		t.Fatalf("handed out: %v", pods)
	}
	q.Observe(plugged)
	eventually.True(t, "a runner is needed", q.Unattended)
	if pods := q.Next(t.Context()); len(pods) != 1 {
		t.Errorf("handed out: %v", pods)
	}
	if q.Unattended() {
		t.Error("the runner that has the work is taken for gone")
	}
}
