package ledger

import (
	"testing"
)

func BenchmarkLedger(b *testing.B) {
	s, p := store(b), three(b)
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Write(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r, err := s.Read("c0ffee", "eth0"); err != nil || len(r.Attachments) != 3 {
				b.Fatal(r, err)
			}
		}
	})
	b.Run("note networks that are known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.NoteNetworks(p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// three returns a plan with two networks besides the cluster network.
func three(tb testing.TB) *Record {
	tb.Helper()
	return &Record{ContainerID: "c0ffee", Netns: "/run/netns/x", Attachments: []Attachment{
		{
			Name: "cluster", Primary: true, IfName: "eth0",
			Config: config(tb, `{"cniVersion":"1.0.0","name":"cluster","plugins":[{"type":"bridge"},{"type":"portmap"}]}`),
		},
		{
			Name: "ns/a", IfName: "net1",
			Config: config(tb, `{"cniVersion":"1.0.0","name":"a","type":"macvlan","master":"eth1"}`),
		},
		{
			Name: "ns/b", IfName: "net2",
			Config: config(tb, `{"cniVersion":"1.0.0","name":"b","type":"macvlan","master":"eth2"}`),
		},
	}}
}

// TestAllocations limits the allocations for a record of three networks, so that an increase is noticed. The numbers
// are the current ones.
func TestAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun must run alone
	s, p := store(t), three(t)
	for what, tc := range map[string]struct {
		most float64
		run  func()
	}{
		"write": {210, func() { _ = s.Write(p) }},
		"read":  {145, func() { _, _ = s.Read("c0ffee", "eth0") }},
		"note":  {76, func() { _ = s.NoteNetworks(p) }},
	} {
		got := testing.AllocsPerRun(20, tc.run)
		t.Logf("%s: %.0f allocations", what, got)
		if got > tc.most {
			t.Errorf("%s: %.0f allocations, they were at most %.0f", what, got, tc.most)
		}
	}
}
