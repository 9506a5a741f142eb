package netsel

import "testing"

// The annotations of a usual pod, in both forms.
const (
	shortForm = "macvlan-a@net1,storage/fast,team/blue@data0"
	longForm  = `[{"name":"macvlan-a","interface":"net1","ips":["192.0.2.7/24"],"mac":"02:00:00:00:00:01"},
{"name":"fast","namespace":"storage","default-route":["198.51.100.1"]},{"name":"blue","namespace":"team","cni-args":{"a":1}}]`
)

func BenchmarkParse(b *testing.B) {
	for name, value := range map[string]string{"short": shortForm, "long": longForm} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got, err := Parse(value); err != nil || len(got) != 3 {
					b.Fatal(got, err)
				}
			}
		})
	}
}

// TestAllocations limits the allocations for one pod, so that an increase is noticed. The numbers are the current ones.
func TestAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun must run alone
	for value, most := range map[string]float64{shortForm: 3, longForm: 50} {
		got := testing.AllocsPerRun(100, func() { _, _ = Parse(value) })
		t.Logf("%.40s: %.0f allocations", value, got)
		if got > most {
			t.Errorf("%.40s: %.0f allocations, they were at most %.0f", value, got, most)
		}
	}
}
