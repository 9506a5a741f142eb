package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/testutil/eventually"
)

// differ returns changes by interface: what to remove, what to add as network and interface, and what is refused.
type differ struct {
	remove  []string
	add     [][2]string
	refused error
	stale   bool
	err     error
	// before is called before the changes are returned.
	before func()
	// had is what Diff was given last.
	had []plan.Attached
}

func (d *differ) Diff(_ context.Context, _ *request.Request, _ *config.Plugin, has []plan.Attached) (*plan.Changes,
	error,
) {
	d.had = has
	if d.before != nil {
		d.before()
	}
	if d.err != nil {
		return nil, d.err
	}
	c := &plan.Changes{Pod: request.Pod{Namespace: "team", Name: "web", UID: "u"}, Stale: d.stale}
	for _, ifName := range d.remove {
		if i := slices.IndexFunc(has, func(a plan.Attached) bool { return a.IfName == ifName }); i >= 0 {
			c.Remove = append(c.Remove, i)
		}
	}
	for _, a := range d.add {
		if slices.ContainsFunc(has, func(h plan.Attached) bool { return h.IfName == a[1] }) {
			continue
		}
		l, err := cniconf.Parse([]byte(`{"cniVersion":"1.1.0","name":"` + a[0] + `-net","type":"` + a[0] + `"}`))
		if err != nil {
			return nil, err
		}
		c.Add = append(c.Add, plan.Attachment{
			Name: "team/" + a[0], IfName: a[1], Config: l, Origin: plan.FromAnnotation,
		})
	}
	if d.refused != nil {
		c.Refused = []plan.Unplugged{{Name: "team/x", Err: d.refused}}
	}
	return c, nil
}

// killed makes a plugin fail at ADD, and end by a signal at DEL.
const killed = `test $CNI_COMMAND = DEL && kill -9 $$; echo '{"code":100,"msg":"no"}'; exit 1`

const refusesAdd = `test $CNI_COMMAND = ADD && { echo '{"code":100,"msg":"no"}'; exit 1; }`

