package publish

import (
	"context"
	"slices"
	"testing"

	"multus/internal/config"
	"multus/internal/engine/request"
)

// reasons is a Cluster that keeps the reasons of events and the number of annotations.
type reasons struct {
	events      []string
	annotations int
}

func (r *reasons) SetStatus(context.Context, request.Pod, string, string, *Unready) error {
	r.annotations++
	return nil
}

func (r *reasons) Emit(_ context.Context, _ request.Pod, e Event) error {
	r.events = append(r.events, e.Reason)
	return nil
}

// TestWithEvents checks which events the values of the key events select. The status is always written (behaviour O65).
func TestWithEvents(t *testing.T) {
	t.Parallel()
	added := &Report{Attached: []Attached{attached("a", "eth0", true, one), attached("b", "net1", false, one)}}
	missing := Missing(request.Pod{}, "c", "no network")
	failed := &Report{Failure: &Failure{EmitEvent: true, Message: "failed"}}
	for events, want := range map[string][]string{
		"":                    {"AddedInterface", "AddedInterface", "NoNetworkFound", "FailedAddingInterface"},
		config.EventsEach:     {"AddedInterface", "AddedInterface", "NoNetworkFound", "FailedAddingInterface"},
		config.EventsFailures: {"NoNetworkFound", "FailedAddingInterface"},
		config.EventsNone:     nil,
	} {
		got := &reasons{}
		c := WithEvents(got, events)
		for _, r := range []*Report{added, missing, failed} {
			if err := WriteEvents(t.Context(), c, r); err != nil {
				t.Fatal(err)
			}
		}
		if err := WriteStatus(t.Context(), c, added, "key"); err != nil || got.annotations != 1 {
			t.Errorf("events %q: %d statuses, %v", events, got.annotations, err)
		}
		if !slices.Equal(got.events, want) {
			t.Errorf("events %q: %q, want %q", events, got.events, want)
		}
	}
}
