package e2e

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// hotPlugConf is the daemon's configuration for running pods. The runner ends soon, so that none outlives the tests.
var hotPlugConf = map[string]any{"hotPlug": true, "hotPlugLinger": "1s"}

// TestHotPlug checks that the networks of a running pod change with its annotation (behaviour R1-R3, R8, R12): the
// runtime's STATUS starts a runner, the pod gets interfaces and loses them, its network status and its events say so,
// the definition of a network may be gone when it is removed, and DEL frees all.
func TestHotPlug(t *testing.T) {
	s := newSite(t, node.Thick, node.Options{Conf: map[string]any{"cniVersion": "1.1.0"}, DaemonConf: hotPlugConf})
	p := s.pod(t, "web", nil, true)
	if _, err := s.Add(t, s.Conf(), p); err != nil {
		t.Fatal(err)
	}
	s.statusText(t, "web")
	for _, step := range []struct {
		annotation string
		before     func()
		interfaces []string
	}{
		{annotation: "mac, br@data0", interfaces: []string{"data0", "eth0", "net1"}},
		{annotation: "br@data0", interfaces: []string{"data0", "eth0"}},
		{annotation: three, interfaces: []string{"data0", "eth0", "net1", "sriov0"}},
		{annotation: "", before: func() { s.api.DeleteNetwork(t, s.ns, "mac") }, interfaces: []string{"eth0"}},
		{annotation: `[{"name":"mac"},{"name":"br"}]`, interfaces: []string{"eth0", "net1"}},
	} {
		if step.before != nil {
			step.before()
		}
		s.api.Annotate(t, s.ns, "web", networks, step.annotation)
		s.plugged(t, p, step.annotation, step.interfaces)
	}
	reasons := map[string]bool{}
	s.eventually(t, "the events", func() bool {
		for _, e := range s.api.Events(t, s.ns, "web") {
			reasons[e.Reason] = true
		}
		return reasons["AddedInterface"] && reasons["RemovedInterface"] && reasons["FailedAddingInterface"]
	})
	s.delete(t, p)
	if left := s.Left(t); len(left) > 0 {
		t.Errorf("left after DEL: %v", left)
	}
}

// plugged waits until a pod has certain interfaces and its network status says so. Meanwhile it calls STATUS, as
// containerd does every five seconds.
func (s *site) plugged(t *testing.T, p *node.Pod, annotation string, want []string) {
	t.Helper()
	var got, shown []string
	s.eventually(t, "the interfaces of "+annotation, func() bool {
		if err := s.Status(t, s.Conf()); err != nil {
			t.Fatalf("STATUS: %v", err)
		}
		got, shown = testnet.Interfaces(t, p.NS), nil
		for _, e := range s.status(t, p.Name) {
			shown = append(shown, e.Interface)
		}
		slices.Sort(shown)
		return cmp.Equal(want, got) && cmp.Equal(want, shown)
	})
}
