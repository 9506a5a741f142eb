package wirev1_test

import (
	"encoding/json"
	"testing"

	"multus/internal/testutil/wire"
	wirev1 "multus/wire/v1"
)

// TestAllocations limits the allocations of the conversions, which both sides do for every pod: the value itself, and
// each of its slices.
func TestAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun must run alone
	req := message(t, "plan-request-full.json", (*wirev1.Request).ToRequest)
	answer := message(t, "plan-answer-full.json", (*wirev1.Plan).ToPlan)
	report := message(t, "report-full.json", (*wirev1.Report).ToReport)
	for _, tc := range []struct {
		name string
		most float64
		run  func()
	}{
		{"request", 2, func() { wirev1.FromRequest(req).ToRequest() }},
		{"plan", 4, func() { wirev1.FromPlan(answer).ToPlan() }},
		{"report", 10, func() { wirev1.FromReport(report).ToReport() }},
	} {
		if got := testing.AllocsPerRun(50, tc.run); got > tc.most {
			t.Errorf("%s: %.0f allocations there and back, they were at most %.0f", tc.name, got, tc.most)
		}
	}
}

// BenchmarkReceivePlan decodes the daemon's answer as the plugin does.
func BenchmarkReceivePlan(b *testing.B) {
	message := wire.Message(b, "plan-answer.json")
	b.ReportAllocs()
	for b.Loop() {
		var m wirev1.Plan
		if err := json.Unmarshal(message, &m); err != nil {
			b.Fatal(err)
		}
		if p := m.ToPlan(); len(p.Attachments) == 0 {
			b.Fatal("no attachments")
		}
	}
}

// BenchmarkSendReport encodes a report as the plugin does.
func BenchmarkSendReport(b *testing.B) {
	m := &wirev1.Report{}
	if err := json.Unmarshal(wire.Message(b, "report-add.json"), m); err != nil {
		b.Fatal(err)
	}
	r := m.ToReport()
	b.ReportAllocs()
	for b.Loop() {
		wirev1.FromReport(r).AppendJSON(nil)
	}
}
