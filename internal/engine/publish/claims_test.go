package publish

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/device"
)

// TestClaimedDevices checks what is written about the device of a claim: interface, MAC address, and addresses in the
// form that the API server accepts (behaviour H16).
func TestClaimedDevices(t *testing.T) {
	t.Parallel()
	claim := &device.Claim{Namespace: "n", Name: "c", UID: "u", Driver: "d", Pool: "p", Device: "vf0", ShareID: "s"}
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("10.0.0.%d/24", i))
	}
	two := `{"cniVersion":"1.0.0","interfaces":[{"name":"veth1","mac":"02:00:00:00:00:09"},` +
		`{"name":"other","mac":"02:00:00:00:00:08","sandbox":"/run/netns/x"},` +
		`{"name":"net1","mac":"` + podMAC + `","sandbox":"/var/run/netns/x"}],"ips":[{"address":"10.0.0.1/24","interface":0},` +
		`{"address":"10.0.0.2/24","interface":1},{"address":"10.0.0.3/24","interface":2},{"address":"10.0.0.4/24"}]}`
	for name, tc := range map[string]struct {
		result string
		want   string
	}{
		"one interface": {
			reported("net1", podMAC, "10.0.0.2/24", "fd00::2/64"), "net1 " + podMAC + " 10.0.0.2/24 fd00::2/64",
		},
		"another name":      {reported("x0", podMAC, "10.0.0.2/24"), "x0 " + podMAC + " 10.0.0.2/24"},
		"the requested one": {two, "net1 " + podMAC + " 10.0.0.3/24 10.0.0.4/24"},
		"without interface": {`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}`, "  10.0.0.2/24"},
		"without address":   {reported("net1", podMAC), "net1 " + podMAC},
		"on the node":       {reportedIn("", "veth1", podMAC, "10.0.0.2/24"), "  10.0.0.2/24"},
		"mapped and repeated": {
			reported("net1", "", "::ffff:10.0.0.2/120", "10.0.0.2/24", "FD00:0::2/64"), "net1  10.0.0.2/24 fd00::2/64",
		},
		"too many addresses": {reported("net1", "", many...), "net1  " + strings.Join(many[:maxClaimAddresses], " ")},
		"version 0.2.0":      {`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}`, "  10.0.0.2/24"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ClaimedDevices(&Report{Netns: netns, Attached: []Attached{
				{Name: "cluster", IfName: "eth0", Primary: true, Result: json.RawMessage(reported("eth0", podMAC))},
				{Name: "n/fast", IfName: "net1", Result: json.RawMessage(tc.result), Claim: claim},
			}})
			if err != nil || len(got) != 1 {
				t.Fatalf("%+v, %v", got, err)
			}
			words := append([]string{got[0].Interface, got[0].MAC}, got[0].Addresses...)
			if text := strings.TrimRight(strings.Join(words, " "), " "); text != tc.want {
				t.Errorf("%q, want %q", text, tc.want)
			}
			if d := cmp.Diff(*claim, got[0].Claim); d != "" || got[0].Network != "n/fast" ||
				got[0].Ref() != (ClaimRef{"n", "c", "u"}) {
				t.Errorf("%+v %s", got[0], d)
			}
		})
	}
	failed := &Report{Failure: &Failure{}, Attached: []Attached{{Claim: claim, Result: json.RawMessage(two)}}}
	if got, err := ClaimedDevices(failed); err != nil || got != nil {
		t.Errorf("of a failed ADD: %+v, %v", got, err)
	}
	if _, err := ClaimedDevices(&Report{Attached: []Attached{{Claim: claim, Result: json.RawMessage(`{`)}}}); err == nil {
		t.Error("a result that cannot be read is no error")
	}
}
