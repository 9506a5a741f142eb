package faults

import (
	"errors"
	"slices"
	"testing"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/testnet"
)

// TestReattach kills the runner at every point that it passes while it attaches a network again whose interface is
// lost, and the daemon when it gets what the runner has observed (behaviour R28). Another runner completes it, or the
// pod is deleted at once, and nothing is left.
func TestReattach(t *testing.T) {
	t.Parallel()
	s := newRunnerSite(t, kubetest.Start(t), "reattach", map[string]any{
		"hotPlug": true, "hotPlugLinger": "20ms", "statusResync": "1s", "reattach": true,
	})
	r, has := table.row("runner killed while an interface is restored"), networks{"n1": "data1", "n2": ""}
	s.attachWith(t, r, has)
	s.reach(t, r, has, "the begin")
	lose := func() { testnet.Remove(t, s.pod.NS, "data1") }
	lose()
	points := s.traced(t, "reattach", func(env ...string) error {
		c := s.runner(t, env...)
		s.settles(t, r, s.pod, has, waitTimeout, "without a fault")
		c.stop(t)
		return nil
	})
	for i, p := range choosePlug(slices.DeleteFunc(points, inHotPlug), 0) {
		t.Log(p)
		r.try()
		lose()
		if err := s.runner(t, p.env()).end(); !errors.Is(err, errKilled) {
			t.Errorf("%s: not killed: %v", p, err)
		}
		if i%3 != 0 {
			s.reach(t, r, has, p.String())
		}
		if i%3 != 1 {
			s.finish(t, r, p.String())
			s.attachWith(t, r, has)
			s.reach(t, r, has, "the next pod")
		}
	}
	r.try()
	lose()
	s.StopDaemon(t)
	s.DaemonEnv = []string{"MULTUS_FAILPOINT=observed.received"}
	s.StartDaemon(t)
	c := s.runner(t)
	s.restartWhenDead(t, "observed.received")
	s.settles(t, r, s.pod, has, waitTimeout, "the daemon is killed")
	c.stop(t)
	s.finish(t, r, "after all")
}

// inHotPlug reports whether TestHotPlug covers a point as well.
func inHotPlug(p point) bool {
	return !hasPrefix(p.name, "reattach.", "observe.", "apply.attached", "apply.report")
}
