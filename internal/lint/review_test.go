package lint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"

	"multus/internal/config"
	"multus/internal/engine/plan"
)

// acrossFiles are the rules that depend on other objects than those that a pod names, and those of files.
var acrossFiles = []string{"yaml", "object", "duplicate-object", "annotation-place", "unknown-network", "overlap"}

// TestReviewIsRun checks for each object of the corpus that Review finds what Run finds in the file, and that the
// position inside of the string is that of the same character as the position in the file. (behaviour S2.)
func TestReviewIsRun(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/corpus/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	reviewed, inside := 0, 0
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		o := corpusOptions(data)
		o.Disabled = acrossFiles
		run := Run([]File{{Name: path, Data: data}}, o)
		defs := definitionsOf(data)
		for _, object := range objectsOf(data) {
			json, err := sigsyaml.YAMLToJSON([]byte(object))
			if err != nil {
				continue // an object that cannot be sent
			}
			found, err := Review(json, "default", clusterOf(defs), o)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if len(found) == 0 {
				continue
			}
			reviewed++
			of := slices.DeleteFunc(slices.Clone(run), func(f Finding) bool { return f.Object != found[0].Object })
			if diff := cmp.Diff(summary(of), summary(found)); diff != "" {
				t.Errorf("%s: (-run +review)\n%s", filepath.Base(path), diff)
				continue
			}
			for i := range found {
				if found[i].Line == 0 {
					continue
				}
				got := runeAt(stringAt(json, found[i].Path), found[i].Line, found[i].Column)
				inside++
				if !slices.ContainsFunc(of, func(f Finding) bool {
					want := runeAt(string(data), f.Line, f.Column)
					return f.Message == found[i].Message && (got == want || strings.ContainsRune(`\'"|>`, want))
				}) {
					t.Errorf("%s: %+v: %q in the string", filepath.Base(path), found[i], got)
				}
			}
		}
	}
	t.Logf("%d objects with findings, %d positions", reviewed, inside)
	if reviewed < 100 || inside < 60 {
		t.Error("too few: this test shows nothing")
	}
}

// runeAt returns the character at a position.
func runeAt(s string, line, column int) rune {
	lines := split([]byte(s))
	if line > len(lines) || column > len(lines[line-1]) {
		return 0
	}
	return lines[line-1][column-1]
}

// stringAt returns the string of an object that has a path of Review.
func stringAt(json []byte, path string) string {
	root, err := parseTree(string(json))
	if err != nil {
		return ""
	}
	value := ""
	var walk func(t *tree, at string)
	walk = func(t *tree, at string) {
		if at == path && t.text() != "" {
			value = t.text()
		}
		for _, m := range t.members {
			walk(m.value, join(at, m.key))
		}
		for i, item := range t.items {
			walk(item, fmt.Sprintf("%s[%d]", at, i))
		}
	}
	walk(root, "")
	return value
}

// summary returns the findings without positions, in an order of their own.
func summary(found []Finding) []string {
	var out []string
	for _, f := range found {
		out = append(out, fmt.Sprintf("%s %s: %s; %s", f.Severity, f.Rule, f.Message, f.Fix))
	}
	slices.Sort(out)
	return out
}

// objectsOf returns the objects of a file, also those of lists, in YAML.
func objectsOf(data []byte) []string {
	var out []string
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var add func(n *yaml.Node)
	add = func(n *yaml.Node) {
		if n.Kind == yaml.DocumentNode {
			n = n.Content[0]
		}
		if strings.HasSuffix((node{n}).get("kind").text(), "List") {
			for _, item := range (node{n}).get("items").items() {
				add(item)
			}
			return
		}
		if b, err := yaml.Marshal(n); err == nil && n.Kind == yaml.MappingNode {
			out = append(out, string(b))
		}
	}
	for {
		var doc yaml.Node
		if dec.Decode(&doc) != nil {
			return out
		}
		add(&doc)
	}
}

