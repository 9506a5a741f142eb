package realnode

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/engine/publish"
	"multus/internal/testutil/cluster"
)

const (
	// plugPods is the number of pods whose networks change while they run.
	plugPods = 10
	// coldRounds is the number of times that the networks of all pods change while no runner runs, and warmRounds the
	// number of times that those of one pod after another change while one does. Both are even: the last one removes.
	coldRounds, warmRounds = 10, 4
	// statusPeriod is how often the kubelet asks containerd for its status.
	statusPeriod = 5 * time.Second
	// coldLimit is the limit of the change of one pod without a runner. One round may miss it: if the daemon of a busy
	// machine does not answer within the plugin's limit, a runner is started by the STATUS after that one. The limit of
	// virt-controller holds for all.
	coldLimit = 7 * time.Second
	// hotPlugLine is what deploy/components/hotplug adds to the daemon's configuration file.
	hotPlugLine = `"hotPlug": true`
)

var (
	bothNetworks = []string{"eth0", "net1", "net2"}
	noNetworks   = []string{"eth0"}
)

// TestHotPlug changes the networks of running pods by their annotation, installed as users install it: base with
// deploy/components/hotplug. The other component shows that the first one has all permissions that are needed. The
// runner is started in each of the ways that docs/hot-plug.md describes.
func TestHotPlug(t *testing.T) {
	n := start(t, cluster.Options{})
	n.installWith(t, "hotplug", "runtime-annotations")
	n.twoNetworks(t) // the first pod creates the cluster network's bridge, which stays
	w := n.watchPlugs(t)
	inOrder(t, []scenario{
		{"Deployment", w.deployment},
		{"KubeVirt", w.kubevirt},
		{"KubeVirt, a network from the start", w.kubevirtFromStart},
		{"changed element", w.changedElement},
		{"containerd terminated and killed", w.runnerSurvives},
		{"calls of STATUS", w.statusCalls},
		{"service", w.service},
		{"executor", w.executor},
	})
}

// plugWatch follows the network statuses of the pods that have the label plug.
type plugWatch struct {
	*node
	lingerLine string // of the daemon's configuration file

	mu    sync.Mutex
	shown map[string]shown // by pod
}

// shown is what a network status is about, and when that was first seen.
type shown struct {
	status     []nadv1.NetworkStatus
	interfaces []string
	at         time.Time
}

func (n *node) watchPlugs(t *testing.T) *plugWatch {
	t.Helper()
	w := &plugWatch{node: n, shown: map[string]shown{}}
	n.watchPods(t, "app in (plug,vm)", func(p *corev1.Pod, now time.Time) {
		status, err := networkStatus(p)
		if err != nil {
			return // its ADD has not ended
		}
		var interfaces []string
		for i := range status {
			interfaces = append(interfaces, status[i].Interface)
		}
		slices.Sort(interfaces)
		w.mu.Lock()
		defer w.mu.Unlock()
		if s := w.shown[p.Name]; !slices.Equal(s.interfaces, interfaces) {
			w.shown[p.Name] = shown{status, interfaces, now}
		}
	})
	return w
}

// of returns what the network status of a pod is about.
func (w *plugWatch) of(pod string) shown {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shown[pod]
}

