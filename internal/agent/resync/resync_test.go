package resync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/netsel"
)

const (
	netns = "/run/netns/x"
	mac   = "02:00:00:00:00:01"
	other = "02:00:00:00:00:02"
)

// node is a node with a Comparer and one pod with the networks cluster (eth0) and team/lan (net1).
type node struct {
	*Comparer
	now     publish.Observation
	status  string // what the API server has
	apiDown bool
	busy    bool
	reports []*publish.Report
	next    time.Duration
}

func newNode(t *testing.T, reattach bool) *node {
	t.Helper()
	n := &node{}
	n.Comparer = New(Options{
		Every: time.Minute, Reattach: reattach, Pods: n, Log: slog.New(slog.DiscardHandler),
		Busy:   func(request.Pod) bool { return n.busy },
		Report: func(_ context.Context, r *publish.Report) { n.reports = append(n.reports, r) },
		Next:   func(in time.Duration) { n.next = in },
	})
	n.now = publish.Observation{
		Pod: request.Pod{Namespace: "team", Name: "web", UID: "u"}, ContainerID: "c", Netns: netns,
		Attached: []publish.Attached{
			attachment("cluster", "eth0", mac, "10.244.0.2/24"), attachment("team/lan", "net1", mac, "10.0.0.2/24"),
		},
		Interfaces: []publish.Interface{
			{Name: "eth0", MAC: mac, Addresses: addresses("10.244.0.2/24")},
			{Name: "net1", MAC: mac, Addresses: addresses("10.0.0.2/24")},
		},
	}
	n.now.Attached[0].Primary = true
	n.watch(statusOf(t, n.now.Attached))
	return n
}

func attachment(name, ifName, mac, address string) publish.Attached {
	return publish.Attached{Name: name, IfName: ifName, Result: json.RawMessage(fmt.Sprintf(
		`{"cniVersion":"1.0.0","interfaces":[{"name":%q,"mac":%q,"sandbox":%q}],"ips":[{"address":%q,"interface":0}]}`,
		ifName, mac, netns, address))}
}

func addresses(list ...string) (out []publish.Address) {
	for _, a := range list {
		out = append(out, publish.Address{Prefix: netip.MustParsePrefix(a), Lasting: true})
	}
	return out
}

func statusOf(t *testing.T, attached []publish.Attached) string {
	t.Helper()
	p, err := publish.Prepare(&publish.Report{Command: request.Update, Netns: netns, Attached: attached})
	if err != nil {
		t.Fatal(err)
	}
	return p.Status()
}

// watch sets the network status of the pod at the API server, and delivers it.
func (n *node) watch(status string) {
	n.status = status
	n.deliver(status)
}

// deliver is the watch of the pods.
func (n *node) deliver(status string) {
	n.Observe(&plan.Pod{Ref: plan.Ref{Namespace: "team", Name: "web"}, UID: "u", Annotations: map[string]string{
		netsel.Status: status,
	}})
}

// Pod is the API server.
func (n *node) Pod(_ context.Context, ref plan.Ref) (*plan.Pod, error) {
	if n.apiDown {
		return nil, plan.ErrUnavailable
	}
	return &plan.Pod{Ref: ref, UID: "u", Annotations: map[string]string{netsel.Status: n.status}}, nil
}

// compare compares once, and writes what is reported to the API server. It returns the reasons of the events, and the
// interfaces to attach again.
func (n *node) compare(t *testing.T) (reasons, again string) {
	t.Helper()
	n.reports = nil
	now := n.now
	now.Attached = slices.Clone(now.Attached)
	out := n.Compare(t.Context(), []*publish.Observation{&now}, true)
	var list []string
	for _, r := range n.reports {
		for _, e := range r.Events {
			list = append(list, e.Reason)
		}
		n.watch(statusOf(t, r.Attached))
	}
	for _, r := range out {
		again += strings.Join(r.IfNames, " ")
	}
	return strings.Join(list, " "), again
}

// settles compares until nothing is reported, and returns all reasons and the number of reports.
func (n *node) settles(t *testing.T) (reasons string, reports int) {
	t.Helper()
	for range 6 {
		got, _ := n.compare(t)
		reasons = strings.TrimSpace(reasons + " " + got)
		reports += len(n.reports)
	}
	return reasons, reports
}

