package engine

import (
	"testing"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// TestRequestsNetworks checks that a pod whose annotation replaces the cluster network depends on its network status,
// as a pod with additional networks does.
func TestRequestsNetworks(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		attachments []plan.Attachment
		want        bool
	}{
		"a plain pod":                    {[]plan.Attachment{{Primary: true}}, false},
		"the annotation default-network": {[]plan.Attachment{{Primary: true, Request: &netsel.Element{Name: "n1"}}}, true},
		"one more":                       {[]plan.Attachment{{Primary: true}, {Request: &netsel.Element{Name: "n1"}}}, true},
		"defaultNetworks":                {[]plan.Attachment{{Primary: true}, {}}, true},
	} {
		if got := requestsNetworks(&plan.Plan{Attachments: tc.attachments}); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
