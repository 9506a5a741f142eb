package trace

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

const (
	traceOfRuntime = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanOfRuntime  = "00f067aa0ba902b7"
	sampledParent  = "00-" + traceOfRuntime + "-" + spanOfRuntime + "-01"
)

// sink is a collector.
type sink struct {
	mu    sync.Mutex
	spans map[string]*otlp.Span
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	var msg collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(b, &msg) != nil || r.URL.Path != "/v1/traces" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range msg.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				s.spans[span.GetName()] = span
			}
		}
	}
}

// exported returns the spans that a tracer exports for what test does.
func exported(t *testing.T, ratio float64, test func(*Tracer)) map[string]*otlp.Span {
	t.Helper()
	s := &sink{spans: map[string]*otlp.Span{}}
	server := httptest.NewServer(s)
	defer server.Close()
	tracer, err := New(t.Context(), &Options{
		Endpoint: server.URL, SampleRatio: ratio, Node: "node-a", Version: "v1", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	test(tracer)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tracer.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return s.spans
}

var begin = time.Unix(1_764_000_000, 0)

func report(parent string) *publish.Report {
	return &publish.Report{
		Command: request.Add, ContainerID: "c1", Pod: request.Pod{Namespace: "team", Name: "web", UID: "u"},
		Trace: &publish.Trace{Parent: parent, Begin: begin.UnixNano(), Planned: 0.1, Recorded: 0.15, Seconds: 0.5},
		Timings: []publish.Timing{
			{Network: "cluster", Plugin: "bridge", Begin: 0.15, Seconds: 0.2},
			{Network: "team/lan", Plugin: "macvlan", Begin: 0.35, Seconds: 0.1, Failed: true},
		},
	}
}

// TestSpans checks the spans of one ADD (behaviour F90): their names, times and parents. The status is written later.
func TestSpans(t *testing.T) {
	t.Parallel()
	for _, parent := range []string{sampledParent, "", "broken"} {
		r := report(parent)
		var id string
		spans := exported(t, 1, func(tr *Tracer) {
			id = tr.ID(r)
			tr.Observe(r)
			tr.StatusWritten(r.ContainerID, begin.Add(time.Second).UnixNano(), r.Trace)
		})
		root := spans["multus.add"]
		if root == nil || len(spans) != 6 {
			t.Fatalf("parent %q: %v", parent, slices.Collect(maps.Keys(spans)))
		}
		if wantTrace := traceOfRuntime; parent == sampledParent &&
			(id != wantTrace || fmt.Sprintf("%x", root.GetParentSpanId()) != spanOfRuntime) {
			t.Errorf("parent %q: trace %s, parent span %x", parent, id, root.GetParentSpanId())
		}
		if parent != sampledParent && len(root.GetParentSpanId()) != 0 {
			t.Errorf("parent %q: parent span %x", parent, root.GetParentSpanId())
		}
		for name, want := range map[string][2]float64{
			"multus.add": {0, 0.5}, "plan": {0, 0.1}, "record": {0.1, 0.15}, "delegate cluster/bridge": {0.15, 0.35},
			"delegate team/lan/macvlan": {0.35, 0.45}, "status": {1, -1},
		} {
			span := spans[name]
			if span == nil {
				t.Fatalf("no span %s", name)
			}
			below := bytes.Equal(span.GetParentSpanId(), root.GetSpanId())
			if fmt.Sprintf("%x", span.GetTraceId()) != id || name != "multus.add" && !below {
				t.Errorf("%s is in trace %x below %x", name, span.GetTraceId(), span.GetParentSpanId())
			}
			from := time.Unix(0, int64(span.GetStartTimeUnixNano())).Sub(begin).Seconds() //nolint:gosec // a time
			to := time.Unix(0, int64(span.GetEndTimeUnixNano())).Sub(begin).Seconds()     //nolint:gosec // a time
			if near(from, want[0]) && (near(to, want[1]) || want[1] < 0 && to > from) {
				continue
			}
			t.Errorf("%s is from %f to %f, want %v", name, from, to, want)
		}
		if failed := spans["delegate team/lan/macvlan"].GetStatus().GetCode(); failed != otlp.Status_STATUS_CODE_ERROR {
			t.Errorf("the failed delegate has status %s", failed)
		}
	}
}

func near(a, b float64) bool { return a-b < 1e-6 && b-a < 1e-6 }

// TestSampled checks which ADDs are exported: the runtime decides about its traces, and the ratio about others.
func TestSampled(t *testing.T) {
	t.Parallel()
	unsampled := strings.TrimSuffix(sampledParent, "1") + "0"
	for _, tc := range []struct {
		parent  string
		ratio   float64
		command string
		want    bool
	}{
		{sampledParent, 0, request.Add, true},
		{unsampled, 1, request.Add, false},
		{"", 1, request.Add, true},
		{"", 0, request.Add, false},
		{"00-" + strings.Repeat("0", 32) + "-" + spanOfRuntime + "-01", 0, request.Add, false},
		{sampledParent + "-more", 0, request.Add, false},
		{"01" + sampledParent[2:] + "-more", 0, request.Add, true},
		{"ff" + sampledParent[2:], 0, request.Add, false},
		{sampledParent, 0, request.Del, false},
	} {
		r := report(tc.parent)
		r.Command = tc.command
		got := exported(t, tc.ratio, func(tr *Tracer) {
			if id := tr.ID(r); (id != "") != tc.want {
				t.Errorf("%+v: ID %q", tc, id)
			}
			tr.Observe(r)
			r.Trace.Repeated = true
			tr.Observe(r)
		})
		if (len(got) > 0) != tc.want {
			t.Errorf("%+v: %d spans", tc, len(got))
		}
	}
}

// TestHostileReport checks that a report with absurd values makes a limited number of spans with possible times.
func TestHostileReport(t *testing.T) {
	t.Parallel()
	r := report(sampledParent)
	r.Trace.Seconds, r.Trace.Planned, r.Trace.Recorded = -1, 1e300, -1e300
	for i := range 10_000 {
		r.Timings = append(r.Timings, publish.Timing{
			Network: fmt.Sprint(strings.Repeat("n", 1000), i), Begin: -1, Seconds: 1e300,
		})
	}
	r.Failure = &publish.Failure{Message: strings.Repeat("x", 1<<20)}
	spans := exported(t, 0, func(tr *Tracer) { tr.Observe(r) })
	for name, span := range spans {
		if len(name) > 1000 || span.GetEndTimeUnixNano() < span.GetStartTimeUnixNano() {
			t.Errorf("%s: from %d to %d", name, span.GetStartTimeUnixNano(), span.GetEndTimeUnixNano())
		}
	}
	if len(spans) > maxSpans+4 || len(spans["multus.add"].GetStatus().GetMessage()) > 1<<16 {
		t.Errorf("%d spans", len(spans))
	}
}

// TestOptions checks which settings are refused.
func TestOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{},
		{Endpoint: "collector:4318"},
		{Endpoint: "http://"},
		{Endpoint: "ftp://c"},
		{Endpoint: "http://c", SampleRatio: 2},
		{Endpoint: "http://c", SampleRatio: -1},
	} {
		if _, err := New(t.Context(), &o); err == nil {
			t.Errorf("accepted: %+v", o)
		}
	}
}

// TestEndpoints checks that the endpoint may have the path for traces.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"} {
		if got := tracesURL(endpoint); got != "http://c:4318/v1/traces" {
			t.Errorf("%s: %s", endpoint, got)
		}
	}
}