// TestCompare checks what is reported about each kind of difference between a network status and what a sandbox has:
// one report for each, and nothing about what only looks different (behaviour R25-R27).
func TestCompare(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		first  bool // without a comparison before
		now    func(o *publish.Observation)
		status func(status string) string
		want   string
	}{
		"as it was attached": {},
		"lost": {
			now: func(o *publish.Observation) { o.Interfaces = o.Interfaces[:1] }, want: "InterfaceLost",
		},
		"the cluster network is lost": {
			now: func(o *publish.Observation) { o.Interfaces = o.Interfaces[1:] }, want: "InterfaceLost",
		},
		"all is lost": {
			now: func(o *publish.Observation) { o.Interfaces = nil }, want: "InterfaceLost InterfaceLost",
		},
		"another address": {
			now:  func(o *publish.Observation) { o.Interfaces[1].Addresses = addresses("10.0.0.9/24") },
			want: "AddressChanged",
		},
		"another MAC address": {
			now: func(o *publish.Observation) { o.Interfaces[1].MAC = other }, want: "AddressChanged",
		},
		"restored": {
			status: func(s string) string { return strings.Replace(s, "10.0.0.2", "10.0.0.9", 1) }, want: "InterfaceRestored",
		},
		"back": {
			status: func(s string) string { return s[:strings.Index(s, ",{")] + "]" }, want: "InterfaceRestored",
		},
		"a device that a program in the pod drives": {
			first: true,
			now:   func(o *publish.Observation) { o.Interfaces, o.Devices = o.Interfaces[:1], []string{"net1"} },
		},
		"a device whose interface an earlier comparison saw": {
			now:  func(o *publish.Observation) { o.Interfaces, o.Devices = o.Interfaces[:1], []string{"net1"} },
			want: "InterfaceLost",
		},
		"KubeVirt has renamed the interface, and made another one with its name": {
			now: func(o *publish.Observation) {
				o.Interfaces = append(o.Interfaces, publish.Interface{Name: "net1-nic", MAC: other})
			},
		},
		"an element and members of another program, in another order": {
			status: func(string) string {
				return `[{"name":"theirs","interface":"net1","ips":["1.2.3.4"]},{"name":5},` +
					`{"theirs":true,"interface":"net1","ips":["10.0.0.2"],"name":"team/lan","mac":"02:00:00:00:00:01"},` +
					`{"default":true,"mac":"02:00:00:00:00:01","interface":"eth0","name":"cluster","ips":["10.244.0.2"]}]`
			},
		},
		"a status that another program writes": {status: func(string) string { return `{}` }},
		"addresses in another form and order": {
			now: func(o *publish.Observation) {
				o.Attached[1] = attachment("team/lan", "net1", mac, "fd00::1/64")
				o.Interfaces[1].Addresses = addresses("fd00::1/64")
			},
			status: func(s string) string {
				s = strings.Replace(s, "10.0.0.2", "FD00:0::1", 1)
				return strings.ReplaceAll(s, mac, strings.ToUpper(mac))
			},
		},
		"no address where another program writes some": {
			now: func(o *publish.Observation) {
				o.Attached[1].Result = json.RawMessage(fmt.Sprintf(
					`{"cniVersion":"1.0.0","interfaces":[{"name":"net1","mac":%q,"sandbox":%q}]}`, mac, netns))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, false)
			if !tc.first {
				if got, reports := n.settles(t); reports > 0 {
					t.Fatalf("reported at the begin: %s", got)
				}
			}
			if tc.now != nil {
				tc.now(&n.now)
			}
			if tc.status != nil {
				n.watch(tc.status(n.status))
			}
			want := 0
			if tc.want != "" {
				want = 1
			}
			if got, reports := n.settles(t); got != tc.want || reports != want {
				t.Errorf("%d reports, %q, want %q", reports, got, tc.want)
			}
		})
	}
}

// TestShortenedStatus checks that a status that is too long for the API server is not written again and again.
func TestShortenedStatus(t *testing.T) {
	t.Parallel()
	n := newNode(t, false)
	n.now.Attached[1].Result = json.RawMessage(fmt.Sprintf(`{"cniVersion":"1.0.0","interfaces":[{"name":"net1",`+
		`"sandbox":%q}],"dns":{"search":[%q]}}`, netns, strings.Repeat("d", publish.MaxStatus)))
	n.watch(statusOf(t, n.now.Attached))
	if got, reports := n.settles(t); reports > 0 {
		t.Errorf("reported: %s", got)
	}
}

