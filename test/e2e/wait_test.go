package e2e

import (
	"testing"
	"time"

	"multus/internal/testutil/node"
)

// waitTimeout bounds the wait for a condition.
const waitTimeout = 30 * time.Second

func (s *site) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	eventually(t, s.Node, what, ok)
}

func eventually(t *testing.T, n *node.Node, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitTimeout); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("%s: not within %s\n%s", what, waitTimeout, n.DaemonLog())
}
