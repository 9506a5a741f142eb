package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/kubetest"
)

// TestRemoved checks which element of an annotation is detached, and that an unclear request is refused.
func TestRemoved(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		value, network, ifName string
		want, target           string
		err                    string
	}{
		"by name":                {"net, br", "net", "", "br", "", ""},
		"by namespace and name":  {"net,other/net@x", "other/net", "", "net", "x", ""},
		"in the pod's namespace": {"team-a/net,br", "net", "", "br", "", ""},
		"by interface":           {"net@a,net@b", "net", "a", "net@b", "a", ""},
		"the last of equal ones": {`[{"name":"net"},{"name":"br"},{"name":"net"}]`, "net", "", `[{"name":"net"},{"name":"br"}]`, "", ""},
		"several": {
			"net@a,net@b", "net", "", "", "",
			"it names network team-a/net several times (network team-a/net with interface a, network team-a/net with " +
				"interface b): name one with --interface, or edit the annotation",
		},
		"another interface": {
			"net,br@b", "net", "a", "", "",
			"it does not name network team-a/net with interface a; it names network team-a/net, network team-a/br with " +
				"interface b",
		},
		"none":    {"", "net", "", "", "", "it does not name network team-a/net; it names no network"},
		"invalid": {"a/b/c", "net", "", "", "", "correct it first"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := &podNetwork{name: tc.network, ifName: tc.ifName, timeout: defaultWait}
			if err := n.parse("team-a/web-0"); err != nil {
				t.Fatal(err)
			}
			got, err := n.edit(&plan.Pod{Annotations: map[string]string{netsel.Networks: tc.value}})
			switch {
			case tc.err != "":
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%q, %v", got, err)
				}
			case err != nil || got != tc.want || n.target != tc.target:
				t.Errorf("%q, %q, %v", got, n.target, err)
			}
		})
	}
}

// TestResult checks when a change is visible in the network status.
func TestResult(t *testing.T) {
	t.Parallel()
	const attach, detach = true, false
	for name, tc := range map[string]struct {
		attaching           bool
		target, before, now string
		ifName              string
		done                bool
	}{
		"attached":                         {attach, "", "net1", "net1 net2", "net2", true},
		"not attached yet":                 {attach, "", "net1", "net1", "", false},
		"attached as requested":            {attach, "data0", "net1", "net1 data0", "data0", true},
		"another one attached":             {attach, "data0", "", "net1", "data0", false},
		"detached":                         {detach, "", "net1 net2", "net1", "net2", true},
		"not detached yet":                 {detach, "", "net1", "net1", "", false},
		"detached as requested":            {detach, "data0", "net1 data0", "net1", "data0", true},
		"another one detached":             {detach, "data0", "net1 data0", "data0", "data0", false},
		"it was not attached":              {detach, "", "", "", "", true},
		"the interface was not attached":   {detach, "data0", "", "", "data0", true},
		"detached, and another is in use":  {detach, "", "net1 net2", "net2", "net1", true},
		"attached, and another is removed": {attach, "", "net1", "net2", "net2", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &waiting{podNetwork: &podNetwork{attaching: tc.attaching, target: tc.target}, before: strings.Fields(tc.before)}
			ifName, done := w.result(strings.Fields(tc.now))
			if done != tc.done || ifName != tc.ifName {
				t.Errorf("%q, %v", ifName, done)
			}
		})
	}
}

// TestIsAbout checks that an event is assigned to the network that it names.
func TestIsAbout(t *testing.T) {
	t.Parallel()
	w := &waiting{podNetwork: &podNetwork{network: plan.Ref{Namespace: "team-a", Name: "net"}}}
	for message, want := range map[string]bool{
		"network team-a/net (interface net1): failed":                                 true,
		"cannot find a network-attachment-definition (net) in namespace (team-a): no": true,
		"network team-a/network of pod team-a/web-0":                                  false,
		"network team-a/my-net (interface net1): failed":                              false,
		"": false,
	} {
		if got := w.isAbout(message); got != want {
			t.Errorf("%q: %v", message, got)
		}
	}
}

// podNetworks is a pod of a real API server whose networks are changed. The test acts for the daemon.
type podNetworks struct {
	*kubetest.Cluster
	kubeconfig string
}

const plugNS = "plug"

// testPodNetworks attaches networks to a pod and detaches them, against a real API server.
func testPodNetworks(t *testing.T, cluster *kubetest.Cluster, admin string) {
	p := &podNetworks{cluster, admin}
	cluster.CreateNamespace(t, plugNS)
	cluster.CreateNetwork(t, plugNS, "storage", `{"cniVersion":"1.0.0","type":"macvlan","master":"eth1"}`, nil)
	t.Run("attach and detach", p.testRoundTrip)
	t.Run("chosen interface", p.testChosenInterface)
	t.Run("failures", p.testFailures)
	t.Run("refused", p.testRefused)
	t.Run("permissions", p.testPermissions)
}

