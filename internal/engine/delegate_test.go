package engine

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// delegateCase is a request for one network of the running sandbox c, which has the networks a (first, net1) and b
// (second, net2).
type delegateCase struct {
	// command is ADD, DEL or CHECK, of interface ifName and, for the last two, of the network with this name.
	command, ifName, network string
	differ                   differ
	does                     map[string]string // what a plugin does
	prepare                  func(t *testing.T, n *node)
	called                   string
	// recorded lists the interfaces of the record afterwards, with "?" for pending ones. reasons are those of the events.
	recorded, reasons string
	err               string
}

const refusesDel = `test $CNI_COMMAND = DEL && { echo '{"code":100,"msg":"no"}'; exit 1; }`

var third = differ{add: [][2]string{{"third", "net3"}}}

// hasThird attaches third (net3) for the pod. The other networks are those of the node.
func hasThird(t *testing.T, n *node) {
	t.Helper()
	d := third
	if _, err := n.engine.Attach(t.Context(), n.request(request.Update, "c", ""), "", &d, "net3"); err != nil {
		t.Fatal(err)
	}
}

var delegateCases = map[string]delegateCase{
	"R21 ADD": {
		command: "ADD", ifName: "net3", differ: third, does: map[string]string{"third": `grep -q '"pending":true' $dir/state/c || exit 1`},
		called: "third ADD", recorded: "eth0 net1 net2 net3", reasons: "AddedInterface",
	},
	"R21 ADD of what is attached": {
		command: "ADD", ifName: "net2", recorded: "eth0 net1 net2",
	},
	"R21 ADD that the daemon refuses": {
		command: "ADD", ifName: "net3", differ: differ{err: fault.DelegateNotRequested.New("p", "net3")},
		recorded: "eth0 net1 net2", err: "requests no network with interface net3",
	},
	"R21 ADD that fails is undone": {
		command: "ADD", ifName: "net3", differ: third, does: map[string]string{"third": refusesAdd},
		called: "third ADD, third DEL", recorded: "eth0 net1 net2", err: "team/third",
	},
	"R21 ADD that cannot be undone stays pending": {
		command: "ADD", ifName: "net3", differ: third, does: map[string]string{"third": killed},
		called: "third ADD, third DEL", recorded: "eth0 net1 net2 net3?", err: "is repeated",
	},
	"R21 ADD after one that was killed": {
		command: "ADD", ifName: "net3", differ: third, called: "third DEL, third ADD", recorded: "eth0 net1 net2 net3",
		reasons: "AddedInterface", prepare: func(t *testing.T, n *node) {
			t.Helper()
			n.does(t, "third", killed)
			d := third
			if _, err := n.engine.Attach(t.Context(), n.request(request.Update, "c", ""), "", &d, "net3"); err == nil {
				t.Fatal("no error")
			}
			n.does(t, "third", "")
		},
	},
	"an answer that removes something": {
		command: "ADD", ifName: "net3", differ: differ{remove: []string{"net1"}, add: third.add},
		recorded: "eth0 net1 net2", err: "changes more than interface net3",
	},
	"an answer that adds another interface": {
		command: "ADD", ifName: "net4", differ: third, recorded: "eth0 net1 net2", err: "changes more than interface net4",
	},
	"an answer that adds nothing": {
		command: "ADD", ifName: "net4", recorded: "eth0 net1 net2", err: "does not add interface net4",
	},
	"R22 DEL": {
		command: "DEL", ifName: "net3", network: "third-net", prepare: hasThird, called: "third DEL",
		recorded: "eth0 net1 net2",
	},
	"R22 DEL without the name of the network": {
		command: "DEL", ifName: "net3", prepare: hasThird, called: "third DEL", recorded: "eth0 net1 net2",
	},
	"R22 DEL of what is not attached": {
		command: "DEL", ifName: "net7", network: "b", recorded: "eth0 net1 net2",
	},
	"R22 DEL of another network with the same interface": {
		command: "DEL", ifName: "net3", network: "a", prepare: hasThird, recorded: "eth0 net1 net2 net3",
	},
	"R22 DEL of the cluster network": {
		command: "DEL", ifName: "eth0", recorded: "eth0 net1 net2", err: "is that of the node's configuration",
	},
	"R22 DEL of a network of the node": {
		command: "DEL", ifName: "net2", network: "b", recorded: "eth0 net1 net2", err: "is that of the node's configuration",
	},
	"R22 DEL that fails stays pending": {
		command: "DEL", ifName: "net3", prepare: hasThird, does: map[string]string{"third": refusesDel}, called: "third DEL",
		recorded: "eth0 net1 net2 net3?", err: "no",
	},
	"R22 DEL in a sandbox that is gone": {
		command: "DEL", ifName: "net2", recorded: "eth0 net1 net2", prepare: func(_ *testing.T, n *node) {
			n.engine.deps.Netns = interfaces{}
		},
	},
	"R21 ADD in a sandbox that is gone": {
		command: "ADD", ifName: "net3", differ: third, recorded: "eth0 net1 net2", err: "cannot be changed",
		prepare: func(_ *testing.T, n *node) { n.engine.deps.Netns = interfaces{} },
	},
	"R22 CHECK": {
		command: "CHECK", ifName: "net2", network: "b", called: "second CHECK", recorded: "eth0 net1 net2",
	},
	"R22 CHECK that fails": {
		command: "CHECK", ifName: "net2", does: map[string]string{"second": `echo '{"code":100,"msg":"no"}'; exit 1`},
		called: "second CHECK", recorded: "eth0 net1 net2", err: "failed its CHECK",
	},
	"R22 CHECK of what is not attached": {
		command: "CHECK", ifName: "net3", recorded: "eth0 net1 net2", err: "is not attached",
	},
}

