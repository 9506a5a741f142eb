package plan_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/engine/plan"
	"multus/internal/engine/request"
)

// TestCheckAgreesWithPlan checks over the golden plans that Check refuses what Plan refuses, that its first refusal is
// Plan's error, and that its attachments are those of the plan.
func TestCheckAgreesWithPlan(t *testing.T) {
	t.Parallel()
	refused := 0
	eachArchive(t, func(path string, a *archive) {
		b := newBench(t, a)
		if b.req.Command != request.Add {
			return
		}
		made, refusal := b.resolver.Plan(t.Context(), b.req, b.conf)
		attachments, refusals, failure := b.resolver.Check(t.Context(), b.req, b.conf)
		var got error
		switch {
		case len(refusals) > 0:
			got = refusals[0].Err
			refused++
		case failure != nil:
			got = failure
		}
		if diff := cmp.Diff(fmt.Sprint(refusal), fmt.Sprint(got)); diff != "" {
			t.Errorf("%s (-Plan +Check):\n%s", path, diff)
		}
		if made == nil {
			return
		}
		if len(attachments) != len(made.Attachments) {
			t.Fatalf("%s: %d attachments, want %d", path, len(attachments), len(made.Attachments))
		}
		for i := range attachments {
			if a, b := &attachments[i], &made.Attachments[i]; a.IfName != b.IfName || a.Name != b.Name {
				t.Errorf("%s: attachment %d is %s %s, want %s %s", path, i, a.Name, a.IfName, b.Name, b.IfName)
			}
		}
	})
	const least = 15
	if refused < least {
		t.Errorf("%d plans are refused, want at least %d", refused, least)
	}
}

// TestCheckContinues checks that Check returns the refusals of every element of an annotation, in the order of the
// rules, and the attachment to which each belongs.
func TestCheckContinues(t *testing.T) {
	t.Parallel()
	b := newBench(t, parseArchive([]byte(`
-- conf.json --
{"namespaceIsolation": true, "allowedTypes": ["macvlan"]}
-- annotations.json --
{
	"v1.multus-cni.io/default-network": "a,b",
	"k8s.v1.cni.cncf.io/networks":
		"[{\"name\":\"other\",\"namespace\":\"b\"},{\"name\":\"\"},{\"name\":\"none\",\"interface\":\"eth0\"},
		{\"name\":\"broken\"},{\"name\":\"odd\",\"interface\":\"with/slash\"},
		{\"name\":\"net\",\"interface\":\"net2\",\"default-route\":[\"192.0.2.1\",\"192.0.2.2\"]}]"
}
-- networks.yaml --
{kind: NetworkAttachmentDefinition, apiVersion: k8s.cni.cncf.io/v1, metadata: {name: net, namespace: team-a},
	spec: {config: '{"type": "macvlan"}'}}
---
{kind: NetworkAttachmentDefinition, apiVersion: k8s.cni.cncf.io/v1, metadata: {name: other, namespace: b},
	spec: {config: '{"type": "ipvlan"}'}}
---
{kind: NetworkAttachmentDefinition, apiVersion: k8s.cni.cncf.io/v1, metadata: {name: broken, namespace: team-a},
	spec: {config: '{'}}
---
{kind: NetworkAttachmentDefinition, apiVersion: k8s.cni.cncf.io/v1, metadata: {name: odd, namespace: team-a},
	spec: {config: '{"name": "a b", "cniVersion": "x", "Type": "macvlan", "type": "multus", "ipam": {"type": "/x"}}'}}
`)))
	attachments, refusals, err := b.resolver.Check(t.Context(), b.req, b.conf)
	if err != nil || len(attachments) != 7 {
		t.Fatalf("%d attachments, %v", len(attachments), err)
	}
	got := make([]string, 0, len(refusals))
	for _, r := range refusals {
		if r.Origin != plan.FromAnnotation && r.Rule != plan.RuleAnnotation {
			t.Errorf("%+v", r)
		}
		got = append(got, fmt.Sprintf("%s %d", r.Rule, r.Attachment))
	}
	want := strings.Split("annotation -1,isolation 1,allowed 1,annotation 2,unknown-network 3,config 4,allowed 5,"+
		"network-name 5,ambiguous 5,cni-version 5,recursion 5,config 5,interface-duplicate 3,interface-name 5,"+
		"interface-duplicate 6,default-route 6", ",")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
