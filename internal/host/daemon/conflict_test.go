package daemon

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"multus/internal/engine/publish"
)

// TestConflictEvents checks that a lost CNI configuration file causes an event of the node, even if the API server is
// away at first, and that enqueue never waits.
func TestConflictEvents(t *testing.T) {
	t.Parallel()
	type emitted struct {
		node  string
		event publish.Event
	}
	got := make(chan emitted, 1)
	failures := 2
	a := newConflictEvents(func(_ context.Context, node string, e publish.Event) error {
		if failures--; failures >= 0 {
			return publish.ErrRetry
		}
		got <- emitted{node, e}
		return nil
	}, "node-a", slog.New(slog.DiscardHandler))
	for range 3 { // before run receives
		a.enqueue(errors.New("another program removes it"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	want := emitted{"node-a", publish.Event{
		Type: publish.Warning, Reason: ConfigurationLost, Message: "another program removes it",
	}}
	if g := <-got; g != want {
		t.Errorf("got %+v, want %+v", g, want)
	}
	cancel()
	if err := <-ended; err != nil || len(got) != 0 {
		t.Errorf("ended with %v, %d more events", err, len(got))
	}
}

// TestConflictEventsWithoutNode checks that run discards errors without ending if there is no cluster or no node name.
func TestConflictEventsWithoutNode(t *testing.T) {
	t.Parallel()
	a := newConflictEvents(nil, "", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	a.enqueue(errors.New("lost"))
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	a.queued <- errors.New("again") // accepted only after run has received the first error
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