// TestConfirmed checks that a difference is reported when the second comparison finds it, which comes soon, and that
// one that has passed by then is not reported.
func TestConfirmed(t *testing.T) {
	t.Parallel()
	n := newNode(t, false)
	n.compare(t)
	whole := n.now.Interfaces
	for range 3 {
		n.now.Interfaces = whole[:1]
		if got, _ := n.compare(t); got != "" || n.next != confirmAfter {
			t.Fatalf("reported at once: %q; next in %s", got, n.next)
		}
		n.now.Interfaces = whole
		if got, _ := n.compare(t); got != "" || n.next != time.Minute {
			t.Fatalf("reported after it has passed: %q; next in %s", got, n.next)
		}
	}
	n.now.Interfaces = whole[:1]
	n.compare(t)
	if got, _ := n.compare(t); got != "InterfaceLost" || n.next != time.Minute {
		t.Errorf("%q; next in %s", got, n.next)
	}
	if !n.Lost("c", "net1") || n.Lost("c", "eth0") || n.Lost("d", "net1") {
		t.Error("what is lost is not remembered")
	}
	n.now.Interfaces = whole
	n.compare(t)
	if got, _ := n.compare(t); got != "InterfaceRestored" || n.Lost("c", "net1") {
		t.Errorf("%q", got)
	}
}

// TestNotNow checks that nothing is reported while the API server is unavailable, the networks of the pod are being
// changed, or the watch is late, and that it is reported later (behaviour R29).
func TestNotNow(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(n *node, on bool){
		"no API server":     func(n *node, on bool) { n.apiDown = on },
		"a change":          func(n *node, on bool) { n.busy = on },
		"a pod without any": func(n *node, on bool) { n.without(on) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, true)
			n.compare(t)
			n.now.Interfaces = n.now.Interfaces[:1]
			set(n, true)
			for range 3 {
				if got, again := n.compare(t); got != "" || again != "" {
					t.Fatalf("%q, attach again %q", got, again)
				}
			}
			set(n, false)
			n.compare(t)
			n.compare(t)
			if got, _ := n.compare(t); got != "" || !n.Lost("c", "net1") {
				t.Errorf("%q is reported twice", got)
			}
		})
	}
	n := newNode(t, false)
	n.compare(t)
	n.now.Interfaces = n.now.Interfaces[:1]
	n.status = statusOf(t, n.now.Attached[:1]) // another program has written it
	n.compare(t)
	if got, _ := n.compare(t); got != "" {
		t.Errorf("reported although only the watch is late: %q", got)
	}
}

// without removes the network status of the pod, or puts it back.
func (n *node) without(on bool) {
	if on {
		n.Observe(&plan.Pod{Ref: plan.Ref{Namespace: "team", Name: "web"}, UID: "u"})
		return
	}
	n.deliver(n.status)
}

// TestOtherWriter checks that the status is corrected once if another program keeps writing it differently.
func TestOtherWriter(t *testing.T) {
	t.Parallel()
	n := newNode(t, false)
	theirs := strings.Replace(n.status, "10.0.0.2", "10.0.0.3", 1)
	reports := 0
	for i := range 10 {
		n.watch(strings.Replace(theirs, "[", fmt.Sprintf(`[{"name":"theirs","interface":"x","ips":["10.9.9.%d"]},`, i), 1))
		n.compare(t)
		reports += len(n.reports)
	}
	if reports != 1 {
		t.Errorf("written %d times", reports)
	}
}

// TestReattached checks which interfaces are attached again, and that this is repeated until they are there (behaviour
// R28).
func TestReattached(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		off   bool
		now   func(o *publish.Observation)
		again string
	}{
		"nothing is lost": {now: func(*publish.Observation) {}},
		"lost":            {now: func(o *publish.Observation) { o.Interfaces = o.Interfaces[:1] }, again: "net1"},
		"off":             {off: true, now: func(o *publish.Observation) { o.Interfaces = o.Interfaces[:1] }},
		"the cluster network": {
			now: func(o *publish.Observation) { o.Interfaces = o.Interfaces[1:] },
		},
		"a device that was seen": {
			now: func(o *publish.Observation) { o.Interfaces, o.Devices = o.Interfaces[:1], []string{"net1"} },
		},
		"an attempt that has failed": {
			now: func(o *publish.Observation) {
				o.Attached[1].Result = json.RawMessage(`{"cniVersion":"1.0.0"}`)
				o.Interfaces, o.Unfinished = o.Interfaces[:1], []string{"net1"}
			},
			again: "net1",
		},
		"an attempt that was killed when it was done": {
			now: func(o *publish.Observation) { o.Unfinished = []string{"net1"} }, again: "net1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, !tc.off)
			n.compare(t)
			tc.now(&n.now)
			if _, again := n.compare(t); again != "" {
				t.Errorf("attached again at once: %q", again)
			}
			for i := range 3 {
				if _, again := n.compare(t); again != tc.again {
					t.Errorf("attempt %d: attached again %q, want %q", i, again, tc.again)
				}
			}
		})
	}
}

