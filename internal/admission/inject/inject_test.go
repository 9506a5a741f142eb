package inject

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"multus/internal/netsel"
	"multus/internal/testutil/page"
)

var update = flag.Bool("update", false, "write the table of docs/injection.md")

const nic = "example.com/nic"

// stored are the definitions of the cluster.
var stored = map[string]map[string]string{
	"team-a/nic":       {netsel.ResourceName: nic},
	"team-b/nic":       {netsel.ResourceName: nic},
	"team-a/fast":      {netsel.ResourceName: "example.com/fast"},
	"team-a/plain":     {},
	"team-a/rack":      {NodeSelector: "rack=r1"},
	"team-a/rack2":     {NodeSelector: "rack=r2"},
	"team-a/key":       {NodeSelector: " nic "},
	"team-a/pairs":     {NodeSelector: "rack=r1, zone = z1"},
	"team-a/nopairs":   {NodeSelector: ""},
	"team-a/badpairs":  {NodeSelector: "rack=r1=r2"},
	"team-a/badvalue":  {NodeSelector: "rack=r 1"},
	"team-a/both":      {netsel.ResourceName: nic, NodeSelector: "rack=r1"},
	"team-a/badname":   {netsel.ResourceName: "nic"},
	"team-a/empty":     {netsel.ResourceName: ""},
	"team-a/other":     {"example.com/resource": "example.com/other"},
	"team-a/two":       {netsel.ResourceName: nic, "example.com/resource": "example.com/other"},
	"kube-system/base": {netsel.ResourceName: "example.com/base"},
	"team-a/base":      {netsel.ResourceName: nic},
}

func annotationsOf(namespace, name string) (map[string]string, bool) {
	a, ok := stored[namespace+"/"+name]
	return a, ok
}

// cluster has the definitions, and a DeviceClass that serves devices as an extended resource.
var cluster = Lookup{
	Definition: annotationsOf,
	DeviceClasses: func(_ string, c Claim) []string {
		if c.ResourceClaimTemplateName == "nic-template" {
			return []string{"nic-class"}
		}
		return []string{"gpu-class"}
	},
	ExtendedResource: func(class string) string {
		return map[string]string{"nic-class": nic}[class]
	},
}

// asReviewed returns a pod as the API server sends it: decoded, and encoded from its types.
func asReviewed(tb testing.TB, source string) []byte {
	tb.Helper()
	var p corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(source), &p); err != nil {
		tb.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// apply applies a patch.
func apply(pod, patch []byte) ([]byte, error) {
	if patch == nil {
		return pod, nil
	}
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, fmt.Errorf("decode patch: %w", err)
	}
	return p.Apply(pod)
}

// describe returns what an injection has changed, in words.
func describe(before, after []byte) (string, error) {
	var old, pod corev1.Pod
	if err := errors.Join(json.Unmarshal(before, &old), json.Unmarshal(after, &pod)); err != nil {
		return "", err
	}
	var out []string
	added := func(what string, old, now map[string]string) {
		for _, key := range slices.Sorted(maps.Keys(now)) {
			if v, ok := old[key]; !ok || v != now[key] {
				out = append(out, fmt.Sprintf("%s %s=%s", what, key, now[key]))
			}
		}
	}
	var mounted []string
	containers := func(old, now []corev1.Container) {
		for i := range now {
			added(now[i].Name, amounts(&old[i]), amounts(&now[i]))
			if len(now[i].VolumeMounts) > len(old[i].VolumeMounts) {
				m := now[i].VolumeMounts[len(now[i].VolumeMounts)-1]
				mounted = append(mounted, now[i].Name+":"+m.Name+":"+m.MountPath)
			}
		}
	}
	containers(old.Spec.Containers, pod.Spec.Containers)
	containers(old.Spec.InitContainers, pod.Spec.InitContainers)
	added("node", old.Spec.NodeSelector, pod.Spec.NodeSelector)
	added("annotation", old.Annotations, pod.Annotations)
	if len(mounted) > 0 {
		out = append(out, "volume in "+strings.ReplaceAll(strings.Join(mounted, " "), ":podnetinfo:/etc/podnetinfo", ""))
	}
	if len(pod.Spec.Volumes) > len(old.Spec.Volumes) {
		var fields []string
		for _, item := range pod.Spec.Volumes[len(pod.Spec.Volumes)-1].DownwardAPI.Items {
			fields = append(fields, item.Path)
		}
		out = append(out, "of "+strings.Join(fields, " and "))
	}
	return strings.Join(out, ", "), nil
}

