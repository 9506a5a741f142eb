package daemon

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"multus/internal/engine/publish"
)

// TestAlarm checks that a lost CNI configuration file causes an event of the node, even if the API server is away at
// first, and that raise never waits.
func TestAlarm(t *testing.T) {
	t.Parallel()
	type told struct {
		node  string
		event publish.Event
	}
	got := make(chan told, 1)
	failures := 2
	a := newAlarm(func(_ context.Context, node string, e publish.Event) error {
		if failures--; failures >= 0 {
			return publish.ErrRetry
		}
		got <- told{node, e}
		return nil
	}, "node-a", slog.New(slog.DiscardHandler))
	for range 3 { // before run receives
		a.raise(errors.New("somebody else removes it"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	want := told{"node-a", publish.Event{Type: publish.Warning, Reason: SlotLost, Message: "somebody else removes it"}}
	if g := <-got; g != want {
		t.Errorf("got %+v, want %+v", g, want)
	}
	cancel()
	if err := <-ended; err != nil || len(got) != 0 {
		t.Errorf("ended with %v, told %d times more", err, len(got))
	}
}

// TestAlarmNobody checks that run discards errors without ending if there is no cluster or no node name.
func TestAlarmNobody(t *testing.T) {
	t.Parallel()
	a := newAlarm(nil, "", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	a.raise(errors.New("lost"))
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	a.raised <- errors.New("again") // accepted only after run has received the first error
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
