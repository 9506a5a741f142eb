package ledger

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multus/internal/device"
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

// TestHoldings checks that Holdings finds the devices of the node that sandboxes hold, in records of this
// implementation and of today's Multus, and that it changes nothing (multus-cni#1134).
func TestHoldings(t *testing.T) {
	t.Parallel()
	s := store(t)
	locks := filepath.Join(t.TempDir(), "locks")
	if got, err := s.Holdings(locks); err != nil || len(got) > 0 {
		t.Errorf("no directory: %v, %v", got, err)
	}
	identity := &device.Identity{
		Name: "eth1", Index: 3, MAC: "02:00:00:00:00:03", Permanent: "02:00:00:00:00:03",
		Bus: "0000:00:03.0",
	}
	args := request.Args{{request.PodNamespace, "ns"}, {request.PodName, "p"}}
	p := &Record{ContainerID: "ours", Netns: "/run/netns/x", Attachments: []Attachment{
		{
			Name: "cbr0", Primary: true, IfName: "eth0", Args: args,
			Config: config(t, `{"cniVersion":"1.0.0","name":"cbr0","type":"bridge"}`),
		},
		{
			Name: "ns/nic", IfName: "net1", Args: args, HostDevice: identity,
			Config: config(t, `{"cniVersion":"1.0.0","name":"nic","type":"host-device","device":"eth1"}`),
		},
	}}
	if err := s.Write(p); err != nil {
		t.Fatal(err)
	}
	ref := []device.Reference{{Network: "ns/nic", Key: "device", Value: "eth1"}}
	want := []device.Holding{
		{Pod: "ns/p", ContainerID: "ours", Network: "cbr0", IfName: "eth0", Netns: "/run/netns/x", Peer: -1, Busy: true},
		{
			Pod: "ns/p", ContainerID: "ours", Network: "ns/nic", IfName: "net1", Netns: "/run/netns/x", Peer: -1, Busy: true,
			Device: identity, References: ref,
		},
	}
	for i, c := range p.Holdings() {
		w := want[i]
		w.Busy = false
		if d := cmp.Diff(w, c); d != "" {
			t.Errorf("of the plan (-want +got):\n%s", d)
		}
	}
	// The same record as today's Multus writes it, without the additional keys.
	b, err := os.ReadFile(filepath.Join(s.Dir, "ours"))
	if err != nil {
		t.Fatal(err)
	}
	var elements []map[string]any
	if err := json.Unmarshal(b, &elements); err != nil {
		t.Fatal(err)
	}
	for _, e := range elements {
		for _, key := range []string{"hostDevice", "netnsPath", "cniArgs"} {
			delete(e, key)
		}
	}
	if b, err = json.Marshal(elements); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.Dir, "upstream"), string(b))
	write(t, filepath.Join(s.Dir, "broken"), `[{"Name":"x"`)
	write(t, filepath.Join(s.Dir, "results", "x"), `{}`)
	lock, err := fsx.TryAcquire(locks, "ours")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()

	got, err := s.Holdings(locks)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(got, func(a, b device.Holding) int { return strings.Compare(a.ContainerID, b.ContainerID) })
	want = append(want,
		device.Holding{ContainerID: "upstream", Network: "cbr0", IfName: "eth0", Peer: -1},
		device.Holding{ContainerID: "upstream", Network: "ns/nic", IfName: "net1", Peer: -1, References: ref},
	)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, damagedDir)); err == nil {
		t.Error("the broken record was moved aside by a read")
	}
	if r := read(t, s, "ours"); cmp.Diff(identity, r.Attachments[1].HostDevice) != "" {
		t.Errorf("DEL reads %+v", r.Attachments[1].HostDevice)
	}
}

// TestHoldingsAgain checks that a repeated call of Holdings on one Store reads only the records that have changed.
func TestHoldingsAgain(t *testing.T) {
	t.Parallel()
	s := store(t)
	locks := filepath.Join(t.TempDir(), "locks")
	record := func(id, network string) {
		t.Helper()
		err := s.Write(&Record{ContainerID: id, Attachments: []Attachment{
			{Name: network, IfName: "net1", Config: config(t, `{"cniVersion":"1.0.0","name":"n","type":"bridge"}`)},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	list := func() (out []string) {
		t.Helper()
		holdings, err := s.Holdings(locks)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range holdings {
			out = append(out, c.ContainerID+" "+c.Network)
		}
		return out
	}
	for _, id := range []string{"gone", "later", "same"} {
		record(id, "one")
	}
	if got, want := list(), []string{"gone one", "later one", "same one"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// A file with unchanged metadata is not read again.
	path := filepath.Join(s.Dir, "same")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(strings.Repeat(" ", int(info.Size())))
	if err := errors.Join(err, f.Close(), os.Chtimes(path, time.Time{}, info.ModTime()),
		os.Remove(filepath.Join(s.Dir, "gone"))); err != nil {
		t.Fatal(err)
	}
	record("later", "two")
	record("new", "one")
	if got, want := list(), []string{"later two", "new one", "same one"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// A file that is no longer a record has no holdings and causes no error.
	if err := os.Truncate(path, maxRecord+1); err != nil {
		t.Fatal(err)
	}
	if got, want := list(), []string{"later two", "new one"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