// amounts returns the resources of a container. It shows requests and limits if they differ.
func amounts(c *corev1.Container) map[string]string {
	out := map[string]string{}
	for name, q := range c.Resources.Limits {
		out[string(name)] = q.String()
	}
	for name, q := range c.Resources.Requests {
		if limit := out[string(name)]; limit != q.String() {
			out[string(name)] = q.String() + "/" + limit
		}
	}
	return out
}

// reviewTwice reviews a pod, checks that a second review changes nothing, and returns what was changed.
func reviewTwice(t *testing.T, pod []byte, look Lookup, o Options) (string, Result) {
	t.Helper()
	got, err := Review(pod, "team-a", look, o)
	if err != nil {
		t.Fatal(err)
	}
	if got.Denied != "" {
		if got.Patch != nil {
			t.Errorf("a patch for a pod that is denied: %s", got.Patch)
		}
		return "denied", got
	}
	patched, err := apply(pod, got.Patch)
	if err != nil {
		t.Fatalf("%v\n%s", err, got.Patch)
	}
	changed, err := describe(pod, patched)
	if err != nil {
		t.Fatalf("%v\n%s", err, patched)
	}
	again, err := Review(patched, "team-a", look, o)
	if err != nil || again.Patch != nil {
		t.Errorf("the second review returns %s, %v", again.Patch, err)
	}
	for _, w := range again.Warnings {
		if !slices.Contains(got.Warnings, w) {
			t.Errorf("only the second review warns: %s", w)
		}
	}
	return changed, got
}

// TestCases checks what is injected, and that a second review of the pod changes nothing (behaviour T1-T16, T18-T20).
func TestCases(t *testing.T) {
	t.Parallel()
	const least = 30
	if len(cases) < least {
		t.Errorf("%d cases, want at least %d", len(cases), least)
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			changed, got := reviewTwice(t, asReviewed(t, tc.pod), cluster, tc.options)
			if changed != tc.want {
				t.Errorf("%s\nwant %s", changed, tc.want)
			}
			all := strings.Join(append(got.Warnings, got.Denied), "\n")
			if !strings.Contains(all, tc.says) || tc.says == "" && len(all) > 0 {
				t.Errorf("%q, want %q", all, tc.says)
			}
			if (tc.upstream != "") != (tc.why != "") {
				t.Error("a difference needs a reason, and a reason a difference")
			}
		})
	}
}

// TestPage compares the table of docs/injection.md with the cases.
func TestPage(t *testing.T) {
	t.Parallel()
	page.Compare(t, "../../../docs/injection.md", "go test ./internal/admission/inject -run TestPage -update", table(),
		*update)
}

// or returns the first string that is not empty.
func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func table() string {
	code := func(s string) string {
		if strings.Contains(s, "=") {
			return "`" + s + "`"
		}
		return s
	}
	out := "| Case | Multus | network-resources-injector | Why it differs |\n|---|---|---|---|\n"
	for _, tc := range cases {
		out += fmt.Sprintf("| %s | %s | %s | %s |\n", tc.name, code(or(tc.want, "nothing")),
			code(or(tc.upstream, "the same")), tc.why)
	}
	return out
}

