// Package trace exports one trace for each ADD, with OTLP over HTTP: multus.add, and below it plan, record, each
// delegate and status. The plugin reports the times and the runtime's TRACEPARENT as text, so that it needs no library
// of OpenTelemetry. Nothing waits for an export, and a collector that is away only loses spans. The daemon imports the
// package.
package trace

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

const (
	// exportLimit limits one export, and stopLimit the last one when the daemon ends.
	exportLimit = 10 * time.Second
	stopLimit   = 3 * time.Second
	// maxQueue limits the spans that wait. What exceeds it is dropped.
	maxQueue = 2048
	// maxSpans limits the delegates of one trace, because a report is input.
	maxSpans = 64
)

// Options are the settings of a Tracer.
type Options struct {
	// Endpoint is the URL of the collector, such as http://collector:4318.
	Endpoint string
	// SampleRatio is the part of the ADDs without a trace of the runtime that is exported, from 0 to 1. An ADD with one is
	// exported if the runtime samples it.
	SampleRatio float64
	// Node and Version are attributes of all spans.
	Node, Version string
	Log           *slog.Logger
}

// Tracer makes the spans of ADDs from their reports.
type Tracer struct {
	ratio    float64
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// New returns a Tracer. It sends nothing before the first report. It returns an error if the endpoint or the ratio is
// not valid.
func New(ctx context.Context, o *Options) (*Tracer, error) {
	if u, err := url.Parse(o.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("endpoint %.253q is no URL, such as http://collector:4318", o.Endpoint)
	}
	if math.IsNaN(o.SampleRatio) || o.SampleRatio < 0 || o.SampleRatio > 1 {
		return nil, fmt.Errorf("sampleRatio %v is not between 0 and 1", o.SampleRatio)
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(tracesURL(o.Endpoint)),
		otlptracehttp.WithTimeout(exportLimit))
	if err != nil {
		return nil, fmt.Errorf("export traces to %s: %w", o.Endpoint, err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		o.Log.Debug("traces are lost", "endpoint", o.Endpoint, "err", err)
	}))
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(exporter, sdk.WithMaxQueueSize(maxQueue), sdk.WithExportTimeout(exportLimit)),
		sdk.WithSampler(sdk.AlwaysSample()), sdk.WithIDGenerator(ids{}),
		sdk.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "multus"), attribute.String("service.version", o.Version),
			attribute.String("host.name", o.Node))))
	return &Tracer{ratio: o.SampleRatio, provider: provider, tracer: provider.Tracer("multus")}, nil
}

// tracesURL returns the URL of the path for traces, which an endpoint has or not.
func tracesURL(endpoint string) string {
	if strings.HasSuffix(endpoint, "/v1/traces") {
		return endpoint
	}
	return strings.TrimSuffix(endpoint, "/") + "/v1/traces"
}

// Run exports what is left when ctx ends.
func (t *Tracer) Run(ctx context.Context) error {
	<-ctx.Done()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if err := t.provider.Shutdown(last); err != nil {
		otel.Handle(err)
	}
	return nil
}

// ID returns the ID of the trace of the report of an ADD, or "" if it is not exported.
func (t *Tracer) ID(r *publish.Report) string {
	if r.Trace == nil || r.Command != request.Add || !t.sampled(r.Trace.Parent, r.ContainerID) {
		return ""
	}
	return traceOf(r.Trace.Parent, r.ContainerID, r.Trace.Begin).String()
}

