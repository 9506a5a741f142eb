package publish

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"multus/internal/engine/request"
)

const (
	netns  = "/run/netns/x"
	podMAC = "02:00:00:00:00:01"
)

// kernel returns an interface. Addresses that end in ~ do not last.
func kernel(name, mac string, addresses ...string) Interface {
	itf := Interface{Name: name, MAC: mac, MTU: 1500}
	for _, a := range addresses {
		prefix, passing := strings.CutSuffix(a, "~")
		itf.Addresses = append(itf.Addresses, Address{netip.MustParsePrefix(prefix), !passing})
	}
	return itf
}

// reported returns the result of a plugin with one interface in the pod.
func reported(name, mac string, addresses ...string) string {
	return reportedIn(netns, name, mac, addresses...)
}

func reportedIn(sandbox, name, mac string, addresses ...string) string {
	var ips []string
	for _, a := range addresses {
		ips = append(ips, fmt.Sprintf(`{"address":%q,"interface":0}`, a))
	}
	return fmt.Sprintf(`{"cniVersion":"1.0.0","interfaces":[{"name":%q,"mac":%q,"sandbox":%q}],"ips":[%s]}`,
		name, mac, sandbox, strings.Join(ips, ","))
}

// TestActual checks what the results of the attachments of a sandbox become with what the kernel has (behaviour R26).
func TestActual(t *testing.T) {
	t.Parallel()
	const other = "02:00:00:00:00:09"
	two := `{"cniVersion":"1.0.0","interfaces":[{"name":"veth1","mac":"` + other + `"},` +
		`{"name":"a","mac":"` + podMAC + `","sandbox":"/run/netns/x"},{"name":"b","mac":"` + podMAC + `","sandbox":"/var/run/netns/x"}],` +
		`"ips":[{"address":"10.0.0.2/24","interface":1},{"address":"10.0.0.3/24"}]}`
	eth0 := kernel("eth0", podMAC, "10.244.0.2/24")
	for name, tc := range map[string]struct {
		result  string
		device  bool
		saw     []string
		kernel  []Interface
		want    string // elements of the status but the first: interface, MAC, addresses
		lost    string
		changed bool
	}{
		"as it was attached": {
			result: reported("net1", podMAC, "10.0.0.2/24", "fd00::2/64"),
			kernel: []Interface{eth0, kernel("net1", podMAC, "fd00::2/64", "10.0.0.2/24", "fe80::1/64~")},
			want:   "net1 " + podMAC + " 10.0.0.2 fd00::2",
		},
		"lost": {
			result: reported("net1", podMAC, "10.0.0.2/24"), kernel: []Interface{eth0}, lost: "net1", changed: true,
		},
		"an alternative name": {
			result: reported("net1", podMAC),
			kernel: []Interface{eth0, {Name: "other", AltNames: []string{"net1"}, MAC: podMAC}}, want: "net1 " + podMAC + " ",
		},
		"another address": {
			result: reported("net1", podMAC, "10.0.0.2/24"),
			kernel: []Interface{eth0, kernel("net1", podMAC, "10.0.0.9/24")}, want: "net1 " + podMAC + " 10.0.0.9",
			changed: true,
		},
		"one more address": {
			result: reported("net1", podMAC, "10.0.0.2/24"),
			kernel: []Interface{eth0, kernel("net1", podMAC, "fd00::1/64", "10.0.0.2/24")},
			want:   "net1 " + podMAC + " 10.0.0.2 fd00::1", changed: true,
		},
		"addresses of a router advertisement and of a DHCP client": {
			result: reported("net1", podMAC, "10.0.0.2/24"),
			kernel: []Interface{eth0, kernel("net1", podMAC, "10.0.0.2/24", "fd00::1/64~", "10.0.0.7/24~")},
			want:   "net1 " + podMAC + " 10.0.0.2",
		},
		"an address with a lifetime that the plugin reported": {
			result: reported("net1", podMAC, "fd00::1/64"),
			kernel: []Interface{eth0, kernel("net1", podMAC, "fd00::1/64~")}, want: "net1 " + podMAC + " fd00::1",
		},
		"no address left": {
			result: reported("net1", podMAC, "10.0.0.2/24"), kernel: []Interface{eth0, kernel("net1", podMAC)},
			want: "net1 " + podMAC + " ", changed: true,
		},
		"addresses that the pod sets on an interface without any": {
			result: reported("net1", podMAC), kernel: []Interface{eth0, kernel("net1", podMAC, "10.0.0.9/24")},
			want: "net1 " + podMAC + " ",
		},
		"another MAC address": {
			result: reported("net1", podMAC), kernel: []Interface{eth0, kernel("net1", other)},
			want: "net1 " + other + " ", changed: true,
		},
		"a MAC address in another form": {
			result: reported("net1", "02-00-00-00-00-01"), kernel: []Interface{eth0, kernel("net1", podMAC)},
			want: "net1 02-00-00-00-00-01 ",
		},
		"a MAC address that the plugin does not report": {
			result: reported("net1", ""), kernel: []Interface{eth0, kernel("net1", podMAC)}, want: "net1  ",
		},
		"KubeVirt has renamed the interface, and made another one with its name": {
			result: reported("pod01234567890", podMAC, "10.0.0.2/24"),
			kernel: []Interface{
				eth0, kernel("pod01234567890-nic", other), kernel("pod01234567890", podMAC, "10.0.0.2/24"), kernel("k6t-01", other),
			},
			want: "pod01234567890 " + podMAC + " 10.0.0.2",
		},
		"a device that a program in the pod drives": {
			result: reported("net1", podMAC, "10.0.0.2/24"), device: true, kernel: []Interface{eth0},
			want: "net1 " + podMAC + " 10.0.0.2",
		},
		"a device whose interface was seen": {
			result: reported("net1", podMAC, "10.0.0.2/24"), device: true, saw: []string{"net1"}, kernel: []Interface{eth0},
			lost: "net1", changed: true,
		},
		"an interface without MAC address": {result: reported("net1", ""), kernel: []Interface{eth0}, want: "net1  "},
		"an interface of the node": {
			result: reportedIn("", "veth1", podMAC, "10.0.0.2/24"), kernel: []Interface{eth0}, want: "  10.0.0.2",
		},
		"an interface of another sandbox": {
			result: reportedIn("/run/netns/y", "net1", podMAC), kernel: []Interface{eth0}, want: "  ",
		},
		"an earlier version without interfaces": {
			result: `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}`, kernel: []Interface{eth0},
		},
		"two interfaces": {
			result: two, kernel: []Interface{
				eth0, kernel("a", podMAC, "10.0.0.2/24"), kernel("b", podMAC, "10.0.0.3/24"),
			},
			want: "a " + podMAC + " 10.0.0.2, b " + podMAC + " 10.0.0.3",
		},
		"one of two interfaces lost": {
			result: two, kernel: []Interface{eth0, kernel("b", podMAC, "10.0.0.3/24")},
			want: "b " + podMAC + " 10.0.0.3", changed: true,
		},
		"both of two interfaces lost": {result: two, kernel: []Interface{eth0}, lost: "net1", changed: true},
		"the runtime has moved all addresses": {
			result: reported("net1", podMAC, "10.0.0.2/24"),
			kernel: []Interface{kernel("eth0", podMAC, "fe80::1/64~"), kernel("net1", podMAC)},
			want:   "net1 " + podMAC + " 10.0.0.2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &Observation{
				Netns: netns, Interfaces: tc.kernel, Attached: []Attached{
					attached("cluster", "eth0", true, reported("eth0", podMAC, "10.244.0.2/24")),
					attached("team/lan", "net1", false, tc.result),
				},
			}
			if tc.device {
				o.Devices = []string{"net1"}
			}
			actual, lost, err := o.Actual(func(name string) bool { return slices.Contains(tc.saw, name) })
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(lost, " "); got != tc.lost {
				t.Errorf("lost: %q, want %q", got, tc.lost)
			}
			if got := shownElements(t, actual); got != tc.want {
				t.Errorf("status: %q, want %q", got, tc.want)
			}
			if changed := string(actual[1].Result) != tc.result; changed != tc.changed {
				t.Errorf("the result is changed: %t, want %t", changed, tc.changed)
			}
		})
	}
}