// attempt is a command that runs beside the test.
type attempt struct {
	code      int
	out, errs bytes.Buffer
	cancel    context.CancelFunc
	done      chan struct{}
}

// begin starts a command for a pod of the test.
func (p *podNetworks) begin(t *testing.T, args ...string) *attempt {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a := &attempt{cancel: cancel, done: make(chan struct{})}
	t.Cleanup(func() { cancel(); <-a.done })
	go func() {
		defer close(a.done)
		a.code = Run(ctx, Env{
			Args:   append(append([]string{"multusctl"}, args...), "--kubeconfig", p.kubeconfig),
			Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""), Stdout: &a.out, Stderr: &a.errs,
		})
	}()
	return a
}

// run runs a command to its end.
func (p *podNetworks) run(t *testing.T, args ...string) *attempt {
	t.Helper()
	a := p.begin(t, args...)
	<-a.done
	return a
}

// edited waits until the annotation of a pod has a value.
func (p *podNetworks) edited(t *testing.T, pod, want string) {
	t.Helper()
	eventually.Within(t, waitTimeout, "annotation "+want, func() bool {
		got, ok := p.Annotation(t, plugNS, pod, netsel.Networks)
		return ok && got == want
	})
}

// event records an event about a pod.
func (p *podNetworks) event(t *testing.T, pod, reason, message string) {
	t.Helper()
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: pod + ".", Namespace: plugNS},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: plugNS, Name: pod},
		Reason:         reason, Message: message, Type: "Warning",
	}
	if _, err := p.Client().CoreV1().Events(plugNS).Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// testRoundTrip checks that the other elements of the annotation keep their bytes, that the commands wait for the
// network status, and that detaching the last network leaves an empty annotation.
func (p *podNetworks) testRoundTrip(t *testing.T) {
	const before = `[ {"name": "br", "x":1.0} ]`
	const with = `[ {"name": "br", "x":1.0},{"name":"storage","interface":"data0"} ]`
	p.CreatePod(t, plugNS, "web-0", map[string]string{netsel.Networks: before})
	a := p.begin(t, "attach", "pod", "plug/web-0", "--network", "storage", "--interface", "data0", "-o", "json")
	p.edited(t, "web-0", with)
	p.event(t, "web-0", "FailedAddingInterface", "network plug/br (interface net1): failed")
	p.Annotate(t, plugNS, "web-0", netsel.Status, `[{"name":"cbr0","interface":"eth0"},{"name":"plug/storage","interface":"data0"}]`)
	<-a.done
	var out podNetworkOutput
	if err := json.Unmarshal(a.out.Bytes(), &out); err != nil || a.code != OK || out.State != "attached" ||
		out.Interface != "data0" || out.Annotation != with || !strings.Contains(a.errs.String(), "waiting up to 1m0s") {
		t.Errorf("%d %v %s%s", a.code, err, &a.out, &a.errs)
	}
	a = p.begin(t, "detach", "pod", "plug/web-0", "--network", "storage")
	p.edited(t, "web-0", before)
	select {
	case <-a.done:
		t.Errorf("ended before the interface was gone: %d %s%s", a.code, &a.out, &a.errs)
	default:
	}
	p.Annotate(t, plugNS, "web-0", netsel.Status, `[{"name":"cbr0","interface":"eth0"}]`)
	<-a.done
	if a.code != OK || a.out.String() != "pod plug/web-0: network plug/storage (interface data0) is detached\n" {
		t.Errorf("%d %s%s", a.code, &a.out, &a.errs)
	}
	a = p.run(t, "detach", "pod", "plug/web-0", "--network", "br", "--no-wait")
	p.edited(t, "web-0", "")
	if a.code != OK || a.errs.Len() > 0 || a.out.String() !=
		"pod plug/web-0: network plug/br is to be detached: the annotation is now \"\"\n" {
		t.Errorf("%d %s%s", a.code, &a.out, &a.errs)
	}
}

// testChosenInterface checks that a pod without the annotation gets the comma-separated form, and that the interface
// that the daemon chooses is shown.
func (p *podNetworks) testChosenInterface(t *testing.T) {
	p.CreatePod(t, plugNS, "web-1", map[string]string{netsel.Status: `[{"name":"cbr0","interface":"eth0"}]`})
	a := p.begin(t, "attach", "pod", "plug/web-1", "--network", "storage")
	p.edited(t, "web-1", "storage")
	p.Annotate(t, plugNS, "web-1", netsel.Status, `[{"name":"plug/storage","interface":"net1"}]`)
	<-a.done
	if a.code != OK || a.out.String() != "pod plug/web-1: network plug/storage (interface net1) is attached\n" {
		t.Errorf("%d %s%s", a.code, &a.out, &a.errs)
	}
}

