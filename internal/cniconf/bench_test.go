package cniconf

import "testing"

const usual = `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"macvlan","master":"eth1","mode":"bridge","ipam":{"type":"host-local","ranges":[[{"subnet":"192.0.2.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"tuning","capabilities":{"mac":true}}]}`

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse([]byte(usual)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAllocations limits the allocations for one network, so that an increase is noticed. The limit is the current
// number.
func TestAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun must run alone
	const most = 40
	got := testing.AllocsPerRun(100, func() { _, _ = Parse([]byte(usual)) })
	t.Logf("%.0f allocations", got)
	if got > most {
		t.Errorf("%.0f allocations, they were at most %d", got, most)
	}
}
