package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/engine/request"
)

func attached(name, ifName string, primary bool, result string) Attached {
	return Attached{Name: name, IfName: ifName, Primary: primary, Result: json.RawMessage(result)}
}

// one is the result of a bridge plugin.
const one = `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"86:1d:96:ff:55:0d","sandbox":"/run/netns/x"}],
	"ips":[{"address":"10.244.1.73/24","gateway":"10.244.1.1","interface":0}],"routes":[{"dst":"0.0.0.0/0","gw":"10.244.1.1"}]}`

// TestStatus checks the exact annotation, white space included (behaviour D112, D113).
func TestStatus(t *testing.T) {
	t.Parallel()
	info := attached("ns/sriov", "net1", false,
		`{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"x","mtu":9000}]}`)
	info.DeviceInfo = json.RawMessage(`{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:00:01.0"}}`)
	tests := []struct {
		rule     string
		attached []Attached
		want     string
	}{
		{"D112 D113 D114 two networks", []Attached{attached("cbr0", "eth0", true, one), attached("default/macvlan-conf", "net1", false, `{"cniVersion":"0.3.1","interfaces":[{"name":"net1","mac":"02:00:00:00:00:01","sandbox":"x"}],"ips":[{"version":"4","address":"10.1.1.5/24","interface":0},{"version":"6","address":"fd00::5/64"}],"dns":{"nameservers":["10.1.1.1"],"domain":"x","search":["y"],"options":["z"]}}`)}, `[{
    "name": "cbr0",
    "interface": "eth0",
    "ips": [
        "10.244.1.73"
    ],
    "mac": "86:1d:96:ff:55:0d",
    "default": true,
    "dns": {},
    "gateway": [
        "10.244.1.1"
    ]
},{
    "name": "default/macvlan-conf",
    "interface": "net1",
    "ips": [
        "10.1.1.5",
        "fd00::5"
    ],
    "mac": "02:00:00:00:00:01",
    "dns": {
        "nameservers": [
            "10.1.1.1"
        ],
        "domain": "x",
        "search": [
            "y"
        ],
        "options": [
            "z"
        ]
    }
}]`},
		{"D119 device-info, mtu", []Attached{info}, `[{
    "name": "ns/sriov",
    "interface": "net1",
    "mtu": 9000,
    "dns": {},
    "device-info": {
        "type": "pci",
        "version": "1.1.0",
        "pci": {
            "pci-address": "0000:00:01.0"
        }
    }
}]`},
		{"D121 nothing attached", nil, ""},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			got, err := Status(&Report{Attached: tc.attached})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got, err := Status(&Report{
		Attached: []Attached{attached("a", "eth0", true, one)},
		Failure:  &Failure{Message: "x"},
	}); got != "" || err != nil {
		t.Errorf("after a failure: %q, %v", got, err)
	}
	if got, err := Status(&Report{
		Attached: []Attached{attached("a", "eth0", true, `{"cniVersion":"7.0.0"}`)},
	}); got != "" || err == nil ||
		!strings.Contains(err.Error(), "network a") {
		t.Errorf("a result of an unknown version: %q, %v", got, err)
	}
}

// TestElements checks how interfaces and addresses become elements. Each element is printed as interface(mac)
// addresses; default; gateways.
func TestElements(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, result, want, known string
	}{
		{
			rule: "D114 the only interface has all addresses", want: "p() 10.0.0.2 10.0.0.3; default; ",
			result: `{"interfaces":[{"name":"p","sandbox":"x"}],"ips":[{"address":"10.0.0.2/24","interface":0},{"address":"10.0.0.3/24"}]}`,
		},
		{
			rule: "D114 the only interface is the host's", want: "() 10.0.0.2; default; ",
			result: `{"interfaces":[{"name":"host0","mac":"m"}],"ips":[{"address":"10.0.0.2/24"}]}`,
		},
		{
			rule: "D115 P30 addresses by index, those without an index to the last interface",
			want: "pA(a) 10.5.0.2; default; 10.5.0.1 fd00::1|pB(b) 10.5.0.3; ; 10.5.0.1 fd00::1",
			result: `{"interfaces":[{"name":"host0"},{"name":"pA","mac":"a","sandbox":"x"},{"name":"pB","mac":"b","sandbox":"x"}],"ips":[{"address":"10.5.0.2/24","interface":1,"gateway":"10.5.0.1"},{"address":"10.5.0.3/24"}],
				"routes":[{"dst":"0.0.0.0/0","gw":"10.5.0.1"},{"dst":"::/0","gw":"fd00::1"},{"dst":"10.0.0.0/8","gw":"10.5.0.9"},{"dst":"0.0.0.0/0"}]}`,
		},
		{
			rule: "D115 addresses of the host's interface are dropped", want: "p() 10.0.0.2; default; ",
			result: `{"interfaces":[{"name":"host0"},{"name":"p","sandbox":"x"}],"ips":[{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.2/24","interface":1}]}`,
		},
		{
			rule: "D115 index out of range", want: "a() ; default; |b() ; ; ",
			result: `{"interfaces":[{"name":"a","sandbox":"x"},{"name":"b","sandbox":"x"}],"ips":[{"address":"10.0.0.2/24","interface":7},{"address":"10.0.0.3/24","interface":-1}]}`,
		},
		{
			rule: "D115 only the host's interfaces", want: "",
			result: `{"interfaces":[{"name":"a"},{"name":"b"}],"ips":[{"address":"10.0.0.2/24"}]}`,
		},
		{
			rule:   "D116 the interface of the first address with gateway and index",
			want:   "a() 10.0.0.2; ; |b() 10.0.0.3; default; ",
			result: `{"interfaces":[{"name":"a","sandbox":"x"},{"name":"b","sandbox":"x"}],"ips":[{"address":"10.0.0.2/24","interface":0},{"address":"10.0.0.3/24","interface":1,"gateway":"10.0.0.1"}]}`,
		},
		{
			rule: "D116 no address has both: the first interface in the sandbox", want: "a() ; default; |b() 10.0.0.2; ; ",
			result: `{"interfaces":[{"name":"h"},{"name":"a","sandbox":"x"},{"name":"b","sandbox":"x"}],"ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"}]}`,
		},
		{
			rule: "D116 it is on the host: no default", want: "a() ; ; |b() ; ; ",
			result: `{"interfaces":[{"name":"h"},{"name":"a","sandbox":"x"},{"name":"b","sandbox":"x"}],"ips":[{"address":"10.0.0.2/24","interface":0,"gateway":"10.0.0.1"}]}`,
		},
		{rule: "B45 D117 an empty result", want: "", result: `{"dns":{}}`},
		{
			rule: "D117 N8 addresses without an interface have no element, as in today's Multus", want: "",
			result: `{"ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"address":"fd00::2/64"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]}`,
		},
		{
			rule: "D118 a default route without a gateway adds nothing", want: "p() ; default; ",
			result: `{"interfaces":[{"name":"p","sandbox":"x"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}`,
		},
		{
			rule: "D118 a route that begins like a default route", want: "p() ; default; ",
			known:  "the prefix length is not looked at",
			result: `{"interfaces":[{"name":"p","sandbox":"x"}],"routes":[{"dst":"0.0.0.0/1","gw":"10.0.0.1"},{"dst":"::/8","gw":"fd00::1"}]}`,
		},
		{
			rule: "D118 an invalid address", want: "p() ; default; ", known: "it is written as <nil>",
			result: `{"interfaces":[{"name":"p","sandbox":"x"}],"ips":[{"gateway":"10.0.0.1"}]}`,
		},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			got := show(t, attached("n", "eth0", true, `{"cniVersion":"1.0.0",`+tc.result[1:]))
			if got != tc.want && tc.known != "" {
				t.Error("the known difference is gone: " + tc.known)
			}
			if got != tc.want {
				t.Errorf("%s\nwant\n%s", got, tc.want)
			}
			if got := show(t, attached("n", "eth0", false, `{"cniVersion":"1.0.0",`+tc.result[1:])); strings.Contains(got,
				"default") {
				t.Errorf("D116: default, and not the cluster network: %s", got)
			}
		})
	}
}

