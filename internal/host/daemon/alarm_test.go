package daemon

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"multus/internal/engine/publish"
)

// TestAlarm: a lost slot becomes an event of the node, also when the API server is away at first; raise never waits.
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
	for range 3 { // before anybody listens
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

// TestAlarmNobody: without a cluster, or a node's name, there is nothing to tell and no reason to end.
func TestAlarmNobody(t *testing.T) {
	t.Parallel()
	a := newAlarm(nil, "", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	a.raise(errors.New("lost"))
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	a.raised <- errors.New("again") // it has taken the first
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