// TestInput checks pods that cannot be read, and that a pod as a client writes it, without empty objects, is patched
// where it has nothing (behaviour T1, T21).
func TestInput(t *testing.T) {
	t.Parallel()
	for _, pod := range []string{"", "[]", `{"spec":{"containers":{}}}`, strings.Repeat(" ", MaxPod) + "{}"} {
		if _, err := Review([]byte(pod), "team-a", Lookup{Definition: annotationsOf}, Options{}); err == nil {
			t.Errorf("%.50q is accepted", pod)
		}
	}
	for _, resources := range []string{`{}`, `{"resources":null}`, `{"resources":{}}`, `{"resources":{"limits":null}}`} {
		pod := `{"metadata":{"namespace":"team-a","annotations":{"k8s.v1.cni.cncf.io/networks":"nic"}},"spec":{"future":[1],` +
			`"containers":[` + resources + `]}}`
		changed, _ := reviewTwice(t, []byte(pod), Lookup{Definition: annotationsOf}, Options{NoPodInfo: true})
		if changed != " example.com/nic=1" {
			t.Errorf("%s: %s", resources, changed)
		}
	}
}

// TestDetails checks what the comparison does not show: requests that the API server has not completed, numbers that
// are too large, containers that can and cannot be named, and names that cannot be resources (behaviour T6, T7, T9).
func TestDetails(t *testing.T) {
	t.Parallel()
	const (
		named = `{metadata: {annotations: {` + netsel.Networks + `: nic, ` + ResourceContainer + `: i}}, spec: {containers: ` +
			`[{name: a, image: x}], initContainers: [{name: i, image: x`
		most = "9223372036854775807"
	)
	requests := map[string]map[string]string{"team-a/nic": {netsel.ResourceName: "requests.example.com/nic"}}
	for name, tc := range map[string]struct {
		pod, want, says string
		stored          map[string]map[string]string
	}{
		"only limits": {
			on("nic", `, spec: {containers: [{name: a, image: x, resources: {limits: {example.com/nic: 1}}}]}}`), "", "", stored,
		},
		"only requests": {
			on("nic", `, spec: {containers: [{name: a, image: x, resources: {requests: {example.com/nic: 1}}}]}}`), "", "",
			stored,
		},
		"overflow":          {on("nic", with(most, most)), "", "", stored},
		"sidecar":           {named + `, restartPolicy: Always}]}}`, "i example.com/nic=1", "", stored},
		"init container":    {named + `}]}}`, "a example.com/nic=1", `no container "i" that runs as long`, stored},
		"requests., a name": {on("nic", one), "denied", "not the name of a resource", requests},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			look := Lookup{Definition: func(namespace, name string) (map[string]string, bool) {
				a, ok := tc.stored[namespace+"/"+name]
				return a, ok
			}}
			changed, got := reviewTwice(t, asReviewed(t, tc.pod), look, Options{NoPodInfo: true})
			all := strings.Join(append(got.Warnings, got.Denied), "")
			if changed != tc.want || !strings.Contains(all, tc.says) || tc.says == "" && all != "" ||
				tc.want == "" && got.Patch != nil {
				t.Errorf("%s, %s, %q, want %s, %q", got.Patch, changed, all, tc.want, tc.says)
			}
		})
	}
	if got := escape("a~/b"); got != "a~0~1b" {
		t.Error(got)
	}
}

// TestNames checks that only names that an object can have are looked up, because they may become the path of a request
// (behaviour T5).
func TestNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		`[{"name":"nic.v1"}]`: true, `[{"name":"../x"}]`: false, `[{"name":"x","namespace":"../a"}]`: false,
		`[{"name":""}]`: false, `[{"name":"X"}]`: false, "nic": true, ",": false,
	} {
		asked := false
		look := Lookup{Definition: func(string, string) (map[string]string, bool) { asked = true; return nil, true }}
		got, err := Review(asReviewed(t, on(name, one)), "team-a", look, Options{})
		if err != nil || asked != want || asked == (len(got.Warnings) > 0) {
			t.Errorf("%s: looked up %t, %q, %v", name, asked, got.Warnings, err)
		}
	}
}

