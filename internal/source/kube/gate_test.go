package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	restwatch "k8s.io/client-go/rest/watch"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/kubetest"
)

const otherGate = "example.com/target-health"

var lost = &publish.Unready{Reason: "InterfaceLost", Message: "interface net1 is gone"}

// conditionsOf returns the conditions of a pod as "type=status(reason: message)", in their order.
func conditionsOf(t *testing.T, cluster *kubetest.Cluster, ns, name string) (list []string, since time.Time) {
	t.Helper()
	pod, err := cluster.Client().CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range pod.Status.Conditions {
		list = append(list, fmt.Sprintf("%s=%s(%s: %s)", c.Type, c.Status, c.Reason, c.Message))
		if c.Type == publish.Gate {
			since = c.LastTransitionTime.Time
		}
	}
	return list, since
}

// kubeletWrites sets two conditions of a pod as the kubelet does, one of them with a time in the past.
func kubeletWrites(t *testing.T, cluster *kubetest.Cluster, ns, name string) {
	t.Helper()
	patch := `{"status":{"conditions":[{"type":"Initialized","status":"True","reason":"R","message":"m"},` +
		`{"type":"Ready","status":"False","lastTransitionTime":"2020-01-01T00:00:00Z"}]}}`
	if _, err := cluster.Client().CoreV1().Pods(ns).Patch(t.Context(), name, types.StrategicMergePatchType,
		[]byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

// watchPods runs a watch of the node's pods until the test ends, and waits until it has seen a pod.
func watchPods(t *testing.T, c *Client, uid string) *observer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	o := &observer{pods: map[string]*plan.Pod{}}
	var wg sync.WaitGroup
	wg.Go(func() { c.WatchPods(ctx, kubetest.Node, o, discard()) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	eventually.Within(t, waitTimeout, "the watch has seen the pod", func() bool { return o.pod(uid) != nil })
	return o
}

// observer has the pods that a watch has seen last.
type observer struct {
	mu   sync.Mutex
	pods map[string]*plan.Pod
}

// Observe stores a pod.
func (o *observer) Observe(p *plan.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pods[p.UID] = p
}

// Gone removes a pod.
func (o *observer) Gone(p *plan.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.pods, p.UID)
}

func (o *observer) pod(uid string) *plan.Pod {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pods[uid]
}

// testGate checks the condition of a pod that lists the readiness gate (behaviour R30): the conditions of the kubelet
// stay, with the watch it is in the PATCH of the status, without it a second PATCH follows, the time changes with the
// status only, what changes nothing is not written, and other pods get what they always got.
func testGate(t *testing.T, cluster *kubetest.Cluster) {
	const ns, agent = "gate", "multus/gate"
	cluster.CreateNamespace(t, ns)
	config := cluster.RESTConfig()
	config.UserAgent = agent
	for _, watched := range []bool{true, false} {
		t.Run(fmt.Sprintf("watched %t", watched), func(t *testing.T) {
			name := fmt.Sprintf("gated-%t", watched)
			uid := cluster.CreatePod(t, ns, name, nil, otherGate, publish.Gate)
			kubeletWrites(t, cluster, ns, name)
			c := clientOf(t, config)
			patches := 2
			if watched {
				patches = 1
				watchPods(t, c, uid)
			}
			pod := request.Pod{Namespace: ns, Name: name, UID: uid}
			before := cluster.Requests(t, agent)["PATCH pods/status"]
			if err := c.SetStatus(t.Context(), pod, statusKey, "one", nil); err != nil {
				t.Fatal(err)
			}
			if n := cluster.Requests(t, agent)["PATCH pods/status"] - before; n != patches {
				t.Errorf("%d requests, want %d", n, patches)
			}
			got, _ := conditionsOf(t, cluster, ns, name)
			kubelets := []string{"Initialized=True(R: m)", "Ready=False(: )"}
			if d := cmp.Diff(append([]string{publish.Gate + "=True(NetworksAttached: )"}, kubelets...), got,
				sorted); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if value, _ := cluster.Annotation(t, ns, name, statusKey); value != "one" {
				t.Errorf("status %q", value)
			}
			if err := c.SetStatus(t.Context(), pod, statusKey, "two", lost); err != nil {
				t.Fatal(err)
			}
			got, _ = conditionsOf(t, cluster, ns, name)
			if d := cmp.Diff(append([]string{publish.Gate + "=False(InterfaceLost: interface net1 is gone)"}, kubelets...),
				got, sorted); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	t.Run("alone", func(t *testing.T) { testGateAlone(t, cluster, config.UserAgent, ns) })
	t.Run("replaced", func(t *testing.T) {
		uid := cluster.CreatePod(t, ns, "replaced", nil, publish.Gate)
		c := clientOf(t, config)
		watchPods(t, c, uid)
		cluster.DeletePod(t, ns, "replaced")
		c.gates.set(types.UID(uid), &condition{}) // as before the event of the deletion
		cluster.CreatePod(t, ns, "replaced", nil, publish.Gate)
		err := c.SetStatus(t.Context(), request.Pod{Namespace: ns, Name: "replaced", UID: uid}, statusKey, "x", nil)
		checkErr(t, "a replaced pod", err, publish.ErrGone, publish.ErrGone, publish.ErrRetry)
	})
}

// testGateAlone checks a condition without a status: it is written once for each change, with the time of the last
// change of its status, and a pod without the gate gets no PATCH.
func testGateAlone(t *testing.T, cluster *kubetest.Cluster, agent, ns string) {
	t.Helper()
	config := cluster.RESTConfig()
	config.UserAgent = agent + "-alone"
	c := clientOf(t, config)
	set := func(pod request.Pod, unready *publish.Unready) {
		t.Helper()
		if err := c.SetStatus(t.Context(), pod, "", "", unready); err != nil {
			t.Fatal(err)
		}
	}
	uid := cluster.CreatePod(t, ns, "alone", nil, publish.Gate)
	pod := request.Pod{Namespace: ns, Name: "alone", UID: uid}
	ungated := request.Pod{Namespace: ns, Name: "ungated", UID: cluster.CreatePod(t, ns, "ungated", nil, otherGate)}
	set(pod, nil) // not watched: no request
	set(ungated, lost)
	if got := cluster.Requests(t, config.UserAgent); len(got) != 1 || got["GET pods"] != 1 {
		t.Errorf("requests %v", got)
	}
	o := watchPods(t, c, uid)
	eventually.Within(t, waitTimeout, "the other pod is seen", func() bool { return o.pod(ungated.UID) != nil })
	set(ungated, lost)
	missing := publish.Lacking([]string{"a/b (interface net1)"})
	set(pod, missing)
	eventually.Within(t, waitTimeout, "the condition is seen", func() bool { return o.pod(uid).Unready })
	_, first := conditionsOf(t, cluster, ns, "alone")
	set(pod, missing)
	if got := cluster.Requests(t, config.UserAgent); got["PATCH pods/status"] != 1 {
		t.Errorf("requests %v", got)
	}
	old := &condition{
		Type: publish.Gate, Status: "False", Reason: missing.Reason, Message: missing.Message,
		LastTransitionTime: "2021-01-01T00:00:00Z",
	}
	c.gates.set(types.UID(uid), old)
	set(pod, lost)
	if _, since := conditionsOf(t, cluster, ns, "alone"); since.Equal(first) || since.Year() != 2021 {
		t.Errorf("the time of a condition whose status stays became %v", since)
	}
	eventually.Within(t, waitTimeout, "the other reason is seen", func() bool { return !o.pod(uid).Unready })
}

// testGatePUT checks that GET and PUT set the condition too, and keep the other conditions.
func testGatePUT(t *testing.T, cluster *kubetest.Cluster, c *Client, ns string) {
	t.Helper()
	uid := cluster.CreatePod(t, ns, "gated", nil, publish.Gate)
	pod := request.Pod{Namespace: ns, Name: "gated", UID: uid}
	if err := c.SetStatus(t.Context(), pod, statusKey, "x", nil); err != nil {
		t.Fatal(err)
	}
	kubeletWrites(t, cluster, ns, "gated")
	for _, tc := range []struct {
		unready *publish.Unready
		want    string
	}{{lost, "False(InterfaceLost: interface net1 is gone)"}, {nil, "True(NetworksAttached: )"}} {
		if err := c.SetStatus(t.Context(), pod, statusKey, "y", tc.unready); err != nil {
			t.Fatal(err)
		}
		got, _ := conditionsOf(t, cluster, ns, "gated")
		want := []string{publish.Gate + "=" + tc.want, "Initialized=True(R: m)", "Ready=False(: )"}
		if d := cmp.Diff(want, got, sorted); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

// sorted compares lists without their order.
var sorted = cmp.Transformer("sorted", func(list []string) map[string]int {
	out := map[string]int{}
	for _, one := range list {
		out[one]++
	}
	return out
})

// TestGateRequests checks what is sent for a pod that is known not to list the gate: what was always sent.
func TestGateRequests(t *testing.T) {
	t.Parallel()
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.Header.Get("Content-Type")+" "+r.Header.Get("Accept"))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{}`)
	})
	c.gates.set(types.UID(aPod.UID), nil)
	for _, unready := range []*publish.Unready{nil, lost} {
		if err := c.SetStatus(t.Context(), aPod, "k", "v", unready); err != nil {
			t.Fatal(err)
		}
		if err := c.SetStatus(t.Context(), aPod, "k", "", unready); err != nil {
			t.Fatal(err)
		}
	}
	want := "PATCH " + string(types.MergePatchType) + " " + acceptMetadata
	if len(got) != 2 || got[0] != want || got[1] != want {
		t.Errorf("sent %q, want 2 of %q", got, want)
	}
}

// podFile returns an encoded pod as the API server sends it, of 12 kB.
func podFile(tb testing.TB) []byte {
	tb.Helper()
	b, err := os.ReadFile("testdata/pod.json")
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// TestGateOf checks which pods list the gate, and what their condition is.
func TestGateOf(t *testing.T) {
	t.Parallel()
	whole := string(podFile(t))
	listed := &condition{
		Type: publish.Gate, Status: "True", Reason: "NetworksAttached", LastTransitionTime: "2026-11-27T12:00:00Z",
	}
	for name, tc := range map[string]struct {
		pod  string
		want *condition
		err  bool
	}{
		"a pod of a Deployment": {pod: whole, want: listed},
		"not listed, but with the condition": {pod: strings.Replace(whole, `"conditionType":"multus-cni.io/`,
			`"conditionType":"example.com/`, 1)},
		"listed, without a condition": {
			pod: `{"spec":{"readinessGates":[{"conditionType":"multus-cni.io/NetworksAttached"}]}}`, want: &condition{},
		},
		"another gate": {pod: `{"spec":{"readinessGates":[{"conditionType":"example.com/x"}]}}`},
		"conditions that are no list": {
			pod: `{"spec":{"readinessGates":[{"conditionType":"multus-cni.io/NetworksAttached"}]},"status":{"conditions":1}}`,
			err: true,
		},
		"no object": {pod: `["multus-cni.io/NetworksAttached"]`, err: true},
	} {
		got, err := gateOf([]byte(tc.pod))
		if d := cmp.Diff(tc.want, got); d != "" || (err != nil) != tc.err {
			t.Errorf("%s: %v, (-want +got):\n%s", name, err, d)
		}
	}
}

// FuzzSetCondition checks that setting the condition keeps everything else of a pod, and fails for what is no pod.
func FuzzSetCondition(f *testing.F) {
	f.Add([]byte(`{"status":{"x":1,"conditions":[{"type":"Ready","y":2},{"type":"multus-cni.io/NetworksAttached"}]}}`))
	f.Add([]byte(`{"status":{}}`))
	f.Add([]byte(`{"status":null}`))
	f.Add([]byte(`{"status":{"conditions":[null,1]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var pod map[string]json.RawMessage
		if json.Unmarshal(b, &pod) != nil || pod == nil {
			return
		}
		was, _ := othersOf(t, pod)
		if setCondition(pod, &condition{}, lost) != nil {
			return
		}
		is, mine := othersOf(t, pod)
		if mine == 0 || !slices.Equal(was, is) {
			t.Errorf("%s: the other conditions %q became %q", b, was, is)
		}
	})
}

// othersOf returns the conditions of a pod beside ours, and the number of ours. The case of the members' names matters,
// as in the API.
func othersOf(t *testing.T, pod map[string]json.RawMessage) (others []string, mine int) {
	t.Helper()
	var status map[string]json.RawMessage
	_ = json.Unmarshal(pod["status"], &status) // what cannot be decoded has no conditions
	var list []json.RawMessage
	_ = json.Unmarshal(status["conditions"], &list)
	for _, item := range list {
		var c condition
		if json.Unmarshal(item, &c) == nil && c.Type == publish.Gate {
			mine++
			continue
		}
		b, err := json.Marshal(item) // in the form of the encoder, which escapes <, > and &
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, string(b))
	}
	return others, mine
}

// TestPodDecoder checks the events of a watch: pods, a bookmark, and the error of a watch that has expired.
func TestPodDecoder(t *testing.T) {
	t.Parallel()
	stream := `{"type":"ADDED","object":` + string(podFile(t)) + `}` +
		`{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9"},"spec":{"containers":null},"status":{}}}` +
		`{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}}`
	d := newPodDecoder(readCloser{strings.NewReader(stream)})
	defer d.Close()
	kind, o, err := d.Decode()
	if err != nil || kind != "ADDED" {
		t.Fatal(kind, err)
	}
	if w, err := asWatched(o); err != nil || w.gate == nil || w.gate.Status != "True" ||
		w.Name != "front-6d5f8c7b9d-x2k4q" || w.ResourceVersion != "184467" || len(w.Annotations) != 4 {
		t.Errorf("%+v, %v", w, err)
	}
	if kind, o, err = d.Decode(); err != nil || kind != "BOOKMARK" || o.(*watchedPod).ResourceVersion != "9" { //nolint:forcetypeassert // fails
		t.Errorf("%s %+v, %v", kind, o, err)
	}
	kind, o, err = d.Decode()
	if s, ok := o.(*metav1.Status); err != nil || kind != "ERROR" || !ok || s.Code != http.StatusGone ||
		s.Reason != metav1.StatusReasonExpired {
		t.Errorf("%s %+v, %v", kind, o, err)
	}
	if _, _, err = d.Decode(); err == nil {
		t.Error("no end")
	}
}

type readCloser struct{ *strings.Reader }

// Close does nothing.
func (readCloser) Close() error { return nil }

// TestConditionsArePods checks that our condition has the keys of the API.
func TestConditionsArePods(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal((&condition{}).next(lost, time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	var c corev1.PodCondition
	if err := json.Unmarshal(b, &c); err != nil || c.Type != publish.Gate || c.Status != corev1.ConditionFalse ||
		c.Reason != lost.Reason || c.Message != lost.Message || c.LastTransitionTime.IsZero() {
		t.Errorf("%s: %+v, %v", b, c, err)
	}
}

// BenchmarkWatchedPod measures what one event of the watch costs, beside the metadata alone with the decoders of
// client-go, and the answer to a PATCH, of a pod of 12 kB.
func BenchmarkWatchedPod(b *testing.B) {
	whole := podFile(b)
	var members map[string]json.RawMessage
	if err := json.Unmarshal(whole, &members); err != nil {
		b.Fatal(err)
	}
	metadata, err := json.Marshal(map[string]any{
		"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": members["metadata"],
	})
	if err != nil {
		b.Fatal(err)
	}
	event := func(object []byte) string { return `{"type":"MODIFIED","object":` + string(object) + "}\n" }
	b.Run("metadata, client-go", func(b *testing.B) { benchmarkClientGo(b, event(metadata)) })
	b.Run("whole", func(b *testing.B) {
		benchmarkDecoder(b, newPodDecoder(&endless{text: event(whole)}))
	})
	b.Run("answer to a PATCH", func(b *testing.B) {
		other := []byte(strings.ReplaceAll(string(whole), publish.Gate, otherGate))
		for b.Loop() {
			if gate, err := gateOf(other); gate != nil || err != nil {
				b.Fatal(gate, err)
			}
		}
	})
}

func benchmarkClientGo(b *testing.B, event string) {
	b.Helper()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		b.Fatal(err)
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	if !ok {
		b.Fatal("no JSON")
	}
	objects := codecs.DecoderToVersion(info.Serializer, schema.GroupVersion{Version: "v1"})
	frames := info.StreamSerializer.NewFrameReader(&endless{text: event})
	benchmarkDecoder(b, restwatch.NewDecoder(streaming.NewDecoder(frames, info.StreamSerializer.Serializer), objects))
}

func benchmarkDecoder(b *testing.B, d watch.Decoder) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := d.Decode(); err != nil {
			b.Fatal(err)
		}
	}
}

// endless is a stream that repeats a text.
type endless struct {
	text string
	at   int
}

// Read returns the next part of the stream.
func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.text[e.at:])
	e.at = (e.at + n) % len(e.text)
	return n, nil
}

// Close does nothing.
func (*endless) Close() error { return nil }
