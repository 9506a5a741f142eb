package wirev1

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/fault"
	"multus/internal/rawjson"
	"multus/internal/testutil/wire"
)

// FuzzRequest decodes requests as the daemon does. It checks that no method panics, and that the plugin's encoder sends
// the same request again.
func FuzzRequest(f *testing.F) {
	f.Add(wire.Message(f, "plan-request.json"))
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"args":[[]]}`, `{"args":[["a"]]}`, `{"args":[["a","b","c"]]}`,
		`{"args":null,"config":""}`, `{"config":"%%"}`, `{"args":{"a":"b"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &Request{}
		if err := json.Unmarshal(b, m); err != nil {
			return
		}
		r := m.ToRequest()
		if r.Pod() == "" || len(r.Args.Delegate("u")) < 5 {
			t.Errorf("%+v", r)
		}
		sent, err := json.Marshal(FromRequest(r))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{sent, FromRequest(r).AppendJSON(nil)} {
			again := &Request{}
			if err := json.Unmarshal(b, again); err != nil || again.Command != m.Command || again.IfName != m.IfName ||
				again.ToRequest().Args.String() != r.Args.String() || !bytes.Equal(again.Config, m.Config) {
				t.Errorf("%+v becomes %+v: %v", m, again, err)
			}
		}
	})
}

// FuzzReport decodes and processes reports as the daemon does, and checks that both encoders write the same report.
func FuzzReport(f *testing.F) {
	f.Add(wire.Message(f, "report-add.json"))
	f.Add(wire.Message(f, "report-full.json"))
	for _, seed := range []string{
		`{}`, `null`, `{"attached":[{}]}`, `{"attached":[null]}`, `{"failure":{}}`,
		`{"attached":[{"result":null}],"failure":{"missing":true}}`, `{"attached":[{"result":"x","deviceInfo":5}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &Report{}
		if err := json.Unmarshal(b, m); err != nil {
			return
		}
		r := m.ToReport()
		if value, err := publish.Status(r); r.Failure != nil && (value != "" || err != nil) {
			t.Errorf("a status after a failure: %q, %v", value, err)
		}
		_, _ = publish.Events(r)
		encoded, err := rawjson.Marshal(FromReport(r))
		if err != nil {
			t.Fatal(err)
		}
		var want, got Report
		err = errors.Join(json.Unmarshal(encoded, &want), json.Unmarshal(FromReport(r).AppendJSON(nil), &got))
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v (-encoding/json +AppendJSON):\n%s", b, err, d)
		}
	})
}

// FuzzChanges decodes and checks changes as the runner does, which does not trust the daemon. It checks that valid ones
// keep the cluster network, and that they are the same after they were encoded.
func FuzzChanges(f *testing.F) {
	f.Add(wire.Message(f, "changes-full.json"))
	for _, seed := range []string{
		`{}`, `null`, `{"remove":[0]}`, `{"remove":[-1,1]}`, `{"remove":[1,1]}`, `{"add":[{}]}`, `{"add":[null]}`,
		`{"refused":[{}]}`, `{"ignored":[{}]}`, `{"add":[{"ifName":"eth0","config":{"name":"a","type":"b"}}]}`,
	} {
		f.Add([]byte(seed))
	}
	has := []plan.Attached{{Name: "cluster", IfName: "eth0", Primary: true}, {Name: "team/lan", IfName: "net1"}}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &Changes{}
		if err := json.Unmarshal(b, m); err != nil {
			return
		}
		c, err := m.ToChanges()
		if err != nil || c.Validate(has) != nil {
			return
		}
		for i := range c.Add {
			if c.Add[i].IfName == "eth0" || c.Add[i].Primary {
				t.Errorf("adds %+v", c.Add[i])
			}
		}
		if slices.Contains(c.Remove, 0) || len(c.Remove) > 1 {
			t.Errorf("removes %v", c.Remove)
		}
		again := &Changes{}
		encoded, err := rawjson.Marshal(FromChanges(c, fault.ToCNI))
		if err == nil {
			err = json.Unmarshal(encoded, again)
		}
		if err != nil || len(again.Add) != len(m.Add) || len(again.Refused) != len(m.Refused) {
			t.Errorf("%s becomes %s: %v", b, encoded, err)
		}
	})
}

// FuzzObserved decodes observations as the daemon does, and checks that nothing in them makes it panic and that they
// are the same after they were encoded.
func FuzzObserved(f *testing.F) {
	f.Add(wire.Message(f, "observed-full.json"))
	for _, seed := range []string{
		`{}`, `null`, `{"sandboxes":[{}]}`, `{"sandboxes":[null]}`, `{"sandboxes":[{"attached":[{}],"interfaces":[{}]}]}`,
		`{"sandboxes":[{"interfaces":[{"addresses":[{"address":""},{"address":"::/0"}]}]}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &Observed{}
		if err := json.Unmarshal(b, m); err != nil {
			return
		}
		for i := range m.Sandboxes {
			o := m.Sandboxes[i].ToObservation()
			_, _, _ = o.Actual(func(string) bool { return true })
			if d := cmp.Diff(o, func() *publish.Observation { s := FromObservation(o); return s.ToObservation() }(),
				cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Errorf("%s:\n%s", b, d)
			}
		}
	})
}