// TestManyLabels checks the limit of the labels of nodes in one definition (behaviour T15).
func TestManyLabels(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{maxLabels: "", maxLabels + 1: "more than 32 labels"} {
		var labels []string
		for i := range n {
			labels = append(labels, fmt.Sprintf("l%d=x", i))
		}
		look := Lookup{Definition: func(string, string) (map[string]string, bool) {
			return map[string]string{NodeSelector: strings.Join(labels, ",")}, true
		}}
		got, err := Review(asReviewed(t, on("a", one)), "team-a", look, Options{})
		if err != nil || (got.Denied == "") != (want == "") || !strings.Contains(got.Denied, want) {
			t.Errorf("%d labels: %q, %v", n, got.Denied, err)
		}
	}
}

// TestDefinitionsOnce checks that each definition of a pod is looked up once, whether it exists or not (behaviour T21).
func TestDefinitionsOnce(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"nic", "none"} {
		asked := 0
		look := Lookup{Definition: func(namespace, name string) (map[string]string, bool) {
			asked++
			return annotationsOf(namespace, name)
		}}
		pod := asReviewed(t, on(strings.Repeat(network+",", 20)+network, one))
		if _, err := Review(pod, "team-a", look, Options{}); err != nil || asked != 1 {
			t.Errorf("%s: looked up %d times, %v", network, asked, err)
		}
	}
}

// TestClaimsAreBounded checks that each claim and each DeviceClass of a pod is looked up once, that their number is
// limited, and that a pod with more gets its devices with a warning (behaviour T11, T21).
func TestClaimsAreBounded(t *testing.T) {
	t.Parallel()
	const many = 1000
	claim := func(i int) string { return fmt.Sprintf("{name: c%d, resourceClaimName: c%d}", i, i) }
	for name, tc := range map[string]struct {
		network         string
		entry           func(i int) string
		perClaim        int // classes
		claims, classes int // look-ups
		warned          bool
	}{
		"many claims": {"nic", claim, 1, maxClaims, maxClaims, true},
		"many entries of one claim": {
			"nic", func(i int) string { return fmt.Sprintf("{name: c%d, resourceClaimTemplateName: x}", i) }, 1, 1, 1, false,
		},
		"many classes": {"nic", claim, many, 1, maxClasses, true},
		"names that no claim has": {
			"nic", func(i int) string { return fmt.Sprintf(`{name: c%d, resourceClaimName: "../%d"}`, i, i) }, 1, 0, 0, true,
		},
		"no name": {
			"nic", func(i int) string { return fmt.Sprintf("{name: c%d}", i) }, 1, 0, 0, true,
		},
		"a network that needs no devices": {"plain", claim, 1, 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var entries []string
			for i := range many {
				entries = append(entries, tc.entry(i))
			}
			pod := asReviewed(t, on(tc.network, ", spec: {containers: [{name: a, image: x}], resourceClaims: ["+
				strings.Join(entries, ", ")+"]}}"))
			claims, classes := 0, 0
			look := Lookup{
				Definition: annotationsOf,
				DeviceClasses: func(_ string, c Claim) (out []string) {
					claims++
					for i := range tc.perClaim {
						out = append(out, fmt.Sprintf("%s%s-%d", c.ResourceClaimName, c.ResourceClaimTemplateName, i))
					}
					return out
				},
				ExtendedResource: func(string) string { classes++; return "example.com/gpu" },
			}
			got, err := Review(pod, "team-a", look, Options{})
			warned := strings.Contains(strings.Join(got.Warnings, "\n"), "although the pod has ResourceClaims")
			if err != nil || claims != tc.claims || classes != tc.classes || warned != tc.warned {
				t.Errorf("%d claims and %d classes looked up, %q, %v", claims, classes, got.Warnings, err)
			}
			if asks := strings.Contains(string(got.Patch), nic); asks != (tc.network == "nic") {
				t.Errorf("patch %s", got.Patch)
			}
		})
	}
}

