package plan_test

import (
	"os"
	"testing"
)

// BenchmarkPlan makes the plan of a pod with several networks, from files.
func BenchmarkPlan(b *testing.B) {
	data, err := os.ReadFile("testdata/selection-json.txtar")
	if err != nil {
		b.Fatal(err)
	}
	bench := newBench(b, parseArchive(data))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bench.resolver.Plan(b.Context(), bench.req, bench.conf); err != nil {
			b.Fatal(err)
		}
	}
}