// TestApply checks what is called, recorded and published when the networks of a running sandbox change. The sandbox
// has the networks first (net1) and second (net2).
func TestApply(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		differ differ
		does   map[string]string // what a plugin does
		called string
		// recorded lists the interfaces of the record afterwards, with "?" for pending ones.
		recorded string
		// status lists the interfaces of the published status, and reasons those of the events.
		status, reasons string
		// missing is what the condition of the pod's readiness gate names.
		missing string
		err     string
	}{
		"nothing to do": {recorded: "eth0 net1 net2"},
		"R2 removed in reverse, then added": {
			differ: differ{remove: []string{"net2", "net1"}, add: [][2]string{{"third", "net3"}, {"fourth", "net4"}}},
			called: "second DEL, first DEL, third ADD, fourth ADD", recorded: "eth0 net3 net4", status: "eth0 net3 net4",
			reasons: "RemovedInterface RemovedInterface AddedInterface AddedInterface",
		},
		"R2 the elements after a removed one keep their interfaces": {
			differ: differ{remove: []string{"net1"}}, called: "first DEL", recorded: "eth0 net2", status: "eth0 net2",
			reasons: "RemovedInterface",
		},
		"R8 recorded as pending before its delegate runs": {
			differ: differ{add: [][2]string{{"third", "net3"}}},
			does:   map[string]string{"third": `grep -q '"pending":true' $dir/state/c || exit 1`},
			called: "third ADD", recorded: "eth0 net1 net2 net3", status: "eth0 net1 net2 net3",
			reasons: "AddedInterface",
		},
		"R8 a failed addition is undone, and the others are made": {
			differ: differ{add: [][2]string{{"third", "net3"}, {"fourth", "net4"}}},
			does:   map[string]string{"third": refusesAdd},
			called: "third ADD, third DEL, fourth ADD", recorded: "eth0 net1 net2 net4", status: "eth0 net1 net2 net4",
			reasons: "FailedAddingInterface AddedInterface", missing: "team/third (interface net3)", err: "team/third",
		},
		"R8 what cannot be undone stays pending": {
			differ: differ{add: [][2]string{{"third", "net3"}}},
			does:   map[string]string{"third": killed},
			called: "third ADD, third DEL", recorded: "eth0 net1 net2 net3?",
			reasons: "FailedAddingInterface", missing: "team/third (interface net3)", err: "is repeated",
		},
		"R8 a refused network": {
			differ: differ{refused: errors.New("no device")}, recorded: "eth0 net1 net2",
			reasons: "FailedAddingInterface", missing: "team/x", err: "no device",
		},
		"R2 a failed removal stays pending": {
			differ: differ{remove: []string{"net2", "net1"}},
			does:   map[string]string{"second": `echo '{"code":100,"msg":"no"}'; exit 1`},
			called: "second DEL, first DEL", recorded: "eth0 net2?", status: "eth0",
			reasons: "FailedRemovingInterface RemovedInterface", err: "net2",
		},
		"R9 a pod whose annotation cannot be read": {
			differ: differ{err: fault.AnnotationInvalid.New("k", "p")}, recorded: "eth0 net1 net2",
			reasons: "InterfaceAddRejected", err: "annotation",
		},
		"R9 without the daemon": {
			differ: differ{err: fault.DaemonUnavailable.New("p")}, recorded: "eth0 net1 net2", err: "daemon",
		},
		"R8 a status that was not written": {
			differ: differ{stale: true}, recorded: "eth0 net1 net2", status: "eth0 net1 net2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, r := newRunning(t)
			n.engine.deps.Differ = &tc.differ
			for plugin, script := range tc.does {
				n.does(t, plugin, script)
			}
			err := n.apply(t)
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if got := strings.ReplaceAll(n.called(t), " c", ""); got != tc.called {
				t.Errorf("called: %s, want %s", got, tc.called)
			}
			if got := n.interfaces(t); got != tc.recorded {
				t.Errorf("recorded: %s, want %s", got, tc.recorded)
			}
			status, reasons := shownOf(r.got)
			if status != tc.status || reasons != tc.reasons {
				t.Errorf("published: status %s, want %s; events %s, want %s", status, tc.status, reasons, tc.reasons)
			}
			if got := missingOf(r.got); got != tc.missing { // behaviour R31
				t.Errorf("missing: %q, want %q", got, tc.missing)
			}
			for plugin := range tc.does {
				n.does(t, plugin, "")
			}
			if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil || n.recorded(t, "c") {
				t.Errorf("DEL after it: %v; recorded: %t", err, n.recorded(t, "c"))
			}
			if entries, _ := os.ReadDir(ledger.ResultsDir(n.store.Dir)); len(entries) > 0 {
				t.Errorf("%d results are left", len(entries))
			}
		})
	}
}

// newRunning returns a node with the running sandbox c, which has the cluster network, first and second.
func newRunning(t *testing.T) (*node, *published) {
	t.Helper()
	n, r := newNode(t, "cluster", "first", "second", "third", "fourth"), &published{}
	n.engine.deps.Planner = planned{
		`{"cniVersion":"1.0.0","name":"a","type":"first"}`, `{"cniVersion":"1.0.0","name":"b","type":"second"}`,
	}
	n.engine.deps.Publisher, n.engine.deps.Netns = r, interfaces{}
	if _, err := n.engine.Add(t.Context(), n.request(request.Add, "c", "")); err != nil {
		t.Fatal(err)
	}
	n.engine.deps.Netns = interfaces{"eth0"}
	_ = n.called(t)
	r.got = nil
	return n, r
}

func (n *node) apply(t *testing.T) error {
	t.Helper()
	return n.engine.Apply(t.Context(), n.request(request.Update, "c", ""), "")
}