// delegate runs the request of a case, and returns the result of an ADD.
func (n *node) delegate(t *testing.T, tc *delegateCase) (json.RawMessage, error) {
	t.Helper()
	req := n.request(request.Update, "c", "")
	switch tc.command {
	case "ADD":
		return n.engine.Attach(t.Context(), req, "", &tc.differ, tc.ifName)
	case "DEL":
		return nil, n.engine.Detach(t.Context(), req, "", tc.ifName, tc.network)
	}
	return nil, n.engine.CheckOne(t.Context(), req, "", tc.ifName, tc.network)
}

// TestDelegate checks what is called, recorded and published for a request for one network of a running sandbox, and
// that DEL of the pod frees all afterwards.
func TestDelegate(t *testing.T) {
	t.Parallel()
	for name, tc := range delegateCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, r := newRunning(t)
			if tc.prepare != nil {
				tc.prepare(t, n)
				_, r.got = n.called(t), nil
			}
			for plugin, script := range tc.does {
				n.does(t, plugin, script)
			}
			result, err := n.delegate(t, &tc)
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if tc.command == "ADD" && err == nil && !strings.Contains(string(result), `"cniVersion":"1.1.0"`) {
				t.Errorf("result %s", result)
			}
			if got := strings.ReplaceAll(n.called(t), " c", ""); got != tc.called {
				t.Errorf("called: %s, want %s", got, tc.called)
			}
			if got := n.interfaces(t); got != tc.recorded {
				t.Errorf("recorded: %s, want %s", got, tc.recorded)
			}
			if status, reasons := shownOf(r.got); status != "" || reasons != tc.reasons {
				t.Errorf("published: status %q; events %s, want %s", status, reasons, tc.reasons)
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

// TestDelegateIsFound checks that the comparison of the annotation finds what was attached, as a network of the pod
// (behaviour R24).
func TestDelegateIsFound(t *testing.T) {
	t.Parallel()
	n, _ := newRunning(t)
	hasThird(t, n)
	compared := &differ{}
	n.engine.deps.Differ = compared
	if err := n.apply(t); err != nil {
		t.Fatal(err)
	}
	if a := compared.had[3]; a.Name != "team/third" || a.IfName != "net3" || a.Owner != plan.OwnedByPod {
		t.Errorf("found %+v", a)
	}
}

// TestDelegateBeginsAgain checks that a request is executed although a comparison of the same pod changes the sandbox
// meanwhile (behaviour R24), and that it does not try for ever.
func TestDelegateBeginsAgain(t *testing.T) {
	t.Parallel()
	for changes := range delegateTries + 1 {
		n, _ := newRunning(t)
		d, tries := third, 0
		d.before = func() {
			if tries++; tries > changes {
				return
			}
			r, err := n.store.Read("c", "eth0")
			if err == nil {
				err = n.store.MarkPending(r, &r.Attachments[2])
				if r.Attachments[2].Pending {
					err = n.store.MarkAttached(r, &r.Attachments[2])
				}
			}
			if err != nil {
				t.Error(err)
			}
		}
		_, err := n.engine.Attach(t.Context(), n.request(request.Update, "c", ""), "", &d, "net3")
		if (err != nil) != (changes == delegateTries) || err != nil && !errors.Is(err, ErrChanged) {
			t.Errorf("%d changes: %v", changes, err)
		}
	}
}
