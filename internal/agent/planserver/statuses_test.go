package planserver

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"k8s.io/utils/clock"

	"multus/internal/agent/metrics"
	"multus/internal/agent/podstatus"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// anyCluster is a Cluster that accepts everything.
type anyCluster struct{}

func (anyCluster) SetStatus(context.Context, request.Pod, string, string, *publish.Unready) error {
	return nil
}
func (anyCluster) Emit(context.Context, request.Pod, publish.Event) error { return nil }

// newTestWriter returns a Writer that does not run.
func newTestWriter(dir string) *podstatus.Writer {
	return podstatus.New(podstatus.Options{
		Cluster: anyCluster{}, Dir: dir, Metrics: metrics.New(true), Clock: clock.RealClock{},
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
