package repair

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/netsel"
	"multus/internal/source/kube"
)

const (
	cluster = `{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"bridge"}]}`
	multus  = `{"cniVersion":"1.0.0","name":"multus-cni-network","plugins":[{"type":"multus-shim"}]}`
)

// node is a node with cached results, a Finder and a cluster.
type node struct {
	*Finder
	dir     string
	clock   *testclock.FakeClock
	reports []*publish.Report
	// attached and evicted have the UIDs of pods that were repaired.
	attached, evicted []string
	recorded          map[string]bool
	// The cluster.
	state      kube.PodState
	reads      int
	namespace  map[string]string
	refused    error
	notInForce error
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{
		dir: t.TempDir(), clock: testclock.NewFakeClock(time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)),
		state: kube.PodState{UID: "u", Running: true, Controlled: true},
	}
	n.Finder = New(Options{
		Dir: n.dir, After: time.Minute, Rule: config.RepairReport, ReportOnly: []string{"kube-system"}, Rate: 10,
		Clock: n.clock, Log: slog.New(slog.DiscardHandler), Cluster: n,
		Report:       func(r *publish.Report) { n.reports = append(n.reports, r) },
		Recorded:     func(container string) bool { return container == "recorded" },
		RecordedPods: func() (map[string]bool, error) { return n.recorded, nil },
		Attach:       func(pod request.Pod, _ string) { n.attached = append(n.attached, pod.UID) },
		InForce:      func() error { return n.notInForce },
	})
	return n
}

// PodState implements Cluster.
func (n *node) PodState(context.Context, plan.Ref) (*kube.PodState, error) {
	n.reads++
	if n.state.UID == "" {
		return nil, plan.ErrNotFound
	}
	state := n.state
	return &state, nil
}

// NamespaceAnnotations implements Cluster.
func (n *node) NamespaceAnnotations(context.Context, string) (map[string]string, error) {
	return n.namespace, nil
}

// Evict implements Cluster.
func (n *node) Evict(_ context.Context, pod request.Pod) error {
	if n.refused == nil {
		n.evicted = append(n.evicted, pod.UID)
	}
	return n.refused
}

// result writes a result of libcni for a sandbox of the pod with a UID, made a while ago.
func (n *node) result(t *testing.T, config, container, ifName, uid string, ago time.Duration) {
	t.Helper()
	n.file(t, "net-"+container+"-"+ifName, fmt.Sprintf(
		`{"kind":"cniCacheV1","containerId":%q,"config":%q,"ifName":%q,"networkName":"cbr0","cniArgs":[["K8S_POD_UID",%q]]}`,
		container, base64.StdEncoding.EncodeToString([]byte(config)), ifName, uid), ago)
}

func (n *node) file(t *testing.T, name, content string, ago time.Duration) {
	t.Helper()
	path, made := filepath.Join(n.dir, name), n.clock.Now().Add(-ago)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, made, made); err != nil {
		t.Fatal(err)
	}
}

func (n *node) pod(uid, networks string) {
	n.Observe(&plan.Pod{
		Ref: plan.Ref{Namespace: "team", Name: "pod-" + uid}, UID: uid,
		Annotations: map[string]string{netsel.Networks: networks},
	})
}

// lookNow looks once, and returns the pods that were reported since the last time.
func (n *node) lookNow(t *testing.T) string {
	t.Helper()
	n.reports = nil
	if err := n.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	var pods []string
	for _, r := range n.reports {
		pods = append(pods, r.Pod.UID)
	}
	return strings.Join(pods, " ")
}

