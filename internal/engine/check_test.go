package engine

import (
	"context"
	"strings"
	"testing"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// TestCheck checks that CHECK is no stricter than in today's Multus (behaviour D46). CRI-O calls CHECK right after ADD
// and for every sandbox when it restarts, and the CHECK of many plugins fails behind a meta-plugin.
func TestCheck(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, key string
		recorded  bool
		fails     string // a plugin that returns an error
		called    string
		ok        bool
	}{
		{"default", "", true, "other", "", true},
		{"default, the cluster network refuses", "", true, "cluster", "", true},
		{"default, a sandbox without a record", "", false, "", "", true},
		{"cluster", `,"checkNetworks":"cluster"`, true, "other", "cluster CHECK c", true},
		{"cluster refuses", `,"checkNetworks":"cluster"`, true, "cluster", "cluster CHECK c", false},
		{"cluster, no record", `,"checkNetworks":"cluster"`, false, "", "", false},
		{"all", `,"checkNetworks":"all"`, true, "", "cluster CHECK c, other CHECK c", true},
		{"all, one refuses", `,"checkNetworks":"all"`, true, "other", "cluster CHECK c, other CHECK c", false},
		{"an invalid value", `,"checkNetworks":"al"`, true, "", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			if tc.recorded {
				n.attached(t, "c", "other", "1.0.0", "/run/netns/x", "now")
				n.result(t, "cluster-net", "c", "eth0")
				n.result(t, "other-net", "c", "net1")
			}
			if tc.fails != "" {
				n.does(t, tc.fails, `echo '{"code":999,"msg":"CNI CHECK method is not implemented"}'; exit 1`)
			}
			err := n.engine.Check(t.Context(), n.request(request.Check, "c", tc.key))
			if got := n.called(t); (err == nil) != tc.ok || got != tc.called {
				t.Errorf("%v, called: %s", err, got)
			}
		})
	}
}

// TestCheckInline checks that CHECK covers the inline delegates and no other network, also for a sandbox without a
// record.
func TestCheckInline(t *testing.T) {
	t.Parallel()
	for _, recorded := range []bool{true, false} {
		n := newNode(t, "cluster", "other")
		if recorded {
			n.attached(t, "c", "other", "1.0.0", "/run/netns/x", "now")
			n.result(t, "cluster-net", "c", "eth0")
		}
		req := n.request(request.Check, "c", `,"delegates":[{"cniVersion":"1.1.0","name":"cluster-net","type":"cluster"}]`)
		req.Config = []byte(strings.Replace(string(req.Config), `"clusterNetwork":"x",`, "", 1))
		err := n.engine.Check(t.Context(), req)
		if got := n.called(t); err != nil || got != "cluster CHECK c" {
			t.Errorf("recorded %t: %v, called: %s", recorded, err, got)
		}
	}
}

// unreachable is a planner whose daemon cannot be reached.
type unreachable struct{}

func (unreachable) Plan(context.Context, *request.Request, *config.Plugin) (*plan.Plan, error) {
	return nil, &fault.Error{Code: fault.TryAgain, Next: "look at the daemon", Msg: "daemon not reachable"}
}

// TestCheckUnknown checks the error of CHECK while the daemon is not reachable, so that the state directory is not
// known. The error must not say that the sandbox is not attached: the runtime would remove the sandbox.
func TestCheckUnknown(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	n.engine.deps.Planner = unreachable{}
	err := n.engine.Check(t.Context(), n.request(request.Check, "c", `,"checkNetworks":"all"`))
	if ce := fault.ToCNI(err); err == nil || ce.Code != fault.TryAgain || strings.Contains(err.Error(), "not attached") {
		t.Errorf("%v", err)
	}
}

// TestCheckEach checks that CheckEach runs CHECK for every network of a sandbox and returns each outcome.
func TestCheckEach(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	n.attached(t, "c", "other", "1.0.0", "/run/netns/x", "now")
	n.result(t, "cluster-net", "c", "eth0")
	n.result(t, "other-net", "c", "net1")
	n.does(t, "cluster", `echo '{"code":999,"msg":"its address is gone"}'; exit 1`)
	got, err := n.engine.CheckEach(t.Context(), n.request(request.Check, "c", ""))
	if err != nil || len(got) != 2 || !got[0].Called || got[0].Err == nil || got[0].Err.Error() != "its address is gone" ||
		got[1].Network != "other-net" || got[1].IfName != "net1" || !got[1].Called || got[1].Err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := n.engine.CheckEach(t.Context(), n.request(request.Check, "none", "")); err == nil ||
		!strings.Contains(err.Error(), "not attached") {
		t.Errorf("a sandbox without a record: %v", err)
	}
}