// shownElements returns the elements of a network status, except the first one.
func shownElements(t *testing.T, actual []Attached) string {
	t.Helper()
	p, err := Prepare(&Report{Command: request.Update, Netns: netns, Attached: actual})
	if err != nil {
		t.Fatal(err)
	}
	var status []NetworkStatus
	if err := json.Unmarshal([]byte(p.Status()), &status); err != nil || len(status) == 0 || !status[0].Default {
		t.Fatalf("%v in %s", err, p.Status())
	}
	var out []string
	for _, s := range status[1:] {
		out = append(out, s.Interface+" "+s.Mac+" "+strings.Join(s.IPs, " "))
	}
	return strings.Join(out, ", ")
}

// TestNothingLeft checks that the network status of a running pod that has lost its only interface is an empty list.
func TestNothingLeft(t *testing.T) {
	t.Parallel()
	o := &Observation{Netns: netns, Attached: []Attached{attached("cluster", "eth0", true, reported("eth0", podMAC))}}
	actual, lost, err := o.Actual(nil)
	if err != nil || !slices.Equal(lost, []string{"eth0"}) {
		t.Fatalf("%q, %v", lost, err)
	}
	p, err := Prepare(&Report{Command: request.Update, Netns: netns, Attached: actual})
	if err != nil || p.Status() != "[]" {
		t.Errorf("%q, %v", p.Status(), err)
	}
}