// annotate writes the annotation of a running pod.
func (n *node) annotate(t *testing.T, pod, networks string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, nadv1.NetworkAttachmentAnnot, networks)
	_, err := n.Client.CoreV1().Pods("default").Patch(t.Context(), pod, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// change writes the annotation of pods and waits until the network status of each is about these interfaces. It returns
// how long that took for each pod, from the moment before its annotation was written.
func (w *plugWatch) change(t *testing.T, networks string, want []string, pods ...string) []time.Duration {
	t.Helper()
	began := make([]time.Time, len(pods))
	for i, pod := range pods {
		began[i] = time.Now()
		w.annotate(t, pod, networks)
	}
	took := make([]time.Duration, len(pods))
	for i, pod := range pods {
		wait(t, fmt.Sprintf("the network status of %s with %q", pod, networks), func() error {
			s := w.of(pod)
			if !slices.Equal(s.interfaces, want) || s.at.Before(began[i]) {
				return fmt.Errorf("%q, want %q", s.interfaces, want)
			}
			took[i] = s.at.Sub(began[i])
			return nil
		})
	}
	return took
}

// has checks the interfaces in the pods themselves.
func (w *plugWatch) has(t *testing.T, want []string, pods ...string) {
	t.Helper()
	for _, name := range pods {
		found, err := w.interfaces(t, w.pod(t, name))
		if err != nil {
			t.Fatal(err)
		}
		delete(found, "lo")
		var got []string
		for name := range found {
			got = append(got, name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("pod %s has %q, want %q", name, got, want)
		}
	}
}

// identities returns the identity and the restarts of each container of a controller.
func (n *node) identities(t *testing.T, app string) []string {
	t.Helper()
	var all []string
	for _, p := range n.pods(t, app) {
		s := p.Status.ContainerStatuses[0]
		all = append(all, fmt.Sprintf("%s %s %s, %d restarts", p.Name, p.UID, s.ContainerID, s.RestartCount))
	}
	slices.Sort(all)
	return all
}

// running scales a Deployment without additional networks, and returns the names of its pods.
func (w *plugWatch) running(t *testing.T, app string, replicas int) []string {
	t.Helper()
	w.scale(t, controller("Deployment", app, replicas, "{}", ""), app, replicas)
	var names []string
	for _, p := range w.pods(t, app) {
		names = append(names, p.Name)
	}
	return names
}

// deployment adds two networks to the pods of a Deployment and removes them, without and with a runner that runs
// already. The containers stay the same, and nothing is left of the pods when they are deleted.
func (w *plugWatch) deployment(t *testing.T) {
	links, err := w.links(t)
	if err != nil {
		t.Fatal(err)
	}
	held := len(w.held(t))
	pods := w.running(t, "plug", plugPods)
	before := w.identities(t, "plug")
	first := w.change(t, "net-a,net-b", bothNetworks, pods...)
	w.has(t, bothNetworks, pods...)
	w.complete(t, "plug")
	w.traffic(t, w.pods(t, "plug"))
	w.wantHeld(t, held+4*plugPods)
	first = append(first, w.change(t, "", noNetworks, pods...)...)
	w.has(t, noNetworks, pods...)
	w.wantHeld(t, held+2*plugPods)
	report(t, fmt.Sprintf("%d pods at once, as installed", plugPods), first)
	w.hasPlugEvents(t, pods[0], map[string]int{publish.AddedInterface: 3, publish.RemovedInterface: 2}) // eth0, too
	w.warm(t, pods)
	w.cold(t, pods)
	if after := w.identities(t, "plug"); !slices.Equal(before, after) {
		t.Errorf("containers were %q, are %q", before, after)
	}
	w.change(t, "net-a,net-b", bothNetworks, pods...)
	w.running(t, "plug", 0)
	w.untilHeld(t, held)
	until(t, "links and results as before", func() error {
		left, err := filepath.Glob(w.Path(results))
		after, lerr := w.links(t)
		if err == nil && lerr == nil && (len(left) > 0 || !slices.Equal(after, links)) {
			err = fmt.Errorf("results %q; links were %q, are %q", left, links, after)
		}
		return err
	})
}

// hasPlugEvents waits until Multus has written this many events about a pod, by reason. deploy/base/policies.yaml
// limits the reasons.
func (w *plugWatch) hasPlugEvents(t *testing.T, pod string, want map[string]int) {
	t.Helper()
	wait(t, "events of "+pod, func() error {
		l, err := w.Client.CoreV1().Events("default").List(t.Context(),
			metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod + ",source=multus"})
		if err != nil {
			return err
		}
		got := map[string]int{}
		for i := range l.Items {
			got[l.Items[i].Reason]++
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}

// warm changes the networks of one pod after another while a runner waits for work.
func (w *plugWatch) warm(t *testing.T, pods []string) {
	t.Helper()
	var added, removed []time.Duration
	w.change(t, "net-a,net-b", bothNetworks, pods[0]) // a runner runs from here on
	w.change(t, "", noNetworks, pods[0])
	for range warmRounds / 2 {
		for _, pod := range pods {
			added = append(added, w.change(t, "net-a,net-b", bothNetworks, pod)...)
		}
		for _, pod := range pods {
			removed = append(removed, w.change(t, "", noNetworks, pod)...)
		}
	}
	report(t, "one pod after another, with a runner: two networks added", added)
	report(t, "one pod after another, with a runner: two networks removed", removed)
}

// cold changes the networks of all pods while no runner runs, at a random moment between two calls of STATUS.
func (w *plugWatch) cold(t *testing.T, pods []string) {
	t.Helper()
	w.setLinger(t, "1s")
	var all, first []time.Duration
	for round := range coldRounds {
		wait(t, "the end of the runner", func() error {
			if running := w.runners(t); len(running) > 0 {
				return fmt.Errorf("runners %d", running)
			}
			return nil
		})
		// The rounds are spread over the period, whose phase is that of the STATUS that started the last runner.
		moment := time.NewTimer((time.Duration(round)*statusPeriod + rand.N(statusPeriod)) / coldRounds) //nolint:gosec // not for security
		<-moment.C
		networks, want := "net-a,net-b", bothNetworks
		if round%2 == 1 {
			networks, want = "", noNetworks
		}
		took := w.change(t, networks, want, pods...)
		t.Logf("round %d: %s to %s", round, slices.Min(took), slices.Max(took))
		all, first = append(all, took...), append(first, slices.Min(took)) // the runner begins with one of them
	}
	report(t, "without a runner: one pod", first)
	report(t, fmt.Sprintf("without a runner: %d pods at once", len(pods)), all)
	if first[coldRounds-2] > coldLimit || all[len(all)-1] > virtController {
		t.Errorf("limits: %s for one pod, missed once at most; %s for all", coldLimit, virtController)
	}
}

// setLinger sets how long a runner waits for more work. A runner that runs has it from its next request on.
func (w *plugWatch) setLinger(t *testing.T, value string) {
	t.Helper()
	next := fmt.Sprintf(`, "hotPlugLinger": %q`, value)
	w.configure(t, hotPlugLine+w.lingerLine, hotPlugLine+next)
	w.lingerLine = next
}

// runners returns the runners of the node.
func (n *node) runners(t *testing.T) []int {
	t.Helper()
	pids, err := n.Commands("multus-shim", "runner")
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// report sorts durations, and logs the median, the 99th percentile and the longest one.
func report(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	p99 := took[(len(took)*99+99)/100-1]
	text := fmt.Sprintf("%s: %d changes, p50 %s, p99 %s, longest %s", what, len(took),
		took[len(took)/2].Round(time.Millisecond), p99.Round(time.Millisecond),
		took[len(took)-1].Round(time.Millisecond))
	t.Log(text)
	t.Attr("note", text)
}