// interfaces lists the interfaces of the record of c.
func (n *node) interfaces(t *testing.T) string {
	t.Helper()
	r, err := n.store.Read("c", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range r.Attachments {
		name := r.Attachments[i].IfName
		if r.Attachments[i].Pending {
			name += "?"
		}
		if r.Attachments[i].Reattaching {
			name += "~"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// shownOf returns the interfaces of the last published status, and the reasons of all events.
func shownOf(reports []*publish.Report) (status, reasons string) {
	var all []string
	for _, r := range reports {
		if r.HasStatus() {
			status = ""
			for i := range r.Attached {
				status += " " + r.Attached[i].IfName
			}
		}
		for _, e := range r.Events {
			all = append(all, e.Reason)
		}
	}
	return strings.TrimSpace(status), strings.Join(all, " ")
}

// missingOf returns what the last published report names as missing.
func missingOf(reports []*publish.Report) string {
	if len(reports) == 0 || reports[len(reports)-1].Unready == nil {
		return ""
	}
	return strings.TrimPrefix(reports[len(reports)-1].Unready.Message, "not attached: ")
}

// TestApplyAfterKill checks that what a killed process has left pending is deleted and then attached again (behaviour
// R8).
func TestApplyAfterKill(t *testing.T) {
	t.Parallel()
	n, r := newRunning(t)
	d := &differ{add: [][2]string{{"third", "net3"}}}
	n.engine.deps.Differ = d
	n.does(t, "third", killed) // neither ADD nor the undo succeeds, as after a kill
	if err := n.apply(t); err == nil {
		t.Fatal("no error")
	}
	n.does(t, "third", "")
	_ = n.called(t)
	if err := n.apply(t); err != nil {
		t.Fatal(err)
	}
	if got, want := n.called(t), "third DEL c, third ADD c"; got != want {
		t.Errorf("called: %s, want %s", got, want)
	}
	if len(d.had) != 3 || n.interfaces(t) != "eth0 net1 net2 net3" {
		t.Errorf("compared %d attachments, recorded: %s", len(d.had), n.interfaces(t))
	}
	if status, _ := shownOf(r.got); status != "eth0 net1 net2 net3" {
		t.Errorf("status: %s", status)
	}
}

// TestApplyKeepsOnAfterPending checks that a network whose undo keeps failing does not keep other networks from being
// attached and deleted (behaviour R8), and that it is not attached a second time meanwhile.
func TestApplyKeepsOnAfterPending(t *testing.T) {
	t.Parallel()
	n, _ := newRunning(t)
	d := &differ{add: [][2]string{{"third", "net3"}}}
	n.engine.deps.Differ = d
	n.does(t, "third", killed)
	if err := n.apply(t); err == nil {
		t.Fatal("no error")
	}
	_ = n.called(t)
	d.add, d.remove = append(d.add, [2]string{"fourth", "net4"}), []string{"net1"}
	if err := n.apply(t); err == nil || !strings.Contains(err.Error(), "net3") {
		t.Errorf("error %v, want one about net3", err)
	}
	if got, want := n.called(t), "third DEL c, first DEL c, fourth ADD c"; got != want {
		t.Errorf("called: %s, want %s", got, want)
	}
	if got, want := n.interfaces(t), "eth0 net2 net3? net4"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
}

// TestApplyRequestedAgain checks that a network is attached again which is requested again after its removal has begun:
// the removal was interrupted, or has failed, and may have deleted the interface (behaviour R8).
func TestApplyRequestedAgain(t *testing.T) {
	t.Parallel()
	n, r := newRunning(t)
	d := &differ{remove: []string{"net2"}}
	n.engine.deps.Differ = d
	n.does(t, "second", `test $CNI_COMMAND = DEL && kill -9 $$`)
	if err := n.apply(t); err == nil {
		t.Fatal("no error")
	}
	if status, _ := shownOf(r.got); status != "eth0 net1" {
		t.Errorf("status during the removal: %s", status)
	}
	n.does(t, "second", "")
	_ = n.called(t)
	d.remove, d.add = nil, [][2]string{{"second", "net2"}}
	if err := n.apply(t); err != nil {
		t.Fatal(err)
	}
	if got, want := n.called(t), "second DEL c, second ADD c"; got != want {
		t.Errorf("called: %s, want %s", got, want)
	}
	if status, _ := shownOf(r.got); status != "eth0 net1 net2" || n.interfaces(t) != "eth0 net1 net2" {
		t.Errorf("status: %s; recorded: %s", status, n.interfaces(t))
	}
}

// TestApplyWaitsForGC checks that no network is attached to a running pod while plugins free what is not on the list of
// a GC: its addresses would not be on it (behaviour R13).
func TestApplyWaitsForGC(t *testing.T) {
	t.Parallel()
	n, _ := newRunning(t)
	d := &differ{add: [][2]string{{"third", "net3"}}}
	n.engine.deps.Differ = d
	if err := n.apply(t); err != nil { // so that the network is known to GC
		t.Fatal(err)
	}
	d.add, d.remove = nil, []string{"net3"}
	if err := n.apply(t); err != nil {
		t.Fatal(err)
	}
	_ = n.called(t)
	n.does(t, "third", `test $CNI_COMMAND = GC && { touch $dir/begun; until test -e $dir/end; do sleep 0.01; done; }`)
	ended := make(chan error, 1)
	go func() {
		ended <- n.engine.GC(context.WithoutCancel(t.Context()), n.request(request.GC, "", valid("c")))
	}()
	eventually.True(t, "GC of third", func() bool {
		_, err := os.Stat(filepath.Join(n.dir, "begun"))
		return err == nil
	})
	d.add, d.remove = [][2]string{{"third", "net3"}}, nil
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := n.engine.Apply(soon, n.request(request.Update, "c", ""), ""); err == nil {
		t.Error("a network is attached during GC")
	}
	if err := os.WriteFile(filepath.Join(n.dir, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("GC: %v", err)
	}
	if err := n.apply(t); err != nil || n.interfaces(t) != "eth0 net1 net2 net3" {
		t.Errorf("after it: %v, recorded: %s", err, n.interfaces(t))
	}
}

// TestApplyWithoutRecord checks that nothing more is changed if the record disappears during a change: what is not
// recorded would be forgotten by DEL.
func TestApplyWithoutRecord(t *testing.T) {
	t.Parallel()
	n, r := newRunning(t)
	n.engine.deps.Differ = &differ{remove: []string{"net2", "net1"}, add: [][2]string{{"third", "net3"}}}
	n.does(t, "second", `test $CNI_COMMAND = DEL && rm -r $dir/state/c $dir/state/results`)
	if err := n.apply(t); err == nil || !strings.Contains(err.Error(), "record") {
		t.Errorf("error %v, want one about the record", err)
	}
	if got, want := n.called(t), "second DEL c"; got != want {
		t.Errorf("called: %s, want %s", got, want)
	}
	if status, _ := shownOf(r.got); status != "" {
		t.Errorf("status: %s", status)
	}
}

// TestApplyLeavesAlone checks that a sandbox is not changed once its DEL has begun, after it is gone, or if another
// operation has changed it in the meantime (behaviour R11).
func TestApplyLeavesAlone(t *testing.T) {
	t.Parallel()
	change := func() differ { return differ{remove: []string{"net1"}, add: [][2]string{{"third", "net3"}}} }
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, n *node)
		during  func(t *testing.T, n *node)
		want    error
	}{
		"no namespace": {prepare: func(_ *testing.T, n *node) { n.engine.deps.Netns = interfaces{} }},
		"a DEL has begun": {prepare: func(t *testing.T, n *node) {
			t.Helper()
			n.does(t, "cluster", `test $CNI_COMMAND = DEL && { echo '{"code":100,"msg":"no"}'; exit 1; }`)
			if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err == nil {
				t.Fatal("the DEL succeeds")
			}
		}},
		"a DEL meanwhile": {during: func(t *testing.T, n *node) {
			t.Helper()
			if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil {
				t.Fatal(err)
			}
		}},
		"another change meanwhile": {want: ErrChanged, during: func(t *testing.T, n *node) {
			t.Helper()
			r, err := n.store.Read("c", "eth0")
			if err == nil {
				err = n.store.Drop(r, &r.Attachments[2])
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, _ := newRunning(t)
			d := change()
			n.engine.deps.Differ = &d
			if tc.prepare != nil {
				tc.prepare(t, n)
			}
			if tc.during != nil {
				d.before = func() {
					tc.during(t, n)
					_ = n.called(t)
				}
			}
			_ = n.called(t)
			if err := n.apply(t); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if got := n.called(t); got != "" {
				t.Errorf("called: %s", got)
			}
		})
	}
}
