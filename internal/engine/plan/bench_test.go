package plan_test

import (
	"context"
	"os"
	"testing"

	"multus/internal/engine/plan"
)

// memory caches the objects of its sources.
type memory struct {
	plan.Networks
	plan.Pods
	networks map[plan.Ref]*plan.Definition
	pods     map[plan.Ref]*plan.Pod
}

func inMemory(b *bench) *bench {
	m := &memory{b.resolver.Networks, b.resolver.Pods, map[plan.Ref]*plan.Definition{}, map[plan.Ref]*plan.Pod{}}
	b.resolver.Networks, b.resolver.Pods = m, m
	return b
}

func (m *memory) Network(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	if d := m.networks[ref]; d != nil {
		return d, nil
	}
	d, err := m.Networks.Network(ctx, ref)
	m.networks[ref] = d
	return d, err
}

func (m *memory) Pod(ctx context.Context, ref plan.Ref) (*plan.Pod, error) {
	if p := m.pods[ref]; p != nil {
		return p, nil
	}
	p, err := m.Pods.Pod(ctx, ref)
	m.pods[ref] = p
	return p, err
}

// BenchmarkPlan makes the plan of a pod with several networks, with cached objects, as the daemon does.
func BenchmarkPlan(b *testing.B) {
	data, err := os.ReadFile("testdata/selection-json.txtar")
	if err != nil {
		b.Fatal(err)
	}
	bench := inMemory(newBench(b, parseArchive(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bench.resolver.Plan(b.Context(), bench.req, bench.conf); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAllocations limits the allocations for the plan of a pod with several networks, so that an increase is noticed.
// The limit is the current number.
func TestAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun must run alone
	const most = 400 // with the race detector, which moves more to the heap
	data, err := os.ReadFile("testdata/selection-json.txtar")
	if err != nil {
		t.Fatal(err)
	}
	bench := inMemory(newBench(t, parseArchive(data)))
	got := testing.AllocsPerRun(50, func() { _, _ = bench.resolver.Plan(t.Context(), bench.req, bench.conf) })
	t.Logf("%.0f allocations", got)
	if got > most {
		t.Errorf("%.0f allocations, they were at most %d", got, most)
	}
}