// TestLook checks which pods are reported: those that request networks and whose latest sandbox was attached without
// Multus (behaviour R14).
func TestLook(t *testing.T) {
	t.Parallel()
	type made struct {
		config, container, ifName, uid string
		ago                            time.Duration
	}
	const loopback = `{"cniVersion":"1.0.0","name":"cni-loopback","plugins":[{"type":"loopback"}]}`
	for name, tc := range map[string]struct {
		networks string
		results  []made
		want     string
	}{
		"attached without Multus": {"a", []made{{cluster, "c1", "eth0", "u", time.Hour}}, "u"},
		"attached by Multus": {"a", []made{
			{multus, "c1", "eth0", "u", time.Hour}, {loopback, "c1", "lo", "u", time.Minute},
		}, ""},
		"a second network of the runtime": {"a", []made{
			{multus, "c1", "eth0", "u", time.Hour}, {cluster, "c1", "eth1", "u", time.Hour},
		}, ""},
		"requests nothing":  {"", []made{{cluster, "c1", "eth0", "u", time.Hour}}, ""},
		"too young":         {"a", []made{{cluster, "c1", "eth0", "u", time.Second}}, ""},
		"another pod":       {"a", []made{{cluster, "c1", "eth0", "v", time.Hour}}, ""},
		"recorded since":    {"a", []made{{cluster, "recorded", "eth0", "u", time.Hour}}, ""},
		"no sandbox so far": {"a", nil, ""},
		"an earlier sandbox": {"a", []made{
			{cluster, "c1", "eth0", "u", 2 * time.Hour}, {multus, "c2", "eth0", "u", time.Hour},
		}, ""},
		"a later sandbox": {"a", []made{
			{multus, "c1", "eth0", "u", 2 * time.Hour}, {cluster, "c2", "eth0", "u", time.Hour},
		}, "u"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.pod("u", tc.networks)
			for _, r := range tc.results {
				n.result(t, r.config, r.container, r.ifName, r.uid, r.ago)
			}
			if got := n.lookNow(t); got != tc.want || len(n.Missing()) != len(tc.want) {
				t.Errorf("reported %q, want %q; missing: %v", got, tc.want, n.Missing())
			}
		})
	}
}

// TestOtherFiles checks that files that are no results are ignored.
func TestOtherFiles(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.pod("u", "a")
	n.file(t, "a", `{`, time.Hour)
	n.file(t, "b", `{"kind":"other","cniArgs":[["K8S_POD_UID","u"]]}`, time.Hour)
	n.file(t, "c", strings.Repeat(" ", maxResult+1), time.Hour)
	if err := os.Symlink("/dev/zero", filepath.Join(n.dir, "d")); err != nil {
		t.Fatal(err)
	}
	if got := n.lookNow(t); got != "" {
		t.Errorf("reported %q", got)
	}
}

// TestReportedAgain checks that a pod is reported once an hour, and at once if it has another sandbox, and that the
// event names its networks.
func TestReportedAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.pod("u", "a, b/c")
	n.result(t, cluster, "c1", "eth0", "u", time.Hour)
	if got := n.lookNow(t); got != "u" {
		t.Fatalf("reported %q", got)
	}
	e := n.reports[0].Events[0]
	if e.Reason != NetworksMissing || e.Type != publish.Warning || !strings.Contains(e.Message, "(a, b/c)") ||
		!strings.Contains(e.Message, `"cbr0"`) {
		t.Errorf("event %+v", e)
	}
	if got := n.lookNow(t); got != "" || len(n.Missing()) != 1 {
		t.Errorf("reported again at once: %q; missing: %v", got, n.Missing())
	}
	n.clock.Step(reportInterval)
	if got := n.lookNow(t); got != "u" {
		t.Errorf("not reported after an hour: %q", got)
	}
	n.result(t, cluster, "c2", "eth0", "u", 2*time.Minute)
	if got := n.lookNow(t); got != "u" {
		t.Errorf("another sandbox is not reported: %q", got)
	}
	n.Gone(&plan.Pod{UID: "u"})
	if got := n.lookNow(t); got != "" || len(n.Missing()) != 0 {
		t.Errorf("a pod that is gone: %q; missing: %v", got, n.Missing())
	}
}

// TestNoDirectory checks that a directory that cannot be read is an error, and not a report about all pods.
func TestNoDirectory(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.pod("u", "a")
	if err := os.Remove(n.dir); err != nil {
		t.Fatal(err)
	}
	if err := n.look(t.Context()); err == nil || len(n.reports) > 0 {
		t.Errorf("%v, %d reports", err, len(n.reports))
	}
}

// TestLargeAnnotation checks that what a user writes into an annotation is limited before it is kept and listed.
func TestLargeAnnotation(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.pod("u", strings.Repeat("x", 100_000))
	n.pod("v", strings.Repeat("x,", maxNetworks)+"x")
	for _, uid := range []string{"u", "v"} {
		n.result(t, cluster, "c"+uid, "eth0", uid, time.Hour)
	}
	if got := n.lookNow(t); got != "u" {
		t.Fatalf("reported %q", got)
	}
	if name := n.Missing()[0].Networks[0]; len(name) > 1024 {
		t.Errorf("the name of a network has %d bytes", len(name))
	}
}
