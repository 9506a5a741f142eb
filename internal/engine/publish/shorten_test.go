package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestWriteStatusIsLimited: the annotation never exceeds MaxStatus, small elements survive large ones, and an event names
// what is missing.
func TestWriteStatusIsLimited(t *testing.T) {
	t.Parallel()
	network := func(name, dns string, addresses int) Attached {
		ips := make([]string, addresses)
		for i := range ips {
			ips[i] = fmt.Sprintf(`{"address":"10.%d.%d.1/24","interface":0}`, i>>8, i&255)
		}
		return Attached{Name: name, IfName: name, Result: json.RawMessage(fmt.Sprintf(
			`{"cniVersion":"1.0.0","interfaces":[{"name":%q,"sandbox":"/x"}],"ips":[%s],"dns":{"search":[%q]}}`, name, strings.Join(ips, ","), dns))}
	}
	long := strings.Repeat("d", MaxStatus)
	for name, tc := range map[string]struct {
		attached []Attached
		want     []string // names in the status
		dns      bool
		event    string
	}{
		"small":          {[]Attached{network("a", "x", 1), network("b", "x", 1)}, []string{"a", "b"}, true, ""},
		"long dns":       {[]Attached{network("a", "x", 1), network("b", long, 1)}, []string{"a", "b"}, false, "DNS settings are left out;"},
		"long addresses": {[]Attached{network("a", "x", 1), network("b", "x", 20_000), network("c", "x", 1)}, []string{"a", "c"}, false, "1 of 3 interfaces"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &Report{Command: "ADD", Pod: Pod{Namespace: "ns", Name: "p"}, Attached: tc.attached}
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

// TestUndecodableIsRefused: a report whose results cannot be decoded is not worth another attempt.
func TestUndecodableIsRefused(t *testing.T) {
	t.Parallel()
	r := &Report{Attached: []Attached{{Name: "n", Result: json.RawMessage(`{"cniVersion":"9.9.9"}`)}}}
	if err := WriteStatus(t.Context(), &recorder{}, r, "key"); !errors.Is(err, ErrRefused) {
		t.Errorf("%v is not ErrRefused", err)
	}
}
