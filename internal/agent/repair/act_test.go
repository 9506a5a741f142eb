package repair

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/netsel"
	"multus/internal/source/kube"
)

// last returns the reason and the message of the last event.
func (n *node) last() string {
	if len(n.reports) == 0 {
		return ""
	}
	e := n.reports[len(n.reports)-1].Events[0]
	return e.Reason + ": " + e.Message
}

// observe adds a pod in a namespace, with the annotation repair unless it is "".
func (n *node) observe(uid, namespace, rule string) {
	p := &plan.Pod{
		Ref: plan.Ref{Namespace: namespace, Name: "pod-" + uid}, UID: uid,
		Annotations: map[string]string{netsel.Networks: "a"},
	}
	if rule != "" {
		p.Annotations[netsel.Repair] = rule
	}
	n.Observe(p)
}

// TestRule checks which rule applies to a pod (behaviour R16).
func TestRule(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		file, namespace, ofNamespace, pod string
		want                              string
	}{
		"of the file":                      {file: "report", want: "report"},
		"off":                              {file: "off", want: ""},
		"of the file, attach":              {file: "attach", want: "attach"},
		"of the file, evict":               {file: "evict", want: "evict"},
		"of the namespace":                 {file: "report", ofNamespace: "attach", want: "attach"},
		"of the namespace, although off":   {file: "off", ofNamespace: "evict", want: "evict"},
		"of the pod":                       {file: "report", ofNamespace: "attach", pod: "evict", want: "evict"},
		"of the pod, off":                  {file: "attach", ofNamespace: "attach", pod: "off", want: ""},
		"of the pod, unknown":              {file: "report", ofNamespace: "attach", pod: "all", want: "attach"},
		"of the namespace, unknown":        {file: "report", ofNamespace: "yes", want: "report"},
		"a namespace that is not repaired": {file: "attach", namespace: "kube-system", want: "report"},
		"off, in an excluded namespace":    {file: "off", namespace: "kube-system", want: ""},
		"excluded, and its annotation":     {file: "report", namespace: "kube-system", pod: "attach", want: "attach"},
		"excluded, and the namespace":      {file: "evict", namespace: "kube-system", ofNamespace: "attach", want: "attach"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.o.Rule, n.namespace = tc.file, map[string]string{netsel.Repair: tc.ofNamespace}
			namespace := tc.namespace
			if namespace == "" {
				namespace = "team"
			}
			n.observe("u", namespace, tc.pod)
			n.result(t, cluster, "c1", "eth0", "u", time.Hour)
			n.lookNow(t)
			got := map[bool]string{true: "attach", false: ""}[len(n.attached) > 0] +
				map[bool]string{true: "evict", false: ""}[len(n.evicted) > 0]
			if got == "" && len(n.reports) > 0 {
				got = "report"
			}
			if got != tc.want || len(n.Missing()) != min(len(tc.want), 1) {
				t.Errorf("%q, want %q; missing: %+v", got, tc.want, n.Missing())
			}
		})
	}
}

// TestEvict checks which pods are evicted, and that a pod that is not says why (behaviour R17).
func TestEvict(t *testing.T) {
	t.Parallel()
	running := kube.PodState{UID: "u", Running: true, Controlled: true}
	for name, tc := range map[string]struct {
		set  func(n *node)
		want string // of the last event
	}{
		"with a controller": {func(*node) {}, EvictedForNetworks + ": "},
		"without a controller": {
			func(n *node) { n.state.Controlled = false },
			"It is not repaired: it has no controller that creates it again. Delete",
		},
		"a static pod":        {func(n *node) { n.state.Static = true }, "It is not repaired: it is a static pod"},
		"deleted already":     {func(n *node) { n.state.Ending = true }, ""},
		"gone":                {func(n *node) { n.state = kube.PodState{} }, ""},
		"another pod by now":  {func(n *node) { n.state.UID = "v" }, ""},
		"Multus is bypassed":  {func(n *node) { n.notInForce = errors.New("another file") }, "its networks: another file"},
		"not now, by budget":  {func(n *node) { n.refused = fmt.Errorf("%w: budget", publish.ErrRetry) }, "budget"},
		"without permissions": {func(n *node) { n.refused = publish.ErrForbidden }, "not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.o.Rule, n.state = config.RepairEvict, running
			n.pod("u", "a")
			n.result(t, cluster, "c1", "eth0", "u", time.Hour)
			tc.set(n)
			n.lookNow(t)
			if got := n.last(); (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
				t.Errorf("event %q, want %q", got, tc.want)
			}
			want := strings.HasPrefix(tc.want, EvictedForNetworks)
			if got := len(n.evicted) > 0; got != want {
				t.Errorf("evicted: %t", got)
			}
			if n.lookNow(t) != "" || len(n.evicted) > 1 {
				t.Errorf("a second time: %q, evicted %v", n.last(), n.evicted)
			}
		})
	}
}

