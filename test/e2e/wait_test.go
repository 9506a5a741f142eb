package e2e

import (
	"testing"
	"time"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/node"
)

// waitTimeout bounds the wait for a condition.
const waitTimeout = 30 * time.Second

func (s *site) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	waitFor(t, s.Node, what, ok)
}

func waitFor(t *testing.T, n *node.Node, what string, ok func() bool) {
	t.Helper()
	if !eventually.Is(waitTimeout, ok) {
		t.Fatalf("%s: not within %s\n%s", what, waitTimeout, n.DaemonLog())
	}
}