func show(tb testing.TB, a Attached) string {
	tb.Helper()
	value, err := Status(&Report{Attached: []Attached{a}})
	if err != nil {
		tb.Fatal(err)
	}
	if value == "" {
		return ""
	}
	var list []NetworkStatus
	if err := json.Unmarshal([]byte(value), &list); err != nil {
		tb.Fatal(err)
	}
	out := make([]string, len(list))
	for i, s := range list {
		def := ""
		if s.Default {
			def = "default"
		}
		out[i] = fmt.Sprintf("%s(%s) %s; %s; %s", s.Interface, s.Mac, strings.Join(s.IPs, " "), def,
			strings.Join(s.Gateway, " "))
	}
	return strings.Join(out, "|")
}

// TestInPod checks that an interface is in the pod if its sandbox is that of the pod (CNI SPEC 1.1, Success; D115).
// Calico and the plugin of AWS report interfaces of the node, the latter with the sandbox "0".
func TestInPod(t *testing.T) {
	t.Parallel()
	const aws = `{"cniVersion":"1.0.0","interfaces":[{"name":"enia1"},{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/var/run/netns/x"},
		{"name":"dummya1","mac":"0","sandbox":"0"}],"ips":[{"address":"10.0.0.2/32","interface":1}]}`
	const single = `{"cniVersion":"1.0.0","interfaces":[{"name":"dummya1","sandbox":"0"}],"ips":[{"address":"10.0.0.3/32"}]}`
	for _, tc := range []struct{ netns, result, want, not string }{
		{"/var/run/netns/x", aws, `"eth0"`, "dummya1"},
		{"/run/netns/x", aws, `"eth0"`, "dummya1"},
		{"/run/netns/y", aws, "", "eth0"},
		{"", aws, `"dummya1"`, ""},
		{"/run/netns/x", single, `"10.0.0.3"`, "dummya1"},
	} {
		got, err := Status(&Report{Netns: tc.netns, Attached: []Attached{attached("n", "eth0", true, tc.result)}})
		if err != nil || !strings.Contains(got, tc.want) || tc.not != "" && strings.Contains(got, tc.not) {
			t.Errorf("%s: %s, %v", tc.netns, got, err)
		}
	}
}

