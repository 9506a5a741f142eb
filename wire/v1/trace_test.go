package wirev1_test

import (
	"strings"
	"testing"

	wirev1 "multus/wire/v1"
)

// TestTraceParentIsBounded checks that a TRACEPARENT that is too long is left out of a report: the daemon keeps it
// until the network status is written.
func TestTraceParentIsBounded(t *testing.T) {
	t.Parallel()
	const most = wirev1.MaxTraceParent
	for length, kept := range map[int]bool{0: true, 55: true, most: true, most + 1: false} {
		parent := strings.Repeat("x", length)
		r := (&wirev1.Report{Trace: &wirev1.Trace{Parent: parent, Begin: 1}}).ToReport()
		if (r.Trace.Parent == parent) != kept || r.Trace.Begin != 1 {
			t.Errorf("%d characters: %d are kept", length, len(r.Trace.Parent))
		}
	}
	if r := (&wirev1.Report{}).ToReport(); r.Trace != nil {
		t.Errorf("%+v", r.Trace)
	}
}
