package publish

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"multus/internal/engine/request"
)

// TestLacking checks the condition of a pod that lacks networks: it names some of them, is limited, and depends on
// nothing but the networks.
func TestLacking(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("n%d", i))
	}
	for _, tc := range []struct {
		networks []string
		want     string
	}{
		{nil, ""},
		{[]string{"a/b (interface net1)", "a/c"}, "not attached: a/b (interface net1), a/c"},
		{many, "not attached: n0, n1, n2, n3, n4, n5, n6, n7 and 12 more"},
	} {
		u := Lacking(tc.networks)
		if (u == nil) != (tc.want == "") || u != nil && (u.Message != tc.want || u.Reason != NetworkMissing) {
			t.Errorf("%v: %+v", tc.networks, u)
		}
	}
	if u := Lacking([]string{strings.Repeat("é", 10_000)}); len(u.Message) > maxMessage+len("…") {
		t.Errorf("%d bytes", len(u.Message))
	}
	(*Unready)(nil).Clip()
}

// conditions records the values and the conditions of a Cluster.
type conditions struct{ got []string }

func (c *conditions) SetStatus(_ context.Context, _ request.Pod, _, value string, u *Unready) error {
	c.got = append(c.got, fmt.Sprintf("%t %v", value != "", u != nil))
	return nil
}

func (*conditions) Emit(context.Context, request.Pod, Event) error { return nil }

// TestConditionWithStatus checks which reports write a condition with their status (behaviour R30): those about what is
// attached, even if nothing of it has anything to show.
func TestConditionWithStatus(t *testing.T) {
	t.Parallel()
	lost := &Unready{Reason: "R", Message: "m"}
	bare := attached("a", "eth0", true, `{"cniVersion":"0.2.0"}`)
	for _, tc := range []struct {
		report Report
		want   string
	}{
		{Report{Attached: []Attached{attached("a", "eth0", true, one)}}, "true false"},
		{Report{Attached: []Attached{attached("a", "eth0", true, one)}, Unready: lost}, "true true"},
		{Report{Attached: []Attached{bare}}, "false false"},
		{Report{Unready: lost}, ""},
		{Report{Attached: []Attached{bare}, Failure: &Failure{}}, ""},
	} {
		c := &conditions{}
		if err := WriteStatus(t.Context(), c, &tc.report, "k"); err != nil || strings.Join(c.got, ",") != tc.want {
			t.Errorf("%+v: %q, %v, want %q", tc.report, c.got, err, tc.want)
		}
	}
}
