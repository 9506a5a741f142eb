package engine

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// claimDiffer adds the network third, with a device of a claim.
type claimDiffer struct{ claim *device.Claim }

func (d claimDiffer) Diff(context.Context, *request.Request, *config.Plugin, []plan.Attached) (*plan.Changes, error) {
	l, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"third-net","type":"third"}`))
	if err != nil {
		return nil, err
	}
	return &plan.Changes{Pod: request.Pod{Namespace: "team", Name: "web", UID: "u"}, Add: []plan.Attachment{{
		Name: "team/third", IfName: "net3", Config: l, Origin: plan.FromAnnotation, Claim: d.claim,
	}}}, nil
}

// TestClaimIsReported checks that the claim of a device is in the reports of a running sandbox that was changed and
// that is compared, and in that of its DEL, which has it from the record alone (behaviour H15).
func TestClaimIsReported(t *testing.T) {
	t.Parallel()
	want := &device.Claim{
		Namespace: "team", Name: "web-nic", UID: "u", Driver: "d", Pool: "p", Device: "vf0", ShareID: "s",
	}
	n, r := newRunning(t)
	n.engine.deps.Differ = claimDiffer{want}
	if err := n.apply(t); err != nil {
		t.Fatal(err)
	}
	of := func(what string, attached []publish.Attached) {
		t.Helper()
		got := map[string]*device.Claim{}
		for i := range attached {
			got[attached[i].IfName] = attached[i].Claim
		}
		if d := cmp.Diff(map[string]*device.Claim{"eth0": nil, "net1": nil, "net2": nil, "net3": want}, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	of("the report of the change", r.got[len(r.got)-1].Attached)
	for _, o := range n.observed(t) {
		of("the comparison", o.Attached)
	}
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]device.Claim{*want}, r.got[len(r.got)-1].Claims); d != "" {
		t.Errorf("the report of the DEL (-want +got):\n%s", d)
	}
}
