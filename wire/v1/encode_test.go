package wirev1

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAppendReport checks that AppendJSON writes what encoding/json writes, with every field set and with none, so that
// no field is missing.
func TestAppendReport(t *testing.T) {
	t.Parallel()
	claim := &Claim{"n", "c", "u", "d", "p", "v", "s"}
	full := &Report{
		Command: "ADD", Pod: Pod{"n<s", "pod", "u"}, ContainerID: "c", Netns: "/n", Time: 1 << 60, Wait: true,
		EventsWritten: true,
		Attached: []Attached{
			{"a", "net1", true, json.RawMessage("{\n\"ips\" : [ ] }"), json.RawMessage(`{"type":"pci"}`), claim},
			{Result: json.RawMessage(`{}`)},
		},
		Claims:  []Claim{*claim, {}},
		Failure: &Failure{Missing: true, EmitEvent: true, Message: "m \"\u2028"},
		Unready: &Unready{"R", "m <>"},
		Trace:   &Trace{"p", 1 << 60, 0.25, 0.5, 1.5, true},
		Events:  []Event{{"Normal", "R", "m <>", true, "c"}},
		Timings: []Timing{{"a", "bridge", 0.5, 0.00001234, true, "DEL", "timeout"}, {"b", "é", 0, 12, false, "", ""}},
	}
	for _, v := range []any{
		*full, full.Pod, full.Attached[0], *full.Failure, full.Timings[0], full.Events[0],
		*full.Unready, *claim, *full.Trace,
	} {
		for i := range reflect.ValueOf(v).NumField() {
			if reflect.ValueOf(v).Field(i).IsZero() {
				t.Errorf("%T: %s is not set here", v, reflect.TypeOf(v).Field(i).Name)
			}
		}
	}
	for name, r := range map[string]*Report{"full": full, "empty": {}} {
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(want, &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(r.AppendJSON(nil), &b); err != nil {
			t.Fatalf("%s: %v", r.AppendJSON(nil), err)
		}
		if d := cmp.Diff(a, b); d != "" {
			t.Errorf("%s (-encoding/json +AppendJSON):\n%s", name, d)
		}
	}
}

// TestAppendRequest checks that AppendJSON writes what encoding/json writes.
func TestAppendRequest(t *testing.T) {
	t.Parallel()
	for _, r := range []*Request{
		{},
		{
			Command: "ADD", ContainerID: "c", Netns: "/run/netns/x", IfName: "eth0",
			Args: [][2]string{{"a", "b=\"<"}, {"", ""}}, Path: "/opt/cni/bin", Config: []byte("{\n}\xff"),
		},
	} {
		got := &Request{}
		if err := json.Unmarshal(r.AppendJSON(nil), got); err != nil {
			t.Fatalf("%s: %v", r.AppendJSON(nil), err)
		}
		if r.Config == nil {
			got.Config = nil
		}
		if d := cmp.Diff(r, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}
