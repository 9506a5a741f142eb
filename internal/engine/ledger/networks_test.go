package ledger

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNetworks checks that a network is listed from its first ADD until it is removed, whatever happens to the
// sandboxes that had it (behaviour D102).
func TestNetworks(t *testing.T) {
	t.Parallel()
	s := store(t)
	if got, err := s.Networks(); err != nil || got != nil {
		t.Fatalf("at first: %v, %v", got, err)
	}
	p := &Record{ContainerID: "c", BinDir: "/b", Attachments: []Attachment{
		{Name: "cluster", Config: config(t, `{"name":"x","type":"a"}`)},
		{Name: "ns/n", Config: config(t, `{"name":"a.b_c-D9",  "plugins":[{"type":"b"}]}`)},
	}}
	for range 2 {
		if err := s.NoteNetworks(p); err != nil {
			t.Fatal(err)
		}
	}
	p.Attachments = p.Attachments[:1]
	p.Attachments[0].Config = config(t, `{"name":"x","type":"a","changed":1e400}`)
	if err := s.NoteNetworks(p); err != nil {
		t.Fatal(err)
	}
	got, err := s.Networks()
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	configs := map[string]string{}
	for _, n := range got {
		configs[n.Name] = string(n.Config.Bytes())
		if n.BinDir != "/b" {
			t.Errorf("binDir %q", n.BinDir)
		}
	}
	if configs["cluster"] != `{"name":"x","type":"a","changed":1e400}` ||
		configs["ns/n"] != `{"name":"a.b_c-D9",  "plugins":[{"type":"b"}]}` {
		t.Errorf("not the last bytes: %v", configs)
	}
	if ids, err := s.Containers(); err != nil || len(ids) != 0 {
		t.Errorf("a network is listed as a sandbox: %v, %v", ids, err)
	}
	for range 2 {
		if err := s.RemoveNetwork("a.b_c-D9", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Networks(); err != nil || len(got) != 1 || got[0].Name != "cluster" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestNetworksDamaged(t *testing.T) {
	t.Parallel()
	s := store(t)
	p := &Record{Attachments: []Attachment{{Name: "n", Config: config(t, `{"name":"x","type":"a"}`)}}}
	if err := s.NoteNetworks(p); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"1.json": "", "2.json": "{", "3.json": `{"name":"n"}`,
		"4.json": `{"config":{}}`, "other": "x",
	} {
		write(t, filepath.Join(s.networksDir(), name), content)
	}
	if got, err := s.Networks(); err != nil || len(got) != 1 || got[0].Name != "n" {
		t.Errorf("%v, %v", got, err)
	}
	if left, err := os.ReadDir(s.networksDir()); err != nil || len(left) != 2 {
		t.Errorf("%v, %v: want damaged notes removed, and foreign files kept", left, err)
	}
}

// TestRecordProgress checks that RecordProgress keeps everything else in a record.
func TestRecordProgress(t *testing.T) {
	t.Parallel()
	s := store(t)
	s.Boot = "boot-1"
	if err := s.RecordProgress("none", Progress{Undone: true}); err != nil {
		t.Errorf("a sandbox without a record: %v", err)
	}
	p := &Record{ContainerID: "c", Netns: "/run/netns/x", Attachments: []Attachment{
		{Name: "cluster", Primary: true, IfName: "eth0", Config: config(t, `{"name":"x","type":"a","n":9007199254740993}`)},
		{Name: "ns/n", IfName: "net1", Config: config(t, `{"name":"y","type":"b"}`)},
	}}
	if err := s.Write(p); err != nil {
		t.Fatal(err)
	}
	before := read(t, s, "c")
	s.Complete(before)
	if before.Progress != (Progress{}) || before.Boot != "boot-1" || before.Age <= 0 {
		t.Errorf("%+v", before)
	}
	for _, want := range []Progress{{Begun: 2}, {Undone: true, Begun: 1}, {Undone: true}, {}} {
		if err := s.RecordProgress("c", want); err != nil {
			t.Fatal(err)
		}
		r := read(t, s, "c")
		if r.Progress != want || r.Boot != "boot-1" || r.Netns != "/run/netns/x" || len(r.Attachments) != 2 ||
			string(r.Attachments[0].Config.Bytes()) != `{"name":"x","type":"a","n":9007199254740993}` {
			t.Errorf("%+v, want %+v", r, want)
		}
	}
	write(t, filepath.Join(s.Dir, "c"), "garbage")
	if err := s.RecordProgress("c", Progress{Undone: true}); err == nil {
		t.Error("a damaged record is written over")
	}
}

// TestSetAsideOnce checks that repeated reads of a damaged record keep one copy of each content.
func TestSetAsideOnce(t *testing.T) {
	t.Parallel()
	s := store(t)
	for _, content := range []string{"garbage", "garbage", "other garbage"} {
		write(t, filepath.Join(s.Dir, "c"), content)
		read(t, s, "c")
	}
	if kept, err := os.ReadDir(filepath.Join(s.Dir, damagedDir)); err != nil || len(kept) != 2 {
		t.Errorf("%v, %v", kept, err)
	}
}

// TestRecordDeletions checks that what a cut DEL has deleted is marked, in the elements from which the attachments were
// read.
func TestRecordDeletions(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{true, false} {
		s := store(t)
		p := &Record{ContainerID: "c", Attachments: []Attachment{
			{Name: "a", Primary: true, IfName: "eth0", Config: config(t, `{"name":"x","type":"a"}`)},
			{Name: "b", IfName: "net1", Config: config(t, `{"name":"y","type":"b"}`)},
		}}
		if err := s.Write(p); err != nil {
			t.Fatal(err)
		}
		deletions := []Deletion{{}, {Deleted: true}}
		if err := s.RecordDeletions(read(t, s, "c"), Progress{Cut: cut}, deletions); err != nil {
			t.Fatal(err)
		}
		if r := read(t, s, "c"); len(r.Attachments) != 2 || r.Attachments[0].Deleted || r.Attachments[1].Deleted != cut {
			t.Errorf("cut %t: %+v", cut, r.Attachments)
		}
	}
}