// definitionsOf returns the definitions of a file.
func definitionsOf(data []byte) map[plan.Ref]plan.Definition {
	l := &linter{networks: map[plan.Ref]*network{}}
	l.read(0, File{Data: data})
	out := map[plan.Ref]plan.Definition{}
	for _, n := range l.defined {
		out[n.ref] = plan.Definition{Ref: n.ref, Config: n.config.value, ResourceName: n.resource}
	}
	return out
}

func clusterOf(defs map[plan.Ref]plan.Definition) Cluster {
	return Cluster{
		Network: func(ref plan.Ref) (*plan.Definition, error) {
			if d, ok := defs[ref]; ok {
				return &d, nil
			}
			return nil, plan.ErrNotFound
		},
		Others: func() []plan.Definition {
			var out []plan.Definition
			for _, d := range defs {
				out = append(out, d)
			}
			return out
		},
	}
}

func podWith(annotation string) []byte {
	b, err := sigsyaml.YAMLToJSON(fmt.Appendf(nil, "{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: "+
		"{k8s.v1.cni.cncf.io/networks: %q}}}", annotation))
	if err != nil {
		panic(err)
	}
	return b
}

// TestReviewPods checks what Review reads of the cluster: a network that does not exist is found in the namespace of
// the request, and what cannot be looked up is not judged. (behaviour S11, S12.)
func TestReviewPods(t *testing.T) {
	t.Parallel()
	defs := map[plan.Ref]plan.Definition{
		{Namespace: "team", Name: "a"}: {
			Ref: plan.Ref{Namespace: "team", Name: "a"}, Config: `{"type":"macvlan"}`,
		},
	}
	for name, tc := range map[string]struct {
		annotation string
		lookup     error
		config     config.Plugin
		want       string
	}{
		"exists":      {"a", nil, config.Plugin{}, ""},
		"missing":     {"a,\n b", nil, config.Plugin{}, "2:2 error unknown-network: network definition team/b"},
		"unavailable": {"b", errors.New("x"), config.Plugin{}, ""},
		"too many":    {strings.Repeat("b,", 99) + "b", errors.New("x"), config.Plugin{}, "1:1 error limit"},
		"isolation": {
			"other/a", nil, config.Plugin{NamespaceIsolation: true}, "1:1 error isolation",
		},
		"deep": {"[" + strings.Repeat(`{"cni-args":`, 5000), nil, config.Plugin{}, "error annotation"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := clusterOf(defs)
			if tc.lookup != nil {
				c.Network = func(plan.Ref) (*plan.Definition, error) { return nil, tc.lookup }
			}
			found, err := Review(podWith(tc.annotation), "team", c, Options{Config: &tc.config})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, f := range found {
				got += fmt.Sprintf("%d:%d %s %s: %s", f.Line, f.Column, f.Severity, f.Rule, f.Message)
			}
			if !strings.Contains(got, tc.want) || (tc.want == "") != (got == "") {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// TestReviewLooksUpOnce checks that each definition that a pod names is looked up once, whether it exists or not.
// (behaviour S12.)
func TestReviewLooksUpOnce(t *testing.T) {
	t.Parallel()
	for _, err := range []error{plan.ErrNotFound, plan.ErrUnavailable, nil} {
		asked := 0
		c := Cluster{Network: func(ref plan.Ref) (*plan.Definition, error) {
			asked++
			return &plan.Definition{Ref: ref, Config: `{"type":"macvlan"}`}, err
		}}
		data := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","annotations":{"k8s.v1.cni.cncf.io/networks":"` +
			strings.Repeat("a,", 20) + `a"}}}`
		if _, got := Review([]byte(data), "default", c, Options{}); got != nil || asked != 1 {
			t.Errorf("%v: looked up %d times, %v", err, asked, got)
		}
	}
}

// TestReviewOverlap checks that addresses are compared with those of other definitions on the same wire, except the
// stored version of the definition itself. (behaviour S9.)
func TestReviewOverlap(t *testing.T) {
	t.Parallel()
	config := func(master string) string {
		return `{"type":"macvlan","master":"` + master + `","ipam":{"type":"host-local","subnet":"192.0.2.0/24"}}`
	}
	defs := map[plan.Ref]plan.Definition{}
	for name, c := range map[string]string{"same": config("eth1"), "other": config("eth2"), "self": config("eth1")} {
		ref := plan.Ref{Namespace: "default", Name: name}
		defs[ref] = plan.Definition{Ref: ref, Config: c}
	}
	data := fmt.Sprintf(`{"apiVersion":"k8s.cni.cncf.io/v1","kind":"NetworkAttachmentDefinition","metadata":{"name":"self"},`+
		`"spec":{"config":%q}}`, config("eth1"))
	found, err := Review([]byte(data), "default", clusterOf(defs), Options{})
	if err != nil || len(found) != 1 || found[0].Rule != "overlap" || !strings.Contains(found[0].Message, "default/same") {
		t.Errorf("%v %+v", err, found)
	}
}

// TestReviewIsBounded checks that the number of findings is limited, by severity, and that large input takes no
// quadratic time. (behaviour S5.)
func TestReviewIsBounded(t *testing.T) {
	t.Parallel()
	var keys strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&keys, `"k%d":1,`, i)
	}
	data := fmt.Sprintf(`{"apiVersion":"k8s.cni.cncf.io/v1","kind":"NetworkAttachmentDefinition","metadata":{"name":"n"},`+
		`"spec":{"config":%q}}`, `{"type":"macvlan",`+keys.String()+`"mode":"x"}`)
	found, err := Review([]byte(data), "default", clusterOf(nil), Options{})
	if err != nil || len(found) != maxFound+1 { // unknown-key, and value
		t.Fatalf("%d findings, %v", len(found), err)
	}
	if !slices.ContainsFunc(found, func(f Finding) bool { return f.Severity == Error && f.Rule == "value" }) {
		t.Error("the error is not among the findings")
	}
	for _, bad := range []string{"", "[]", "null", `{"a"`, strings.Repeat("[", 100000)} {
		if _, err := Review([]byte(bad), "default", clusterOf(nil), Options{}); err == nil {
			t.Errorf("%.20q is an object", bad)
		}
	}
}

// TestReviewLargePods checks that a pod with as many keys as fit into a request takes no quadratic time, which would be
// minutes: the API server has not validated it yet. (behaviour S5.)
func TestReviewLargePods(t *testing.T) {
	t.Parallel()
	const most = 20 * time.Second
	var keys strings.Builder
	for i := range 100000 {
		fmt.Fprintf(&keys, `"k%d":"1",`, i)
	}
	for name, pod := range map[string]string{
		"annotations": `{"kind":"Pod","metadata":{"name":"p","annotations":{` + keys.String() + `"x":""}},"spec":{}}`,
		"resources": `{"kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"resources":{"requests":{` + keys.String() +
			`"x":"1"},"limits":{` + keys.String() + `"x":"1"}}}]}}`,
	} {
		begin := time.Now()
		if _, err := Review([]byte(pod), "default", clusterOf(nil), Options{}); err != nil || time.Since(begin) > most {
			t.Errorf("%s: %s, %v", name, time.Since(begin), err)
		}
	}
}

// FuzzReview checks that Review does not panic, and that a position is in the string that the path names.
func FuzzReview(f *testing.F) {
	paths, err := filepath.Glob("testdata/corpus/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, object := range objectsOf(data) {
			if b, err := sigsyaml.YAMLToJSON([]byte(object)); err == nil {
				f.Add(b)
			}
		}
	}
	o := Options{Config: &config.Plugin{NamespaceIsolation: true}, Disabled: otherRules(f)}
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := Review(data, "default", clusterOf(nil), o)
		if err != nil {
			return
		}
		for _, one := range found {
			if one.Fix == "" || one.Message == "" || (one.Line == 0) != (one.Column == 0) || one.Line < 0 ||
				slices.Contains(o.Disabled, one.Rule) {
				t.Errorf("%+v", one)
			}
			if value := stringAt(data, one.Path); value != "" && one.Line > len(split([]byte(value))) {
				t.Errorf("%+v is outside of %q", one, value)
			}
		}
	})
}