// TestEvents checks the messages, and that an address which is only added is no warning.
func TestEvents(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reattach bool
		now      func(o *publish.Observation)
		typ      string
		message  string
	}{
		"lost": {
			now: func(o *publish.Observation) { o.Interfaces = o.Interfaces[:1] }, typ: publish.Warning,
			message: "interface net1 of network team/lan no longer exists in the pod. Delete the pod, so that it is created " +
				"again with its networks",
		},
		"lost, and attached again": {
			reattach: true, now: func(o *publish.Observation) { o.Interfaces = o.Interfaces[:1] }, typ: publish.Warning,
			message: "interface net1 of network team/lan no longer exists in the pod. It is attached again",
		},
		"one more address": {
			now: func(o *publish.Observation) { o.Interfaces[1].Addresses = addresses("10.0.0.2/24", "10.0.0.9/24") },
			typ: publish.Normal, message: "interface net1 of network team/lan has the addresses 10.0.0.2 10.0.0.9 instead of " +
				"10.0.0.2",
		},
		"no address and another MAC address": {
			now: func(o *publish.Observation) { o.Interfaces[1].Addresses, o.Interfaces[1].MAC = nil, other },
			typ: publish.Warning,
			message: "interface net1 of network team/lan has the addresses (none) instead of 10.0.0.2 and the MAC address " +
				other + " instead of " + mac,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, tc.reattach)
			n.compare(t)
			tc.now(&n.now)
			n.compare(t)
			n.compare(t)
			if len(n.reports) != 1 || len(n.reports[0].Events) != 1 {
				t.Fatalf("reports: %+v", n.reports)
			}
			if e := n.reports[0].Events[0]; e.Type != tc.typ || e.Message != tc.message {
				t.Errorf("%s %q, want %s %q", e.Type, e.Message, tc.typ, tc.message)
			}
		})
	}
}

// TestUnknownSandboxes checks that sandboxes of other pods are ignored, that an earlier sandbox is forgotten, and that
// a result which cannot be read is no difference.
func TestUnknownSandboxes(t *testing.T) {
	t.Parallel()
	n := newNode(t, true)
	n.now.Interfaces = n.now.Interfaces[:1]
	for _, of := range []request.Pod{
		{}, {Namespace: "team", Name: "web", UID: "v"}, {Namespace: "x", Name: "web", UID: "u"},
	} {
		n.now.Pod = of
		if got, reports := n.settles(t); reports > 0 {
			t.Errorf("%v: %s", of, got)
		}
	}
	n.now.Pod = request.Pod{Namespace: "team", Name: "web"} // a runtime that passes no UID
	n.now.Attached[1].Result = json.RawMessage(`{"cniVersion":"9.9.9"}`)
	if got, reports := n.settles(t); reports > 0 {
		t.Errorf("a result that cannot be read: %s", got)
	}
	n.now.Attached[1] = attachment("team/lan", "net1", mac, "10.0.0.2/24")
	n.compare(t)
	n.now.ContainerID = "d"
	if got, _ := n.compare(t); got != "" {
		t.Errorf("the difference of an earlier sandbox is confirmed: %s", got)
	}
	if got, _ := n.compare(t); got != "InterfaceLost" {
		t.Errorf("%q", got)
	}
	n.Gone(&plan.Pod{UID: "u"})
	if got, reports := n.settles(t); reports > 0 {
		t.Errorf("a pod that is gone: %s", got)
	}
}

// TestEndsInTime checks that a comparison that takes too long is left to the next one.
func TestEndsInTime(t *testing.T) {
	t.Parallel()
	n := newNode(t, false)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("too long"))
	n.now.Interfaces = nil
	for range 3 {
		if out := n.Compare(ctx, []*publish.Observation{&n.now}, true); len(out) > 0 || len(n.reports) > 0 {
			t.Errorf("%v, %v", out, n.reports)
		}
	}
	if n.next != time.Minute {
		t.Errorf("next in %s", n.next)
	}
}

// FuzzParse checks that no network status makes the comparison panic, and that one equals itself.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "[]", "{}", "[null]", `[{"name":1}]`, `[{"name":"n","interface":"i","ips":["::1","x"],"mac":"M","default":true}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, status string) {
		elements, ok := parse(status)
		if !ok && len(elements) > 0 {
			t.Errorf("%q: %v", status, elements)
		}
		again, _ := parse(status)
		if d := compare(elements, again, elements); len(d) > 0 {
			t.Errorf("%q differs from itself: %+v", status, d)
		}
	})
}