// TestOwnAddressesAreLimited checks that a program in the pod cannot make its network status large.
func TestOwnAddressesAreLimited(t *testing.T) {
	t.Parallel()
	itf := kernel("net1", podMAC, "10.0.0.2/24")
	for i := range 1000 {
		itf.Addresses = append(itf.Addresses, Address{netip.MustParsePrefix(fmt.Sprintf("10.1.%d.%d/32", i>>8, i&255)), true})
	}
	o := &Observation{Netns: netns, Interfaces: []Interface{itf}, Attached: []Attached{
		attached("team/lan", "net1", false, reported("net1", podMAC, "10.0.0.2/24")),
	}}
	actual, _, err := o.Actual(nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := actual[0].result()
	if err != nil || len(res.IPs) != 1+maxOwnAddresses {
		t.Errorf("%d addresses, %v", len(res.IPs), err)
	}
}

// FuzzActual checks that no result of a plugin and no state of the kernel makes the correction panic, and that a
// corrected result can be read.
func FuzzActual(f *testing.F) {
	f.Add([]byte(reported("net1", podMAC, "10.0.0.2/24")), "net1", podMAC, "10.0.0.9/24")
	for _, seed := range []string{
		one, `{}`, `null`, `{"cniVersion":"0.2.0","ip6":null}`,
		`{"cniVersion":"1.0.0","interfaces":[{"sandbox":"x"},{"sandbox":"y"}],"ips":[{"address":"10.0.0.2/24","interface":9}]}`,
		`{"cniVersion":"1.0.0","interfaces":[{"name":"a","mac":"m","sandbox":"/run/netns/x"},{"name":"b"}],"ips":[{"address":"10.0.0.2/24","interface":-1},{}]}`,
	} {
		f.Add([]byte(seed), "a", "", "::/0")
	}
	f.Fuzz(func(t *testing.T, result []byte, name, mac, address string) {
		prefix, _ := netip.ParsePrefix(address)
		o := &Observation{
			Netns:      netns,
			Interfaces: []Interface{{Name: name, MAC: mac, Addresses: []Address{{prefix, true}, {}}}},
			Attached:   []Attached{{Name: "n", IfName: name, Primary: true, Result: result}},
		}
		actual, _, err := o.Actual(func(name string) bool { return name == "" })
		if err != nil {
			return
		}
		if _, err := Prepare(&Report{Command: request.Update, Netns: netns, Attached: actual}); err != nil {
			t.Errorf("%s becomes %s: %v", result, actual[0].Result, err)
		}
	})
}