// TestVersions checks that results of all versions are read (behaviour D26, D39, D117).
func TestVersions(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		got := show(t, attached("n", "eth0", true,
			`{"cniVersion":"`+v+`","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"version":"4","address":"10.0.0.2/24","interface":0}]}`))
		if got != "eth0() 10.0.0.2; default; " {
			t.Errorf("%s: %s", v, got)
		}
	}
	for _, v := range []string{"0.1.0", "0.2.0"} {
		events, err := Events(&Report{
			Attached: []Attached{attached("n", "eth0", true,
				`{"cniVersion":"`+v+`","ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1"}}`)},
		})
		if err != nil || len(events) != 1 || events[0].Message != "Add eth0 [10.0.0.2/24] from n" {
			t.Errorf("%s: %v, %v", v, events, err)
		}
	}
}

// TestHostile checks that a result with a null in the place of an object is an error and not a panic: the report of one
// pod must not end the daemon (behaviour Q20).
func TestHostile(t *testing.T) {
	t.Parallel()
	for _, result := range []string{
		`{"cniVersion":"1.0.0","interfaces":[null]}`, `{"cniVersion":"1.0.0","interfaces":[{"name":"a","sandbox":"x"},null]}`,
		`{"cniVersion":"1.0.0","interfaces":[{"name":"a","sandbox":"x"}],"ips":[null]}`,
		`{"cniVersion":"1.0.0","interfaces":[{"name":"a","sandbox":"x"}],"routes":[null]}`,
		`{"cniVersion":"0.4.0","interfaces":[null],"ips":[null],"routes":[null]}`,
		`{"cniVersion":"0.3.1","interfaces":[{"name":"a","sandbox":"x"}],"ips":[null]}`,
	} {
		t.Run(result, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if r := recover(); r != nil {
					t.Errorf("the known difference is gone: %v", r)
				}
			}()
			report := &Report{Attached: []Attached{attached("n", "eth0", true, result)}}
			_, _ = Status(report)
			_, _ = Events(report)
		})
	}
}

