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