// Observe exports the spans of the report of an ADD, if it is sampled, and sets the trace ID of the report.
func (t *Tracer) Observe(r *publish.Report) {
	r.TraceID = t.ID(r)
	if r.TraceID == "" || r.Trace.Repeated {
		return
	}
	begin := time.Unix(0, r.Trace.Begin)
	at := func(seconds float64) time.Time { return begin.Add(duration(seconds)) }
	ctx, root := t.start(t.parent(r.Trace, r.ContainerID), "multus.add", begin,
		rootID(r.ContainerID, r.Trace.Begin),
		attribute.String("k8s.namespace.name", r.Pod.Namespace), attribute.String("k8s.pod.name", r.Pod.Name),
		attribute.String("k8s.pod.uid", r.Pod.UID), attribute.String("container.id", r.ContainerID))
	end := at(r.Trace.Seconds)
	if r.Trace.Planned > 0 {
		t.step(ctx, "plan", begin, at(r.Trace.Planned), "")
		end = later(end, at(r.Trace.Planned))
	}
	if r.Trace.Recorded > 0 {
		t.step(ctx, "record", at(r.Trace.Planned), at(r.Trace.Recorded), "")
		end = later(end, at(r.Trace.Recorded))
	}
	for i := range r.Timings[:min(len(r.Timings), maxSpans)] {
		d := &r.Timings[i]
		failure := ""
		if d.Failed {
			failure = "the plugins of the network failed"
		}
		name := "delegate " + fault.Clip(d.Network, fault.MaxName) + "/" + fault.Clip(d.Plugin, fault.MaxName)
		if d.Command != "" {
			name += " " + fault.Clip(d.Command, fault.MaxName)
		}
		t.step(ctx, name, at(d.Begin), at(d.Begin+d.Seconds), failure)
		end = later(end, at(d.Begin+d.Seconds))
	}
	if r.Failure != nil {
		root.SetStatus(codes.Error, fault.Clip(r.Failure.Message, fault.MaxMessage))
	}
	root.End(trace.WithTimestamp(end))
}

// StatusWritten exports the span of the network status of an ADD, which was written now. at is the time of its report,
// and of is nil if it is not the report of an ADD.
func (t *Tracer) StatusWritten(containerID string, at int64, of *publish.Trace) {
	if of == nil || !t.sampled(of.Parent, containerID) {
		return
	}
	root := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceOf(of.Parent, containerID, of.Begin), SpanID: rootID(containerID, of.Begin),
		TraceFlags: trace.FlagsSampled, Remote: true,
	})
	t.step(trace.ContextWithRemoteSpanContext(context.Background(), root), "status", time.Unix(0, at), time.Now(), "")
}

// step exports a span below that of ctx.
func (t *Tracer) step(ctx context.Context, name string, begin, end time.Time, failure string) {
	parent := trace.SpanContextFromContext(ctx)
	_, span := t.start(ctx, name, begin, stepID(parent.SpanID(), name, begin))
	if failure != "" {
		span.SetStatus(codes.Error, failure)
	}
	span.End(trace.WithTimestamp(later(begin, end)))
}

func (t *Tracer) start(ctx context.Context, name string, begin time.Time, id trace.SpanID, of ...attribute.KeyValue) (
	context.Context, trace.Span,
) {
	return t.tracer.Start(context.WithValue(ctx, idKey{}, id), name, trace.WithTimestamp(begin),
		trace.WithAttributes(of...))
}

// sampled reports whether an ADD is exported.
func (t *Tracer) sampled(traceParent, containerID string) bool {
	if parent := parse(traceParent); parent.IsValid() {
		return parent.IsSampled()
	}
	sum := sha256.Sum256([]byte(containerID))
	return float64(binary.BigEndian.Uint64(sum[:8]))/math.MaxUint64 < t.ratio
}

// parent returns a context with the span of the runtime, or one in which a trace begins whose ID is that of the ADD.
func (t *Tracer) parent(of *publish.Trace, containerID string) context.Context {
	if parent := parse(of.Parent); parent.IsValid() {
		return trace.ContextWithRemoteSpanContext(context.Background(), parent)
	}
	return context.WithValue(context.Background(), traceKey{}, traceID(containerID, of.Begin))
}

// traceOf returns the ID of the trace of an ADD: that of the runtime, or its own.
func traceOf(traceParent, containerID string, begin int64) trace.TraceID {
	if parent := parse(traceParent); parent.IsValid() {
		return parent.TraceID()
	}
	return traceID(containerID, begin)
}

// parse parses TRACEPARENT (W3C Trace Context). The result is not valid if the text is not.
func parse(text string) trace.SpanContext {
	carrier := propagation.MapCarrier{"traceparent": text}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// duration returns a duration of at most an hour for a number of seconds that another process has sent.
func duration(seconds float64) time.Duration {
	return time.Duration(max(0, min(seconds, 3600)) * float64(time.Second))
}
