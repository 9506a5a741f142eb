package config

import "testing"

// BenchmarkParsePlugin parses a configuration as the daemon writes it, with the additions of a runtime.
func BenchmarkParsePlugin(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParsePlugin([]byte(usual)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAllocations limits the allocations for one configuration, so that an increase is noticed. The limit is the
// current number.
func TestAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun must run alone
	const most = 32
	got := testing.AllocsPerRun(100, func() { _, _ = ParsePlugin([]byte(usual)) })
	t.Logf("%.0f allocations", got)
	if got > most {
		t.Errorf("%.0f allocations, they were at most %d", got, most)
	}
}
