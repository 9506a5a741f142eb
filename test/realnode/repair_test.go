package realnode

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/agent/repair"
	"multus/internal/testutil/cluster"
)

const (
	// latePods is the number of pods that start while the CNI configuration file is missing, and evictedPods the number of
	// those that are evicted.
	latePods, evictedPods = 40, 3
	// reportLimit is the time from the start of a sandbox until its pod is reported.
	reportLimit = 70 * time.Second
	// evicted is the annotation of pods with the two additional networks that may be evicted.
	evicted = `{k8s.v1.cni.cncf.io/networks: "net-a,net-b", v1.multus-cni.io/repair: evict}`
	// ordinaryEnv has the number of ordinary pods that TestRepair starts. ordinaryPods start together.
	ordinaryEnv  = "REPAIR_PODS"
	ordinaryPods = 50
)

// TestRepair starts pods while the CNI configuration file is missing, as at a boot at which the cluster network's agent
// is faster. All of them are reported. Those that may be evicted are created again with their networks. The others, a
// static pod among them, get their networks while they run. Ordinary pods are not reported.
func TestRepair(t *testing.T) {
	n := start(t, cluster.Options{})
	n.installWith(t, "hotplug", "evict")
	n.twoNetworks(t) // the first pod creates the cluster network's bridge, which stays
	r := &missing{node: n}
	inOrder(t, []scenario{
		{"pods start without Multus", r.late},
		{"evicted", r.evicted},
		{"attached", r.attachedLate},
		{"deleted", r.deleted},
		{"ordinary pods", r.ordinary},
	})
}

// missing has the pods that start late.
type missing struct {
	*node
	before []string // their containers
}

// seen returns when the events of a reason were written, by pod.
func (r *missing) seen(t *testing.T, reason string) map[string]time.Time {
	t.Helper()
	l, err := r.Client.CoreV1().Events("default").List(t.Context(),
		metav1.ListOptions{FieldSelector: "source=multus,reason=" + reason})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]time.Time{}
	for i := range l.Items {
		out[l.Items[i].InvolvedObject.Name] = l.Items[i].CreationTimestamp.Time
	}
	return out
}

// until waits until a number of pods have an event of a reason.
func (r *missing) until(t *testing.T, reason string, pods int) {
	t.Helper()
	until(t, fmt.Sprintf("%d events %s", pods, reason), func() error {
		if got := len(r.seen(t, reason)); got < pods {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}

// late starts pods while neither the daemon nor the CNI configuration file is there. When the daemon is back, each pod
// is reported within the limit.
func (r *missing) late(t *testing.T) {
	ds := r.Client.AppsV1().DaemonSets("kube-system")
	selector := func(patch string) {
		_, err := ds.Patch(t.Context(), "kube-multus-ds", types.MergePatchType,
			[]byte(`{"spec":{"template":{"spec":{"nodeSelector":`+patch+`}}}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	selector(`{"none":"none"}`)
	until(t, "the daemon is gone", func() error {
		l, err := r.Client.CoreV1().Pods("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: "app=multus"})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("%d pods", len(l.Items))
		}
		return err
	})
	files, err := filepath.Glob(r.Path(r.paths.Conf + "/00-multus.conf*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("configuration: %q, %v", files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	file := r.Path(r.paths.Kubelet + "/static/static.yaml")
	if err := os.WriteFile(file, []byte(pod("static", extra)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.apply(t, controller("Deployment", "evicted", evictedPods, evicted, ""))
	r.scale(t, controller("Deployment", "late", latePods, extra, ""), "late", latePods)
	r.untilReady(t, "evicted", evictedPods)
	r.untilHeld(t, 1+latePods+evictedPods) // addresses of the cluster network
	r.before = r.identities(t, "late")

	back := time.Now()
	selector("null")
	until(t, "DaemonSet Ready", func() error { return r.rolledOut(t) })
	r.until(t, repair.NetworksMissing, latePods+1)
	var took []time.Duration
	reported := r.seen(t, repair.NetworksMissing)
	for _, p := range r.pods(t, "late") {
		at, ok := reported[p.Name]
		if !ok {
			t.Errorf("%s is not reported", p.Name)
			continue
		}
		began := p.Status.StartTime.Time
		took = append(took, at.Sub(began))
		if at.Sub(began) > reportLimit && at.Sub(back) > reportLimit {
			t.Errorf("%s is reported after %s", p.Name, at.Sub(began))
		}
	}
	report(t, "from the start of a pod to its report", took)
}

// evicted waits until the pods that may be evicted were created again with their networks.
func (r *missing) evicted(t *testing.T) {
	r.until(t, repair.EvictedForNetworks, evictedPods)
	r.untilReady(t, "evicted", evictedPods)
	r.complete(t, "evicted")
}

// attachedLate has the networks attached to the pods that run, by an annotation of their namespace.
func (r *missing) attachedLate(t *testing.T) {
	_, err := r.Client.CoreV1().Namespaces().Patch(t.Context(), "default", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"v1.multus-cni.io/repair":"attach"}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.until(t, repair.NetworksAttachedLate, latePods+1)
	pods := r.complete(t, "late")
	r.untilAttached(t, "static-"+cluster.NodeName)
	r.traffic(t, pods[:2])
	if after := r.identities(t, "late"); !slices.Equal(r.before, after) {
		t.Errorf("containers were %q, are %q", r.before, after)
	}
	r.wantHeld(t, 4*(latePods+1+evictedPods))
}

// deleted deletes the pods. Nothing of them is left.
func (r *missing) deleted(t *testing.T) {
	if err := os.Remove(r.Path(r.paths.Kubelet + "/static/static.yaml")); err != nil {
		t.Fatal(err)
	}
	r.scale(t, controller("Deployment", "late", 0, extra, ""), "late", 0)
	r.scale(t, controller("Deployment", "evicted", 0, evicted, ""), "evicted", 0)
	r.untilHeld(t, 0)
}

// ordinary starts pods with the daemon, which must report none of them, although it reports sandboxes of any age.
func (r *missing) ordinary(t *testing.T) {
	pods := ordinaryPods
	if value := os.Getenv(ordinaryEnv); value != "" {
		var err error
		if pods, err = strconv.Atoi(value); err != nil {
			t.Fatal(err)
		}
	}
	r.configure(t, hotPlugLine, hotPlugLine+`, "repairAfter": "1ms"`)
	reported := len(r.seen(t, repair.NetworksMissing))
	for began := 0; began < pods; began += ordinaryPods {
		r.scale(t, controller("Deployment", "ordinary", ordinaryPods, extra, ""), "ordinary", ordinaryPods)
		r.scale(t, controller("Deployment", "ordinary", 0, extra, ""), "ordinary", 0)
	}
	r.untilHeld(t, 0)
	if got := len(r.seen(t, repair.NetworksMissing)); got != reported {
		t.Errorf("%d ordinary pods are reported", got-reported)
	}
	t.Attr("note", fmt.Sprintf("%d ordinary pods, none reported", pods))
}