// TestEvictLater checks that a pod that a budget protected is evicted when the budget permits it.
func TestEvictLater(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.o.Rule, n.refused = config.RepairEvict, publish.ErrRetry
	n.pod("u", "a")
	n.result(t, cluster, "c1", "eth0", "u", time.Hour)
	n.lookNow(t)
	n.refused = nil
	n.lookNow(t)
	if len(n.evicted) > 0 || n.Missing()[0].Note == "" {
		t.Errorf("evicted without a pause: %+v", n.Missing())
	}
	n.clock.Step(firstPause)
	if n.lookNow(t); len(n.evicted) != 1 {
		t.Errorf("not evicted: %+v", n.Missing())
	}
}

// TestEvictRate checks that no more pods are evicted in a minute than permitted, and that all of them are reported.
func TestEvictRate(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.o.Rule = config.RepairEvict
	const pods = 40
	for i := range pods {
		uid := fmt.Sprint(i)
		n.pod(uid, "a")
		n.result(t, cluster, "c"+uid, "eth0", uid, time.Hour)
	}
	n.o.Cluster = everyPod{n}
	n.lookNow(t)
	if len(n.evicted) != 10 || len(n.reports) != pods {
		t.Errorf("%d evicted, %d reported", len(n.evicted), len(n.reports))
	}
	n.clock.Step(time.Minute)
	n.lookNow(t)
	if len(n.evicted) != 20 || len(n.Missing()) != pods {
		t.Errorf("%d evicted after a minute, %d missing", len(n.evicted), len(n.Missing()))
	}
}

// everyPod is a cluster in which each pod has the UID of its name.
type everyPod struct{ *node }

func (n everyPod) PodState(_ context.Context, ref plan.Ref) (*kube.PodState, error) {
	return &kube.PodState{UID: strings.TrimPrefix(ref.Name, "pod-"), Running: true, Controlled: true}, nil
}

// TestStaticPod checks that a static pod is found by the UID that the kubelet gives the runtime.
func TestStaticPod(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Observe(&plan.Pod{
		Ref: plan.Ref{Namespace: "team", Name: "static-node"}, UID: "mirror", Annotations: map[string]string{
			netsel.Networks: "a", netsel.ConfigSource: "file", netsel.ConfigHash: "hash",
		},
	})
	n.result(t, cluster, "c1", "eth0", "hash", time.Hour)
	if got := n.lookNow(t); got != "mirror" {
		t.Errorf("reported %q", got)
	}
}

// TestWithoutResults checks which pods are found without a result of the runtime: those that run, have no record and
// never had a network status.
func TestWithoutResults(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set  func(n *node)
		want string
	}{
		"runs":              {func(*node) {}, "u"},
		"has a record":      {func(n *node) { n.recorded = map[string]bool{"team/pod-u": true} }, ""},
		"waits for its ADD": {func(n *node) { n.state.Running = false }, ""},
		"host network":      {func(n *node) { n.state.HostNetwork = true }, ""},
		"another pod":       {func(n *node) { n.state.UID = "v" }, ""},
		"too young":         {func(n *node) { n.clock.Step(-30 * time.Second) }, ""},
		"has a network status": {func(n *node) {
			n.Observe(&plan.Pod{Ref: plan.Ref{Namespace: "team", Name: "pod-u"}, UID: "u", Annotations: map[string]string{
				netsel.Networks: "a", netsel.Status: "[]",
			}})
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.pod("u", "a")
			n.clock.Step(time.Minute)
			tc.set(n)
			if got := n.lookNow(t); got != tc.want {
				t.Errorf("reported %q, want %q", got, tc.want)
			}
			reads := n.reads
			if n.lookNow(t); n.reads != reads {
				t.Error("the pod is read again at once")
			}
		})
	}
}

// TestNotAttached checks that a pod whose sandbox is unknown is not handed to the runner, and that its event says so.
func TestNotAttached(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.o.Rule = config.RepairAttach
	n.pod("u", "a")
	n.clock.Step(time.Minute)
	n.lookNow(t)
	if len(n.attached) > 0 || !strings.Contains(n.last(), "It is not repaired: its sandbox is not among") {
		t.Errorf("attached: %v, event %q", n.attached, n.last())
	}
	n.result(t, cluster, "c1", "eth0", "u", time.Hour)
	n.lookNow(t)
	n.lookNow(t)
	if len(n.attached) != 1 || len(n.Missing()) != 1 {
		t.Errorf("attached: %v, missing: %+v", n.attached, n.Missing())
	}
}
