package ledger

import (
	"testing"

	"multus/internal/engine/plan"
)

func BenchmarkLedger(b *testing.B) {
	s := store(b)
	p := &plan.Plan{ContainerID: "c0ffee", Netns: "/run/netns/x", Attachments: []plan.Attachment{
		{Name: "cluster", Primary: true, IfName: "eth0", Config: config(b, `{"cniVersion":"1.0.0","name":"cluster","plugins":[{"type":"bridge"},{"type":"portmap"}]}`)},
		{Name: "ns/a", IfName: "net1", Config: config(b, `{"cniVersion":"1.0.0","name":"a","type":"macvlan","master":"eth1"}`)},
		{Name: "ns/b", IfName: "net2", Config: config(b, `{"cniVersion":"1.0.0","name":"b","type":"macvlan","master":"eth2"}`)},
	}}
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
