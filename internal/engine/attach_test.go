package engine

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// interfaces are those of every network namespace. The delegates of these tests create none.
type interfaces []string

func (n interfaces) CheckFree(r *ledger.Record) error {
	for i := range r.Attachments {
		if slices.Contains(n, r.Attachments[i].IfName) {
			return fault.InterfaceExists.New("n", r.Attachments[i].IfName, r.Netns)
		}
	}
	return nil
}

func (n interfaces) HasInterface(_, ifName string) (bool, error) {
	return slices.Contains(n, ifName), nil
}

func (n interfaces) Interfaces(string) (out []publish.Interface, _ error) {
	for _, name := range n {
		out = append(out, publish.Interface{Name: name})
	}
	return out, nil
}

// planned is a Planner whose plans have the cluster network and networks of other configurations.
type planned []string

func (configs planned) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	p, err := planner{}.Plan(ctx, req, conf)
	if err != nil {
		return nil, err
	}
	p.Pod = request.Pod{Namespace: "team", Name: "web", UID: "u"}
	for i, b := range configs {
		l, err := cniconf.Parse([]byte(b))
		if err != nil {
			return nil, err
		}
		p.Attachments = append(p.Attachments, plan.Attachment{
			Name: "team/" + l.Name(), IfName: "net" + strconv.Itoa(i+1), Config: l,
		})
	}
	return p, nil
}

// published keeps what is published. It returns err for reports with a status.
type published struct {
	got []*publish.Report
	err error
}

func (r *published) Publish(_ context.Context, report *publish.Report) error {
	r.got = append(r.got, report)
	if report.HasStatus() {
		return r.err
	}
	return nil
}

// TestAdd checks what is attached, recorded, published and undone. It needs no network namespace.
func TestAdd(t *testing.T) {
	t.Parallel()
	const (
		first  = `{"cniVersion":"1.0.0","name":"a","type":"first"}`
		second = `{"cniVersion":"1.0.0","name":"b","type":"second"}`
	)
	away := errors.New("away")
	for name, tc := range map[string]struct {
		networks planned
		present  interfaces
		fails    string // the plugin whose ADD fails
		lost     error  // the error of the status
		code     uint   // 0 for success
		message  string // a part of it
		next     string
		called   string
		recorded bool
		status   bool
	}{
		"a plain pod": {called: "cluster ADD c", recorded: true, status: true},
		"in the order of the annotation": {
			networks: planned{first, second}, called: "cluster ADD c, first ADD c, second ADD c",
			recorded: true, status: true,
		},
		"a failure is undone in reverse": {
			networks: planned{first, second}, fails: "second", code: 100, recorded: true,
			called: "cluster ADD c, first ADD c, second ADD c, second DEL c, first DEL c, cluster DEL c",
		},
		"an attachment that was not begun is not undone": {
			networks: planned{first, second}, fails: "first", code: 100, recorded: true,
			called: "cluster ADD c, first ADD c, first DEL c, cluster DEL c",
		},
		"an interface that exists": {networks: planned{first}, present: interfaces{"net1"}, code: fault.Internal},
		"a configuration that libcni refuses": {
			networks: planned{first, `{"cniVersion":"1.0.0","name":"b","type":"second","capabilities":["ips"]}`},
			code:     fault.BadConfig,
			message:  "network team/b of pod container c: CNI does not accept its configuration: ",
			next:     "correct the network's configuration: multusctl lint shows the place",
		},
		"a lost status of a pod with networks": {
			networks: planned{first}, lost: away, code: fault.TryAgain, recorded: true, status: true,
			called: "cluster ADD c, first ADD c, first DEL c, cluster DEL c",
		},
		"a lost status of a plain pod": {lost: away, called: "cluster ADD c", recorded: true, status: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "first", "second")
			r := &published{err: tc.lost}
			n.engine.deps.Planner, n.engine.deps.Publisher, n.engine.deps.Netns = tc.networks, r, tc.present
			if tc.fails != "" {
				n.does(t, tc.fails, `test $CNI_COMMAND = ADD && { echo '{"code":100,"msg":"no"}'; exit 1; }`)
			}
			res, err := n.engine.Add(t.Context(), n.request(request.Add, "c", ""))
			if tc.code == 0 && (err != nil || res == nil) || tc.code != 0 && (err == nil || fault.ToCNI(err).Code != tc.code) {
				t.Errorf("%v, %v, want code %d", res, err, tc.code)
			}
			if err != nil && !strings.Contains(err.Error(), tc.message) || err != nil &&
				!strings.Contains(err.Error(), tc.next) {
				t.Errorf("%v, want %q and %q", err, tc.message, tc.next)
			}
			if got := n.called(t); got != tc.called {
				t.Errorf("called: %s, want %s", got, tc.called)
			}
			if n.recorded(t, "c") != tc.recorded {
				t.Errorf("recorded: %t", !tc.recorded)
			}
			status := slices.ContainsFunc(r.got, func(r *publish.Report) bool {
				return r.HasStatus() && len(r.Attached) == len(tc.networks)+1
			})
			if status != tc.status {
				t.Errorf("published a status of all networks: %t", status)
			}
			n.engine.deps.Netns = interfaces{}
			if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil || n.recorded(t, "c") {
				t.Errorf("DEL after it: %v; recorded: %t", err, n.recorded(t, "c"))
			}
		})
	}
}

// TestWaitForStatus checks that the pod waits for its status only if the plan says so (behaviour D122).
func TestWaitForStatus(t *testing.T) {
	t.Parallel()
	for _, wait := range []bool{false, true} {
		n, r := newNode(t, "cluster", "first"), &published{}
		n.engine.deps.Planner, n.engine.deps.Publisher = waiting{planned{`{"cniVersion":"1.0.0","name":"a","type":"first"}`}, wait}, r
		n.engine.deps.Netns = interfaces{}
		if _, err := n.engine.Add(t.Context(), n.request(request.Add, "c", "")); err != nil {
			t.Fatal(err)
		}
		if len(r.got) != 1 || r.got[0].Wait != wait || !r.got[0].Needed {
			t.Errorf("statusWait %t: published %+v", wait, r.got)
		}
	}
}

// waiting makes the plans of planned with this statusWait.
type waiting struct {
	planned
	wait bool
}

func (p waiting) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	out, err := p.planned.Plan(ctx, req, conf)
	if err == nil {
		out.StatusWait = p.wait
	}
	return out, err
}

// TestAddAfterKill checks that ADD frees what an earlier ADD of the same container left, but not while that is
// attached.
func TestAddAfterKill(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		present interfaces
		called  string
	}{
		"nothing is attached": {nil, "other DEL c, cluster DEL c, cluster ADD c"},
		"it is attached":      {interfaces{"eth0"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			n.attached(t, "c", "other", "1.0.0", filepath.Join(n.dir, "netns", "c"), "now")
			n.engine.deps.Netns = tc.present
			_, err := n.engine.Add(t.Context(), n.request(request.Add, "c", ""))
			if (err == nil) != (tc.called != "") {
				t.Error(err)
			}
			if got := n.called(t); got != tc.called {
				t.Errorf("called: %s, want %s", got, tc.called)
			}
		})
	}
}
