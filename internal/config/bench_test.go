package config

import "testing"

// BenchmarkParsePlugin reads what the daemon writes, with what a runtime adds.
func BenchmarkParsePlugin(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParsePlugin([]byte(usual)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAllocations keeps what one configuration costs from growing unseen; the number is that of today.
func TestAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun must be alone
	const most = 32
	got := testing.AllocsPerRun(100, func() { _, _ = ParsePlugin([]byte(usual)) })
	t.Logf("%.0f allocations", got)
	if got > most {
		t.Errorf("%.0f allocations, they were at most %d", got, most)
	}
}
