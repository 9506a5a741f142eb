package hotplug

import (
	"testing"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// TestDiffers checks which pods are compared with their sandboxes. A pod for which it is wrongly false keeps its
// networks.
func TestDiffers(t *testing.T) {
	t.Parallel()
	const cluster = `{"name":"cluster","interface":"eth0","default":true}`
	const lan = `,{"name":"team/lan","interface":"net1"}`
	for name, tc := range map[string]struct {
		networks, status string
		want             bool
	}{
		"plain":                             {"", "[" + cluster + "]", false},
		"one":                               {"lan", "[" + cluster + lan + "]", false},
		"one, with its interface":           {"lan@net1", "[" + cluster + lan + "]", false},
		"one, with its namespace":           {`[{"name":"lan","namespace":"team"}]`, "[" + cluster + lan + "]", false},
		"an attachment in another order":    {"lan", `[{"name":"team/lan","interface":"net1"},` + cluster + "]", false},
		"added":                             {"lan, wan", "[" + cluster + lan + "]", true},
		"the first one added":               {"lan", "[" + cluster + "]", true},
		"removed":                           {"", "[" + cluster + lan + "]", true},
		"replaced":                          {"wan", "[" + cluster + lan + "]", true},
		"of another namespace":              {"other/lan", "[" + cluster + lan + "]", true},
		"another interface":                 {"lan@net2", "[" + cluster + lan + "]", true},
		"a second time":                     {"lan, lan", "[" + cluster + lan + "]", true},
		"twice, and attached twice":         {"lan, lan", "[" + cluster + lan + lan + "]", false},
		"attached twice":                    {"lan", "[" + cluster + lan + lan + "]", true},
		"twice instead of two networks":     {"lan, lan", "[" + cluster + lan + `,{"name":"team/wan"}]`, true},
		"invalid annotation":                {"[{", "[" + cluster + lan + "]", true},
		"a network of the node":             {"", "[" + cluster + `,{"name":"kube-system/all"}]`, true},
		"the network of the node requested": {"", "[" + cluster + "," + cluster + "]", true},
		"no status yet":                     {"lan", "", false},
		"a status of another program":       {"lan", `{"a":1}`, false},
		"an empty status":                   {"", "[]", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := &plan.Pod{
				Ref: plan.Ref{Namespace: "team", Name: "web"}, Annotations: map[string]string{netsel.Networks: tc.networks},
			}
			if got := differs(pod, tc.status); got != tc.want {
				t.Errorf("%t", got)
			}
		})
	}
}
