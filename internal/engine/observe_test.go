package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"multus/internal/engine/ledger"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fsx"
	"multus/internal/link"
)

// observed returns what is observed of the sandboxes of a node.
func (n *node) observed(t *testing.T) (out []*publish.Observation) {
	t.Helper()
	err := n.engine.Observe(t.Context(), n.request(request.Update, "", ""), "", func(o *publish.Observation) {
		out = append(out, o)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// gone are the namespaces of a node whose sandboxes are gone.
type gone struct{ interfaces }

func (gone) Interfaces(string) ([]publish.Interface, error) { return nil, link.ErrNoNamespace }

// TestObserve checks which sandboxes are observed (behaviour R29): not those with an operation under way, those whose
// record does not permit changes, and those that are gone. Those in which a change was interrupted are only reported
// (behaviour R33).
func TestObserve(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, n *node)
		want    string // interfaces of the attachments
	}{
		"running":               {want: "eth0 net1 net2"},
		"the namespace is gone": {prepare: func(_ *testing.T, n *node) { n.engine.deps.Netns = gone{} }},
		"an operation": {prepare: func(t *testing.T, n *node) {
			t.Helper()
			n.lockSandbox(t)
		}},
		"a DEL has begun": {prepare: func(t *testing.T, n *node) {
			t.Helper()
			n.does(t, "cluster", `test $CNI_COMMAND = DEL && { echo '{"code":100,"msg":"no"}'; exit 1; }`)
			if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err == nil {
				t.Fatal("the DEL succeeds")
			}
		}},
		"a change was killed": {
			want: "pending", prepare: func(t *testing.T, n *node) { t.Helper(); n.mark(t, (*ledger.Store).MarkPending) },
		},
		"a change was killed, and an operation": {want: "pending", prepare: func(t *testing.T, n *node) {
			t.Helper()
			n.mark(t, (*ledger.Store).MarkPending)
			n.lockSandbox(t)
		}},
		"an ADD was killed": {prepare: func(t *testing.T, n *node) {
			t.Helper()
			if err := fsx.Remove(ledger.ResultsDir(n.store.Dir) + "/b-c-net2"); err != nil {
				t.Fatal(err)
			}
		}},
		"another boot": {prepare: func(_ *testing.T, n *node) { n.engine.deps.Boot = "another" }},
		"an interface is being attached again": {
			want: "eth0 net1 net2?", prepare: func(t *testing.T, n *node) {
				t.Helper()
				n.mark(t, func(s *ledger.Store, r *ledger.Record, a *ledger.Attachment) error {
					return s.MarkReattaching(r, a, true)
				})
				if err := fsx.Remove(ledger.ResultsDir(n.store.Dir) + "/b-c-net2"); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, _ := newRunning(t)
			if tc.prepare != nil {
				tc.prepare(t, n)
			}
			got := ""
			for _, o := range n.observed(t) {
				if o.ContainerID != "c" {
					t.Errorf("%+v", o)
				}
				if o.Pending {
					got += " pending"
				}
				for _, a := range o.Attached {
					got += " " + a.IfName
					if slices.Contains(o.Unfinished, a.IfName) {
						got += "?"
					}
				}
			}
			if got = strings.TrimSpace(got); got != tc.want {
				t.Errorf("observed: %s, want %s", got, tc.want)
			}
		})
	}
}

// lockSandbox holds the lock of the sandbox until the test ends.
func (n *node) lockSandbox(t *testing.T) {
	t.Helper()
	l, err := fsx.TryAcquire(n.engine.deps.LockFile, "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Release() })
}

// mark changes the element of net2.
func (n *node) mark(t *testing.T, change func(*ledger.Store, *ledger.Record, *ledger.Attachment) error) {
	t.Helper()
	r, err := n.store.Read("c", "eth0")
	if err == nil {
		err = change(n.store, r, &r.Attachments[2])
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestObserveWithoutRecords checks that a node on which nothing was ever attached has nothing to observe.
func TestObserveWithoutRecords(t *testing.T) {
	t.Parallel()
	if got := newNode(t, "cluster").observed(t); len(got) > 0 {
		t.Errorf("%+v", got)
	}
}

// TestReattach checks what is called, recorded and published when the interface of second (net2) is lost (behaviour
// R28).
func TestReattach(t *testing.T) {
	t.Parallel()
	pending := func(t *testing.T, n *node) {
		t.Helper()
		n.mark(t, func(s *ledger.Store, r *ledger.Record, a *ledger.Attachment) error {
			return s.MarkReattaching(r, a, true)
		})
	}
	for name, tc := range map[string]struct {
		ifNames []string
		there   interfaces // interfaces of the sandbox beside eth0
		prepare func(t *testing.T, n *node)
		second  string // what the plugin does
		called  string
		// recorded lists the interfaces of the record afterwards, with "~" for those that have to be attached again.
		recorded, status, reasons, err string
	}{
		"lost": {
			called: "second DEL, second ADD", recorded: "eth0 net1 net2", status: "eth0 net1 net2", reasons: "InterfaceRestored",
		},
		"recorded before its delegate runs": {
			second: `grep -q '"reattaching":true' $dir/state/c || exit 1`,
			called: "second DEL, second ADD", recorded: "eth0 net1 net2", status: "eth0 net1 net2", reasons: "InterfaceRestored",
		},
		"it is there": {there: interfaces{"net2"}, recorded: "eth0 net1 net2"},
		"a killed attempt that has made the interface": {
			there: interfaces{"net2"}, prepare: func(t *testing.T, n *node) {
				t.Helper()
				pending(t, n)
				if err := fsx.Remove(ledger.ResultsDir(n.store.Dir) + "/b-c-net2"); err != nil {
					t.Fatal(err)
				}
			},
			called: "second DEL, second ADD", recorded: "eth0 net1 net2", status: "eth0 net1 net2", reasons: "InterfaceRestored",
		},
		"a killed attempt that was done": {
			there: interfaces{"net2"}, prepare: pending,
			recorded: "eth0 net1 net2", status: "eth0 net1 net2", reasons: "InterfaceRestored",
		},
		"it cannot be attached": {
			second: refusesAdd, called: "second DEL, second ADD, second DEL", recorded: "eth0 net1 net2~",
			reasons: "FailedAddingInterface", err: `network "team/b" (interface net2)`,
		},
		"it cannot be deleted": {
			second: `test $CNI_COMMAND = DEL && kill -9 $$`, called: "second DEL", recorded: "eth0 net1 net2~",
			reasons: "FailedAddingInterface", err: `network "team/b" (interface net2)`,
		},
		"the cluster network":    {ifNames: []string{"eth0"}, recorded: "eth0 net1 net2"},
		"nothing of the sandbox": {ifNames: []string{"net9", ""}, recorded: "eth0 net1 net2"},
		"a sandbox without eth0": {
			prepare: func(_ *testing.T, n *node) { n.engine.deps.Netns = interfaces{} }, recorded: "eth0 net1 net2",
		},
		"another change was killed": {
			prepare:  func(t *testing.T, n *node) { t.Helper(); n.mark(t, (*ledger.Store).MarkPending) },
			recorded: "eth0 net1 net2?",
		},
		"another operation under way": {recorded: "eth0 net1 net2", prepare: func(t *testing.T, n *node) {
			t.Helper()
			l, err := fsx.TryAcquire(n.engine.deps.LockFile, "c")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Release() })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, r := newRunning(t)
			n.engine.deps.Netns = append(interfaces{"eth0"}, tc.there...)
			if tc.prepare != nil {
				tc.prepare(t, n)
			}
			n.does(t, "second", tc.second)
			if tc.ifNames == nil {
				tc.ifNames = []string{"net2"}
			}
			err := n.engine.Reattach(t.Context(), n.request(request.Update, "c", ""), "",
				request.Pod{Namespace: "team", Name: "web", UID: "u"}, tc.ifNames)
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
		})
	}
}

// TestReattachRepeated checks that a failed attempt is repeated, that a change of the pod's networks leaves it alone
// meanwhile, and that a DEL frees everything.
func TestReattachRepeated(t *testing.T) {
	t.Parallel()
	n, r := newRunning(t)
	again := func() error {
		return n.engine.Reattach(t.Context(), n.request(request.Update, "c", ""), "", request.Pod{}, []string{"net2"})
	}
	n.does(t, "second", refusesAdd)
	if err := errors.Join(again(), again()); err == nil {
		t.Fatal("no error")
	}
	n.engine.deps.Differ = &differ{add: [][2]string{{"third", "net3"}}}
	if err := n.apply(t); err != nil {
		t.Fatal(err)
	}
	if got, want := n.interfaces(t), "eth0 net1 net2~ net3"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
	_ = n.called(t)
	n.does(t, "second", "")
	r.got = nil
	if err := again(); err != nil {
		t.Fatal(err)
	}
	if got, want := n.called(t), "second DEL c, second ADD c"; got != want {
		t.Errorf("called: %s, want %s", got, want)
	}
	if status, _ := shownOf(r.got); status != "eth0 net1 net2 net3" {
		t.Errorf("status: %s", status)
	}
	n.does(t, "second", refusesAdd)
	if err := again(); err == nil {
		t.Fatal("no error")
	}
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil || n.recorded(t, "c") {
		t.Errorf("DEL: %v; recorded: %t", err, n.recorded(t, "c"))
	}
}
