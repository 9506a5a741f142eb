package cniconfig

import (
	"context"
	"errors"
	"testing"

	"multus/internal/engine/plan"
	"multus/internal/source/kube"
)

// TestNodeReader checks that reading the node returns ErrNodeUnknown if a retry is useless, and other errors unchanged.
func TestNodeReader(t *testing.T) {
	t.Parallel()
	unavailable := errors.New("unavailable")
	for name, tc := range map[string]struct {
		node    string
		err     error
		unknown bool
	}{
		"an answer":   {"a", nil, false},
		"no name":     {"", nil, true},
		"not allowed": {"a", &kube.ForbiddenError{Verb: "get", Resource: "nodes", Err: unavailable}, true},
		"no node":     {"a", plan.ErrNotFound, true},
		"no answer":   {"a", unavailable, false},
	} {
		n, err := NodeReader(func(_ context.Context, name string) (*kube.Node, error) {
			return &kube.Node{ContainerRuntimeVersion: name, Addresses: []string{"192.0.2.1"}}, tc.err
		}, tc.node)(t.Context())
		if errors.Is(err, ErrNodeUnknown) != tc.unknown || (err == nil) != (name == "an answer") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (n.Runtime != "a" || len(n.Addresses) != 1) {
			t.Errorf("%s: %+v", name, n)
		}
	}
}
