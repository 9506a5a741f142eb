package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"multus/internal/engine/request"
)

// TestWriteStatusIsLimited checks that the annotation never exceeds MaxStatus, that small elements survive large ones,
// and that an event names what is missing.
func TestWriteStatusIsLimited(t *testing.T) {
	t.Parallel()
	network := func(name, dns string, addresses int) Attached {
		ips := make([]string, addresses)
		for i := range ips {
			ips[i] = fmt.Sprintf(`{"address":"10.%d.%d.1/24","interface":0}`, i>>8, i&255)
		}
		return Attached{Name: name, IfName: name, Result: json.RawMessage(fmt.Sprintf(
			`{"cniVersion":"1.0.0","interfaces":[{"name":%q,"sandbox":"/x"}],"ips":[%s],"dns":{"search":[%q]}}`, name,
			strings.Join(ips, ","), dns))}
	}
	long := strings.Repeat("d", MaxStatus)
	for name, tc := range map[string]struct {
		attached []Attached
		want     []string // names in the status
		dns      bool
		event    string
	}{
		"small": {[]Attached{network("a", "x", 1), network("b", "x", 1)}, []string{"a", "b"}, true, ""},
		"long dns": {
			[]Attached{network("a", "x", 1), network("b", long, 1)},
			[]string{"a", "b"},
			false,
			"DNS settings are left out;",
		},
		"long addresses": {
			[]Attached{network("a", "x", 1), network("b", "x", 20_000), network("c", "x", 1)},
			[]string{"a", "c"},
			false, "1 of 3 interfaces",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &Report{Command: "ADD", Pod: request.Pod{Namespace: "ns", Name: "p"}, Attached: tc.attached}
			c := &recorder{}
			if err := WriteStatus(t.Context(), c, r, "key"); err != nil {
				t.Fatal(err)
			}
			value := c.value
			var got []NetworkStatus
			if err := json.Unmarshal([]byte(value), &got); err != nil || len(value) > MaxStatus {
				t.Fatalf("%d bytes, %v", len(value), err)
			}
			var names []string
			for _, s := range got {
				names = append(names, s.Name)
				if (len(s.DNS.Search) > 0) != tc.dns {
					t.Errorf("%s has DNS settings: %v", s.Name, !tc.dns)
				}
			}
			if fmt.Sprint(names) != fmt.Sprint(tc.want) {
				t.Errorf("networks %v, want %v", names, tc.want)
			}
			events, err := Events(r)
			if err != nil {
				t.Fatal(err)
			}
			last := events[len(events)-1]
			if (last.Reason == StatusShortened) != (tc.event != "") || !strings.Contains(last.Message, tc.event) {
				t.Errorf("last event %.200v, want one with %q", last, tc.event)
			}
		})
	}
}

// TestUndecodableIsRefused checks that a report whose results cannot be decoded is not retried.
func TestUndecodableIsRefused(t *testing.T) {
	t.Parallel()
	r := &Report{Attached: []Attached{{Name: "n", Result: json.RawMessage(`{"cniVersion":"9.9.9"}`)}}}
	if err := WriteStatus(t.Context(), &recorder{}, r, "key"); !errors.Is(err, ErrRefused) {
		t.Errorf("%v is not ErrRefused", err)
	}
}

// TestShrink checks that a report that is too large first loses what its status does not need, then its largest
// attachment.
func TestShrink(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	result := func(dns, address string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(
			`{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"/x"}],"ips":[{"address":%q,"interface":0}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}],"dns":{"search":[%q]}}`, address, dns))
	}
	long := strings.Repeat("d", limit)
	r := &Report{Attached: []Attached{
		{Name: "small", Result: result("d", "10.0.0.1/8"), DeviceInfo: json.RawMessage(`{}`)},
		{Name: "dns", Result: result(long, "10.0.0.2/8")},
		{Name: "device", Result: result("d", "10.0.0.3/8"), DeviceInfo: json.RawMessage(`"` + long + `"`)},
		{Name: "broken", Result: json.RawMessage(`"` + long + `"`)},
	}}
	r.Shrink(limit)
	status, err := Status(r)
	if err != nil || r.size() > limit {
		t.Fatalf("%d bytes, %v", r.size(), err)
	}
	for _, want := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %s in %s", want, status)
		}
	}
	if len(r.Attached) != 3 || string(r.Attached[0].DeviceInfo) != "{}" ||
		!strings.Contains(string(r.Attached[0].Result), `"search":["d"]`) {
		t.Errorf("%+v", r)
	}
	whole := &Report{Attached: []Attached{{Result: result(long, "10.0.0.1/8")}}}
	if whole.Shrink(2 * limit); whole.size() < limit {
		t.Error("a report that is small enough is changed")
	}
	(&Report{}).Shrink(0)
}
