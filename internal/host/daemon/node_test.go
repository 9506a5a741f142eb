package daemon

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"multus/internal/autoconf"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/source/kube"
)

// TestAskNode checks that reading the node returns ErrNodeUnknown if a retry is useless, and other errors unchanged.
func TestAskNode(t *testing.T) {
	t.Parallel()
	away := errors.New("away")
	for name, tc := range map[string]struct {
		node    string
		err     error
		unknown bool
	}{
		"an answer":   {"a", nil, false},
		"no name":     {"", nil, true},
		"not allowed": {"a", &kube.ForbiddenError{Verb: "get", Resource: "nodes", Err: away}, true},
		"no node":     {"a", plan.ErrNotFound, true},
		"no answer":   {"a", away, false},
	} {
		slot := autoconf.NewSlot(&config.Daemon{}, slog.New(slog.DiscardHandler))
		askNode(slot, func(_ context.Context, name string) (*kube.Node, error) {
			return &kube.Node{ContainerRuntimeVersion: name, Addresses: []string{"192.0.2.1"}}, tc.err
		}, tc.node)
		n, err := slot.Node(t.Context())
		if errors.Is(err, autoconf.ErrNodeUnknown) != tc.unknown || (err == nil) != (name == "an answer") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (n.Runtime != "a" || len(n.Addresses) != 1) {
			t.Errorf("%s: %+v", name, n)
		}
	}
	askNode(nil, nil, "a")
	slot := autoconf.NewSlot(&config.Daemon{}, slog.New(slog.DiscardHandler))
	if askNode(slot, nil, "a"); slot.Node != nil {
		t.Error("without a cluster there is no node to read")
	}
}
