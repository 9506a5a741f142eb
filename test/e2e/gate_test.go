package e2e

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/node"
)

const gate = "multus-cni.io/NetworksAttached"

// condition returns the condition of a pod's readiness gate as "status reason message", or "" if it has none.
func (s *site) condition(t *testing.T, pod string) string {
	t.Helper()
	p, err := s.api.Client().CoreV1().Pods(s.ns).Get(t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Status.Conditions {
		if string(c.Type) == gate {
			return fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message)
		}
	}
	return ""
}

// becomes waits until the condition of a pod's readiness gate has a value. Meanwhile it calls STATUS.
func (s *site) becomes(t *testing.T, pod, want string) {
	t.Helper()
	got := ""
	s.eventually(t, "the condition "+want, func() bool {
		if err := s.Status(t, s.Conf()); err != nil {
			t.Fatalf("STATUS: %v", err)
		}
		got = s.condition(t, pod)
		return got == want
	})
}

const ready = "True NetworksAttached "

// TestReadinessGate checks the condition of pods that list the readiness gate (behaviour R30, R31): one PATCH at ADD
// has the network status and the condition, a network that cannot be attached to the running pod makes it False, once,
// and its removal from the annotation or a later success makes it True again. A pod without the gate gets no condition,
// and no PATCH for a failure.
func TestReadinessGate(t *testing.T) {
	s := newSite(t, node.Thick, node.Options{
		Conf: map[string]any{"cniVersion": "1.1.0", "plainPods": "local"}, DaemonConf: hotPlugConf,
	})
	s.eventually(t, "the watch of the pods", func() bool { return s.api.Requests(t, "multus")["WATCH pods"] > 0 })
	patches := func() int { return s.api.Requests(t, "multus")["PATCH pods/status"] }
	before := patches()
	p := s.pod(t, "gated", map[string]string{networks: "mac"}, true, gate)
	if _, err := s.Add(t, s.Conf(), p); err != nil {
		t.Fatal(err)
	}
	s.statusText(t, "gated")
	if got := s.condition(t, "gated"); got != ready || patches() != before+1 {
		t.Errorf("condition %q and %d PATCHes with the network status", got, patches()-before)
	}
	plain := s.pod(t, "plain", nil, true, gate) // planned without the daemon
	if _, err := s.Add(t, s.Conf(), plain); err != nil {
		t.Fatal(err)
	}
	s.becomes(t, "plain", ready)
	other := s.pod(t, "other", map[string]string{networks: "mac"}, true)
	if _, err := s.Add(t, s.Conf(), other); err != nil {
		t.Fatal(err)
	}
	s.statusText(t, "other")
	before = patches()
	missing := fmt.Sprintf("False NetworkMissing not attached: %s/later (interface late0)", s.ns)
	for _, pod := range []string{"gated", "other"} {
		s.api.Annotate(t, s.ns, pod, networks, "mac, later@late0")
	}
	s.becomes(t, "gated", missing)
	s.eventually(t, "the failure of the other pod", func() bool {
		events := s.api.Events(t, s.ns, "other")
		return slices.ContainsFunc(events, func(e corev1.Event) bool { return e.Reason == "FailedAddingInterface" })
	})
	s.api.Annotate(t, s.ns, "gated", networks, "mac")
	s.becomes(t, "gated", ready)
	// True is written twice if the pod is compared again before the watch has shown the first time.
	if n := patches() - before; n < 2 || n > 3 {
		t.Errorf("%d PATCHes for False and True", n)
	}
	if got := s.condition(t, "other"); got != "" {
		t.Errorf("a pod without the gate has the condition %q", got)
	}
	s.api.Annotate(t, s.ns, "gated", networks, "mac, later@late0")
	s.becomes(t, "gated", missing)
	s.api.CreateNetwork(t, s.ns, "later", `{"cniVersion":"1.0.0","type":"macvlan","master":"uplink0"}`, nil)
	s.becomes(t, "gated", ready)
	for _, one := range []*node.Pod{p, plain, other} {
		s.gone(t, s.Conf(), one)
	}
}

// TestReadinessGateWithoutWatch checks the condition where no pods are watched (behaviour R32): by the thin plugin, by
// a daemon without hotPlug, and by one that was away at the ADD. A second PATCH has the condition, and a pod without
// the gate gets the requests that it always got.
func TestReadinessGateWithoutWatch(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newSite(t, kind, node.Options{Conf: map[string]any{"plainPods": "local"}})
			for _, tc := range []struct {
				pod     string
				gates   []string
				away    bool
				patches int
				want    string
			}{
				{pod: "gated", gates: []string{gate}, patches: 2, want: ready},
				{pod: "waiting", gates: []string{"example.com/other", gate}, away: true, patches: 2, want: ready},
				{pod: "without", patches: 1},
			} {
				away := tc.away && kind == node.Thick
				before := s.api.Requests(t, "multus")
				p := s.pod(t, tc.pod, nil, true, tc.gates...)
				if away {
					s.StopDaemon(t)
				}
				if _, err := s.Add(t, s.Conf(), p); err != nil {
					t.Fatal(err)
				}
				if away {
					s.StartDaemon(t)
				}
				s.statusText(t, tc.pod)
				s.becomes(t, tc.pod, tc.want)
				after := s.api.Requests(t, "multus")
				if n := after["PATCH pods/status"] - before["PATCH pods/status"]; n != tc.patches ||
					after["GET pods"] != before["GET pods"] {
					t.Errorf("%s: %d PATCHes, want %d; requests before %v, after %v", tc.pod, n, tc.patches, before, after)
				}
				s.gone(t, s.Conf(), p)
			}
		})
	}
}