// TestEvents checks D25, O60, O61, O64 and M22: one event for each attachment with interfaces or addresses, and none
// for a failure that is not a missing definition.
func TestEvents(t *testing.T) {
	t.Parallel()
	two := `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}]}`
	tests := []struct {
		rule string
		r    *Report
		want []Event
	}{
		{"D25 O60", &Report{Attached: []Attached{
			attached("cbr0", "eth0", true, one), attached("ns/a", "net1", false, two),
			attached("", "net2", false, one),
		}}, []Event{
			{Normal, "AddedInterface", "Add eth0 [10.244.1.73/24] from cbr0", false, "", ""},
			{Normal, "AddedInterface", "Add net1 [10.0.0.2/24 fd00::2/64] from ns/a", false, "", ""},
			{Normal, "AddedInterface", "Add net2 [10.244.1.73/24]", false, "", ""},
		}},
		{
			"D25 an interface without an address",
			&Report{Attached: []Attached{attached("a", "net1", false, `{"cniVersion":"1.0.0","interfaces":[{"name":"net1"}]}`)}},
			[]Event{{Normal, "AddedInterface", "Add net1 [] from a", false, "", ""}},
		},
		{"D25 B45 nothing", &Report{Attached: []Attached{attached("aux", "net1", false, `{"cniVersion":"1.0.0"}`)}}, nil},
		{
			"B8 O61 M22", Missing(request.Pod{Namespace: "ns", Name: "p"}, "0123456789abcdef", "cannot find x"),
			[]Event{{Warning, "NoNetworkFound", "cannot find x", false, "0123456789abcdef", ""}},
		},
		{
			"O64 a failure with an event, with its request",
			&Report{ContainerID: "0123456789abcdef", Failure: &Failure{EmitEvent: true, Message: "x"}},
			[]Event{{Warning, "FailedAddingInterface", "x", true, "0123456789abcdef", ""}},
		},
		{
			"O64 another failure, with the networks attached before it",
			&Report{Attached: []Attached{attached("cbr0", "eth0", true, one)}, Failure: &Failure{Message: "x"}},
			[]Event{{Normal, "AddedInterface", "Add eth0 [10.244.1.73/24] from cbr0", false, "", ""}},
		},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			got, err := Events(tc.r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := Events(&Report{Attached: []Attached{attached("a", "eth0", true, `[]`)}}); err == nil {
		t.Error("no result")
	}
}

// recorder is a cluster that returns the next error from each call.
type recorder struct {
	errs  []error
	value string
	calls []string
}

func (c *recorder) next() error {
	if len(c.errs) == 0 {
		return nil
	}
	err := c.errs[0]
	c.errs = c.errs[1:]
	return err
}

func (c *recorder) SetStatus(_ context.Context, pod request.Pod, key, value string, _ *Unready) error {
	c.value = value
	c.calls = append(c.calls, fmt.Sprintf("%v %s %d", pod, key, strings.Count(value, `"name"`)))
	return c.next()
}

func (c *recorder) Emit(_ context.Context, pod request.Pod, e Event) error {
	c.calls = append(c.calls, fmt.Sprintf("%v %s", pod, e.Message))
	return c.next()
}

// TestWrite checks the requests to the cluster: one for the status, and none if there is no status (behaviour D121). A
// pod that is gone is not an error (behaviour D123), a retryable error can be distinguished, and an event that fails
// does not block the others.
func TestWrite(t *testing.T) {
	t.Parallel()
	pod := request.Pod{Namespace: "ns", Name: "p", UID: "u"}
	both := &Report{Pod: pod, Attached: []Attached{attached("a", "eth0", true, one), attached("b", "net1", false, one)}}
	gone, retry := fmt.Errorf("x: %w", ErrGone), fmt.Errorf("x: %w", ErrRetry)
	status := func(c *recorder, r *Report) error { return WriteStatus(t.Context(), c, r, "key") }
	events := func(c *recorder, r *Report) error { return WriteEvents(t.Context(), c, r) }
	tests := []struct {
		rule  string
		do    func(*recorder, *Report) error
		r     *Report
		errs  []error
		calls []string
		want  error
	}{
		{"D110 once", status, both, nil, []string{"{ns p u} key 2"}, nil},
		{"D121 nothing to show", status, &Report{Pod: pod}, nil, nil, nil},
		{"D110 not after a failure", status, &Report{Pod: pod, Attached: both.Attached, Failure: &Failure{}}, nil, nil, nil},
		{"D123 gone", status, both, []error{gone}, []string{"{ns p u} key 2"}, nil},
		{"D122 later", status, both, []error{retry}, []string{"{ns p u} key 2"}, ErrRetry},
		{
			"O60 in order", events, both, nil,
			[]string{"{ns p u} Add eth0 [10.244.1.73/24] from a", "{ns p u} Add net1 [10.244.1.73/24] from b"},
			nil,
		},
		{
			"every event, whatever fails", events, both,
			[]error{retry},
			[]string{"{ns p u} Add eth0 [10.244.1.73/24] from a", "{ns p u} Add net1 [10.244.1.73/24] from b"},
			ErrRetry,
		},
		{
			"D123 gone, for events", events, both,
			[]error{gone, gone},
			[]string{"{ns p u} Add eth0 [10.244.1.73/24] from a", "{ns p u} Add net1 [10.244.1.73/24] from b"},
			nil,
		},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			c := &recorder{errs: slices.Clone(tc.errs)}
			if err := tc.do(c, tc.r); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if diff := cmp.Diff(tc.calls, c.calls); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzStatus checks that any result that a plugin may print leads to an error or to an annotation that is a JSON array
// (behaviour Q7) and never contains <nil> (behaviour D118).
func FuzzStatus(f *testing.F) {
	for _, seed := range []string{
		one, `{}`, `null`, `{"cniVersion":"0.1.0","ip4":{"ip":"10.0.0.2/24"}}`, `{"cniVersion":"0.2.0","ip6":null}`,
		`{"cniVersion":"1.0.0","interfaces":[{"sandbox":"x"},{"sandbox":"y"}],"ips":[{"address":"10.0.0.2/24","interface":9}]}`,
		`{"cniVersion":"1.1.0","interfaces":[{"name":"<&>","sandbox":"x","mtu":-1}],"routes":[{"dst":"::/0","gw":"fd00::1"}],"dns":null}`,
	} {
		f.Add([]byte(seed), []byte(`{"type":"pci"}`), true)
	}
	f.Fuzz(func(t *testing.T, result, info []byte, primary bool) {
		if nulls(result) {
			return // see TestHostile
		}
		r := &Report{Attached: []Attached{{Name: "n", IfName: "eth0", Primary: primary, Result: result}}}
		if json.Valid(info) {
			r.Attached[0].DeviceInfo = info
		}
		value, err := Status(r)
		if err != nil {
			if value != "" {
				t.Errorf("%q and %v", value, err)
			}
			return
		}
		if _, err := Events(r); err != nil {
			t.Errorf("a status, and no events: %v", err)
		}
		var list []NetworkStatus
		if value == "" {
			return
		}
		if err := json.Unmarshal([]byte(value), &list); err != nil || len(list) == 0 {
			t.Fatalf("%v in %s", err, value)
		}
		defaults := 0
		for _, s := range list {
			if s.Default {
				defaults++
			}
			if slices.Contains(s.Gateway, "<nil>") {
				t.Errorf("a gateway <nil>: %s", value)
			}
		}
		if defaults > 1 || defaults > 0 && !primary {
			t.Errorf("%d defaults: %s", defaults, value)
		}
	})
}

// nulls reports whether a list of the result contains a null.
func nulls(result []byte) bool {
	var lists struct{ Interfaces, IPs, Routes []json.RawMessage }
	_ = json.Unmarshal(result, &lists)
	for _, list := range [][]json.RawMessage{lists.Interfaces, lists.IPs, lists.Routes} {
		for _, item := range list {
			if len(item) == 0 || string(item) == "null" {
				return true
			}
		}
	}
	return false
}
