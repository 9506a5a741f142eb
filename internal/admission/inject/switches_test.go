package inject

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSwitches parses the ConfigMap nri-control-switches: the examples of its documentation, and what it may not have
// (behaviour T17).
func TestSwitches(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	const networks = `{"op":"add","path":"/metadata/annotations","value":{"k8s.v1.cni.cncf.io/networks":"sriov"}}`
	sriov := map[string]map[string]string{"sriov": {"k8s.v1.cni.cncf.io/networks": "sriov"}}
	for _, tc := range []struct {
		config string
		want   Switches
		says   string
	}{
		{`{}`, Switches{}, ""},
		{`{"features":{"enableHugePageDownApi":false,"enableHonorExistingResources":false}}`, Switches{HonorResources: &no}, ""},
		{`{"features":{"enableHonorExistingResources":true,"other":1}}`, Switches{HonorResources: &yes}, ""},
		{`{"features":{"enableHugePageDownApi":true}}`, Switches{}, "enableHugePageDownApi is not supported"},
		{`{"features":{"enableHonorExistingResources":"true"}}`, Switches{}, "features: "},
		{`{"features":[]}`, Switches{}, "features: "},
		{`{"user-defined-injections":{"sriov":` + networks + `}}`, Switches{Injections: sriov}, ""},
		{
			`{"user-defined-injections":{"sriov":` + networks + `,"a":{"op":"remove","path":"/metadata/annotations"}}}`,
			Switches{Injections: sriov},
			`"a": op "remove" of path`,
		},
		{`{"user-defined-injections":{"a":{"op":"add","path":"/spec/x","value":{}}}}`, Switches{}, `path "/spec/x"`},
		{
			`{"user-defined-injections":{"a":{"op":"add","path":"/metadata/annotations","value":{"k":1}}}}`,
			Switches{},
			"whose value has strings",
		},
		{
			`{"user-defined-injections":{"a":{"op":"add","path":"/metadata/annotations","value":{"a b":"x"}}}}`,
			Switches{},
			`annotation "a b"`,
		},
		{`{"user-defined-injections":[]}`, Switches{}, "config.json: "},
		{`{`, Switches{}, "config.json: "},
	} {
		got, problems := ParseSwitches(map[string]string{"config.json": tc.config})
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.config, diff)
		}
		says := strings.Join(problems, "\n")
		if !strings.Contains(says, tc.says) || (tc.says == "") != (says == "") {
			t.Errorf("%s: %q, want %q", tc.config, says, tc.says)
		}
	}
	if _, problems := ParseSwitches(nil); len(problems) != 1 {
		t.Errorf("%q", problems)
	}
	o := Options{HonorResources: true, NoPodInfo: true}
	if got := o.With(Switches{}); !got.HonorResources || !got.NoPodInfo {
		t.Errorf("%+v", got)
	}
	if got := o.With(Switches{HonorResources: &no, Injections: sriov}); got.HonorResources || len(got.Injections) != 1 {
		t.Errorf("%+v", got)
	}
}

// FuzzSwitches checks that ParseSwitches does not panic, and that a pod with a label of the result can be patched.
func FuzzSwitches(f *testing.F) {
	f.Add(`{"features":{},"user-defined-injections":{"a":{"op":"add","path":"/metadata/annotations","value":{"k":"v"}}}}`)
	f.Fuzz(func(t *testing.T, config string) {
		s, _ := ParseSwitches(map[string]string{"config.json": config})
		labels := map[string]string{}
		for label := range s.Injections {
			labels[label] = "true"
		}
		pod, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"containers": []any{map[string]any{}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := Review(pod, "team-a", Lookup{Definition: annotationsOf}, Options{}.With(s))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := apply(pod, got.Patch); err != nil {
			t.Fatalf("%v\n%s", err, got.Patch)
		}
	})
}
