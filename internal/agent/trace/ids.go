package trace

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// The IDs of spans follow from what they are about, so that the span of the network status, which is written later and
// perhaps by another daemon, finds its parent.

type (
	idKey    struct{} // the ID of the span to start
	traceKey struct{} // the ID of the trace to begin
)

// ids implements the ID generator of the SDK. It returns the IDs of the context.
type ids struct{}

// NewIDs returns the IDs of the first span of a trace.
func (g ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, _ := ctx.Value(traceKey{}).(trace.TraceID)
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID returns the ID of another span.
func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	id, _ := ctx.Value(idKey{}).(trace.SpanID)
	return id
}

// traceID returns the ID of the trace of an ADD without one of the runtime.
func traceID(containerID string, begin int64) (id trace.TraceID) {
	copy(id[:], sum("trace", containerID, begin))
	return id
}

// rootID returns the ID of the span of an ADD.
func rootID(containerID string, begin int64) (id trace.SpanID) {
	copy(id[:], sum("add", containerID, begin))
	return id
}

// stepID returns the ID of a span below another one.
func stepID(parent trace.SpanID, name string, begin time.Time) (id trace.SpanID) {
	copy(id[:], sum("step", parent.String()+name, begin.UnixNano()))
	return id
}

func sum(kind, text string, begin int64) []byte {
	b := binary.BigEndian.AppendUint64([]byte(kind+"\x00"+text+"\x00"), uint64(begin)) //nolint:gosec // only hashed
	s := sha256.Sum256(b)
	return s[:]
}