// TestManyWarnings checks the limits of the warnings (behaviour T21).
func TestManyWarnings(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("none%d", i))
	}
	pod := asReviewed(t, on(strings.Join(names, ","), one))
	got, err := Review(pod, "team-a", Lookup{Definition: annotationsOf}, Options{})
	if err != nil || len(got.Warnings) != maxWarnings+1 || got.Warnings[maxWarnings] != "and 42 more warnings" {
		t.Errorf("%q, %v", got.Warnings, err)
	}
	got, err = Review(pod, "team-a", Lookup{Definition: annotationsOf}, Options{MaxNetworks: 10})
	if err != nil || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "too many elements") {
		t.Errorf("%q, %v", got.Warnings, err)
	}
	pod = asReviewed(t, on(`[{"name":"`+strings.Repeat("x", 10000)+`"}]`, one))
	got, err = Review(pod, "team-a", Lookup{Definition: annotationsOf}, Options{})
	if err != nil || len(got.Warnings) != 1 || len(got.Warnings[0]) > maxWarning {
		t.Errorf("%q, %v", got.Warnings, err)
	}
}

// TestReinvocation checks that devices are added to honoured requests once, also if another webhook adds a network in
// between (behaviour T12).
func TestReinvocation(t *testing.T) {
	t.Parallel()
	pod := asReviewed(t, on("nic", with("1", "")))
	got, err := Review(pod, "team-a", Lookup{Definition: annotationsOf}, honor)
	if err != nil {
		t.Fatal(err)
	}
	if pod, err = apply(pod, got.Patch); err != nil {
		t.Fatal(err)
	}
	const more = `[{"op":"add","path":"/metadata/annotations/k8s.v1.cni.cncf.io~1networks","value":"nic,nic,fast"}]`
	if pod, err = apply(pod, []byte(more)); err != nil {
		t.Fatal(err)
	}
	changed, _ := reviewTwice(t, pod, Lookup{Definition: annotationsOf}, honor)
	want := `a example.com/fast=1, a example.com/nic=3, annotation v1.multus-cni.io/injected={"example.com/fast":1,` +
		`"example.com/nic":2}`
	if changed != want {
		t.Errorf("%s\nwant %s", changed, want)
	}
}

// FuzzReview checks that Review does not panic; that its patch can be applied to every pod that the API server can
// send, and leaves a pod; and that a second call changes nothing.
func FuzzReview(f *testing.F) {
	for _, tc := range cases {
		f.Add(asReviewed(f, tc.pod), tc.options.HonorResources)
	}
	f.Add([]byte(`{"spec":{"containers":[null,{"resources":{"limits":{"example.com/nic":"9223372036854775807"}}}]}}`), true)
	f.Fuzz(func(t *testing.T, raw []byte, honor bool) {
		o := Options{HonorResources: honor, Injections: userDefined}
		_, _ = Review(raw, "team-a", cluster, o) // an error is fine
		var p corev1.Pod
		if json.Unmarshal(raw, &p) != nil {
			return
		}
		pod, err := json.Marshal(p)
		if err != nil {
			return
		}
		for i := range 2 {
			got, err := Review(pod, "team-a", cluster, o)
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 && got.Patch != nil && got.Denied == "" {
				t.Fatalf("the second review returns %s", got.Patch)
			}
			if pod, err = apply(pod, got.Patch); err != nil {
				t.Fatalf("%v\n%s", err, got.Patch)
			}
			if err := json.Unmarshal(pod, &p); err != nil {
				t.Fatalf("%v\n%s", err, pod)
			}
		}
	})
}