// testFailures checks the errors of a wait: an event about the network, the timeout, an interruption, and the deletion
// of the pod. An event from before the edit is no error.
func (p *podNetworks) testFailures(t *testing.T) {
	p.CreatePod(t, plugNS, "web-2", nil)
	p.event(t, "web-2", "FailedAddingInterface", "network plug/storage: an earlier failure")
	args := []string{"attach", "pod", "plug/web-2", "--network", "storage", "--interface"}
	a := p.begin(t, append(args, "a")...)
	p.edited(t, "web-2", "storage@a")
	p.event(t, "web-2", "FailedAddingInterface", "network plug/other: failed")
	p.event(t, "web-2", "FailedAddingInterface", "network plug/storage: no master")
	<-a.done
	const want = "error: network plug/storage of pod plug/web-2 is not attached: network plug/storage: no master; " +
		"the annotation stays edited, and the node tries again; " +
		"`multusctl detach pod plug/web-2 --network storage --interface a` takes it back\n"
	if a.code != Found || !strings.HasSuffix(a.errs.String(), want) || a.out.Len() > 0 {
		t.Errorf("event: %d %s%s", a.code, &a.out, &a.errs)
	}
	a = p.run(t, append(args, "b", "--timeout", "1500ms")...)
	for _, want := range []string{
		"is not attached after 1.5s; the annotation stays edited", "hotPlug",
		"`multusctl explain pod plug/web-2 --running --node " + kubetest.Node + "`", "`multusctl doctor --node " + kubetest.Node + "`",
	} {
		if a.code != Found || !strings.Contains(a.errs.String(), want) {
			t.Errorf("timeout: %d, no %q in %s", a.code, want, &a.errs)
		}
	}
	a = p.begin(t, append(args, "c")...)
	p.edited(t, "web-2", "storage@a,storage@b,storage@c")
	a.cancel()
	<-a.done
	if a.code != Found || !strings.Contains(a.errs.String(), "the annotation of pod plug/web-2 stays edited") {
		t.Errorf("interrupted: %d %s", a.code, &a.errs)
	}
	a = p.begin(t, append(args, "d")...)
	p.edited(t, "web-2", "storage@a,storage@b,storage@c,storage@d")
	p.DeletePod(t, plugNS, "web-2")
	<-a.done
	if a.code != Found || !strings.Contains(a.errs.String(), "pod plug/web-2 was deleted") {
		t.Errorf("deleted: %d %s", a.code, &a.errs)
	}
}

// testRefused checks that what cannot succeed is refused before the annotation is changed.
func (p *podNetworks) testRefused(t *testing.T) {
	const before = "storage@data0"
	p.CreatePod(t, plugNS, "web-3", map[string]string{netsel.Networks: before})
	host := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "host"}, Spec: corev1.PodSpec{
		HostNetwork: true, Containers: []corev1.Container{{Name: "app", Image: "registry.example/app:1"}},
	}}
	if _, err := p.Client().CoreV1().Pods(plugNS).Create(t.Context(), host, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"attach pod plug/web-3 --network storage --interface data0": "interface data0 is in it already, for network plug/sto",
		"attach pod plug/web-3 --network missing":                   "plug/missing: not found; nothing was changed",
		"attach pod plug/none --network storage":                    "get pod plug/none: not found",
		"attach pod plug/host --network storage":                    "uses the network of its node",
		"detach pod plug/web-3 --network br":                        "it names network plug/storage with interface data0",
	} {
		if a := p.run(t, strings.Fields(args)...); a.code != Found || !strings.Contains(a.errs.String(), want) ||
			a.out.Len() > 0 {
			t.Errorf("%s: %d %s%s", args, a.code, &a.out, &a.errs)
		}
	}
	if got, _ := p.Annotation(t, plugNS, "web-3", netsel.Networks); got != before {
		t.Errorf("annotation %q", got)
	}
}

// testPermissions checks that an account without permissions gets an error about its own permissions.
func (p *podNetworks) testPermissions(t *testing.T) {
	account := p.KubeconfigFor(t, p.Addr(), p.ServiceAccountToken(t, plugNS, "guest"))
	code, out, errs := call(t, nil, "attach", "pod", "plug/web-1", "--network", "storage", "--kubeconfig", account)
	if code != Found || out != "" ||
		!strings.HasPrefix(errs, `error: your account lacks the verb "get" on pods in namespace plug: `) {
		t.Errorf("%d %q %q", code, out, errs)
	}
	code, out, errs = call(t, nil, "attach", "pod", "plug/web-1", "--network", "storage")
	if code != Found || out != "" || errs != "error: no cluster: give --kubeconfig\n" {
		t.Errorf("no cluster: %d %q %q", code, out, errs)
	}
}
