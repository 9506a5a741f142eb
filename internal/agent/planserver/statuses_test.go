package planserver

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"k8s.io/utils/clock"

	"multus/internal/agent/metrics"
	"multus/internal/agent/podstatus"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/testutil/eventually"
	wirev1 "multus/wire/v1"
)

// anyCluster is a Cluster that accepts everything.
type anyCluster struct{}

func (anyCluster) SetStatus(context.Context, request.Pod, string, string, *publish.Unready) error {
	return nil
}
func (anyCluster) Emit(context.Context, request.Pod, publish.Event) error { return nil }

// gates is a Cluster that records the conditions that are written without a status.
type gates struct {
	anyCluster

	wrote chan *publish.Unready
}

func (g gates) SetStatus(_ context.Context, _ request.Pod, _, _ string, unready *publish.Unready) error {
	g.wrote <- unready
	return nil
}

// TestReportOfCondition checks a report that has a condition and nothing else: it is written with a limited size, and
// refused without the pod's UID.
func TestReportOfCondition(t *testing.T) {
	t.Parallel()
	g := gates{wrote: make(chan *publish.Unready, 1)}
	w := newTestWriterTo(g, t.TempDir())
	defer runWriter(t, w)()
	s := &Server{metrics: metrics.New(true), observe: unobserved, log: slog.New(slog.DiscardHandler), statuses: w}
	for uid, want := range map[string]int{"u": http.StatusOK, "": http.StatusBadRequest} {
		body, err := json.Marshal(wirev1.Report{
			Command: request.Update, Pod: wirev1.Pod{Namespace: "ns", Name: "web", UID: uid},
			Unready: &wirev1.Unready{Reason: "InterfaceLost", Message: strings.Repeat("m", 1<<20)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if code, answer := s.exchange(t, http.MethodPost, wirev1.PathReport, body); code != want {
			t.Errorf("UID %q: %d %s", uid, code, answer)
		}
	}
	if got := eventually.Receive(t, "the condition", g.wrote); got.Reason != "InterfaceLost" || len(got.Message) > 2048 {
		t.Errorf("reason %q, message of %d bytes", got.Reason, len(got.Message))
	}
}

// newTestWriter returns a Writer that does not run.
func newTestWriter(dir string) *podstatus.Writer { return newTestWriterTo(anyCluster{}, dir) }

func newTestWriterTo(c publish.Cluster, dir string) *podstatus.Writer {
	return podstatus.New(podstatus.Options{
		Cluster: c, Dir: dir, Observer: metrics.New(true), Clock: clock.RealClock{},
		Log: slog.New(slog.DiscardHandler),
	})
}

// runWriter runs a Writer until the function that it returns is called.
func runWriter(t *testing.T, w *podstatus.Writer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// statusReport returns the report of a sandbox of a pod that has a status.
func statusReport(name string) *publish.Report {
	return &publish.Report{
		Command: "ADD", ContainerID: "c1", Time: 1, Pod: request.Pod{Namespace: "ns", Name: name, UID: "u-" + name},
		Attached: []publish.Attached{{
			Name: "cluster", IfName: "eth0", Primary: true,
			Result: json.RawMessage(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],` +
				`"ips":[{"address":"10.0.0.1/8","interface":0}]}`),
		}},
	}
}
