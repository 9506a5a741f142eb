package lint

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"multus/internal/config"
	"multus/internal/engine/plan"
)

var (
	wanted  = regexp.MustCompile(`(?m)^# want (.*)$`)
	options = regexp.MustCompile(`(?m)^# options: (.*)$`)
)

// TestCorpus checks files as users write them. The last lines of each file are the expected findings and their
// positions. (behaviour B6, C10-C15, C20-C32, C40-C42, C50-C52, C80-C82, D34, H21; multus-cni#1130, multus-cni#635,
// multus-cni#714, multus-cni#180, multus-cni#224.)
func TestCorpus(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/corpus/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const least = 60
	if len(paths) < least {
		t.Errorf("%d files, want at least %d", len(paths), least)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, m := range wanted.FindAllSubmatch(data, -1) {
				want = append(want, string(m[1]))
			}
			o := corpusOptions(data)
			var got []string
			for _, f := range Run([]File{{Name: path, Data: data}}, o) {
				got = append(got, fmt.Sprintf("%d:%d %s %s", f.Line, f.Column, f.Severity, f.Rule))
				if f.Message == "" || f.Fix == "" || f.File != path {
					t.Errorf("%+v", f)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" || len(got) == 0 {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// corpusOptions returns the options that a file of the corpus requests.
func corpusOptions(data []byte) Options {
	o := Options{Config: &config.Plugin{}}
	if m := options.FindSubmatch(data); m != nil {
		o.Config.NamespaceIsolation, o.Complete = string(m[1]) == "isolation", string(m[1]) == "complete"
		if allowed, ok := strings.CutPrefix(string(m[1]), "allowed "); ok {
			o.Config.AllowedTypes = []string{allowed}
		}
	}
	return o
}

// TestExamples checks that nothing is found in the examples, each file by itself and all together.
func TestExamples(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(paths) < 5 {
		t.Fatalf("%v, %v", paths, err)
	}
	var all []File
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f := File{Name: path, Data: data}
		if found := Run([]File{f}, Options{}); len(found) > 0 {
			t.Errorf("%+v", found)
		}
		all = append(all, f)
	}
	if found := Run(all, Options{Complete: true}); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	// isolation.yaml documents that this pod is refused.
	found := Run(all, Options{Config: &config.Plugin{NamespaceIsolation: true}})
	if len(found) != 1 || found[0].Rule != "isolation" || found[0].Object != "Pod team-b/stranger" {
		t.Errorf("%+v", found)
	}
}

// TestAcrossFiles checks a pod against the definitions of other files.
func TestAcrossFiles(t *testing.T) {
	t.Parallel()
	nets := File{Name: "nets", Data: []byte(
		"{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: net}, spec: {config: " +
			"'{\"type\":\"macvlan\"}'}}")}
	pods := File{Name: "pods", Data: []byte(
		"{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {k8s.v1.cni.cncf.io/networks: " +
			"'[{\"name\":\"net\",\"mac\":\"02:00:00:00:00:01\"}]'}}}")}
	for _, files := range [][]File{{nets, pods}, {pods, nets}} {
		found := Run(files, Options{Complete: true})
		if len(found) != 1 || found[0].Rule != "capability" || found[0].File != "pods" {
			t.Errorf("%+v", found)
		}
	}
}

// TestConfiguration checks that the limits of the cluster's configuration apply, that a definition which they refuse is
// reported once and not for its pods, and that the networks of the configuration are not looked up.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	file := File{Name: "f", Data: []byte(`
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: net, namespace: team-a}
spec: {config: '{"type": "macvlan", "allowInUse": true}'}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: team-a, annotations: {k8s.v1.cni.cncf.io/networks: "net, net"}}
`)}
	cluster := config.Plugin{
		ClusterNetwork: "/nowhere/10-cluster.conflist", DefaultNetworks: []string{"none"}, AuxiliaryChain: "none",
	}
	for _, tc := range []struct {
		set  func(*config.Plugin)
		want string
	}{
		{func(*config.Plugin) {}, ""},
		{func(c *config.Plugin) { c.AllowedTypes = []string{"bridge"} }, "5:26 allowed"},
		{func(c *config.Plugin) { c.AllowInUseNamespaces = []string{"infra"} }, "5:51 allowed"},
		{func(c *config.Plugin) { c.MaxNetworks = 2 }, "9:87 limit"},
		{func(c *config.Plugin) { c.MaxNetworks = 1 }, "9:87 limit"},
	} {
		conf, got := cluster, ""
		tc.set(&conf)
		for _, f := range Run([]File{file}, Options{Config: &conf, Complete: true}) {
			got += fmt.Sprintf("%d:%d %s", f.Line, f.Column, f.Rule)
		}
		if got != tc.want {
			t.Errorf("%s, want %s", got, tc.want)
		}
	}
}

// TestTooLarge checks that a valid configuration that is too large for ADD is reported at its beginning.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	found := Run([]File{{Name: "f", Data: []byte("{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, " +
		"metadata: {name: net},\nspec: {config: '{\"type\":\"x\",\"a\":\"" + strings.Repeat("x", plan.MaxConfigBytes) + "\"}'}}")}},
		Options{})
	if len(found) != 1 || found[0].Rule != "config" || found[0].Line != 2 ||
		!strings.Contains(found[0].Message, "at most") {
		t.Errorf("%+v", found)
	}
}

// TestPositions checks the position of each character of a scalar, in every YAML style.
func TestPositions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		file string
		// position of the X in the value
		line, column int
	}{
		"plain":                {"k: aXb\n", 1, 5},
		"plain, two lines":     {"k: a\n   b X\n", 2, 6},
		"single-quoted":        {"k: 'it''s ''X'\n", 1, 13},
		"double-quoted":        {`k: "\"\t\u0041\x42 \\X"` + "\n", 1, 22},
		"double-quoted, lines": {"k: \"a\n  b \\\n  X\"\n", 3, 3},
		"literal":              {"k: |\n  a\n\n    X\n", 4, 5},
		"literal, indicators":  {"k: |2-\n    X\n", 2, 5},
		"folded":               {"k: >-  # comment X\n  a\n  b\n\n  X\n", 5, 3},
		"tagged":               {"k: !!str 'X'\n", 1, 11},
		"umlauts":              {"k: 'äöü X'\n", 1, 9},
		"wide":                 {"k: '😀 X'\n", 1, 7},
		"tagged, plain":        {"k: !!str aXb\n", 1, 11},
		"tag and comment":      {"k: !!str # it's a \"comment\"\n  'X'\n", 2, 4},
		"tag on its own line":  {"k: !!str\n  |\n  a\n  X\n", 4, 3},
		"anchor":               {"k: &a |\n  a\n  X\n", 3, 3},
		"anchor and quotes":    {`k: &a "a X"` + "\n", 1, 10},
		"alias":                {"a: &a |\n  a\n  X\nk: *a\n", 3, 3},
		"line breaks of DOS":   {"k: |\r\n  a\r\n  X\r\n", 3, 3},
		"byte order mark":      {"\ufeff{\"k\": \"X\"}", 1, 8},
		"JSON":                 {`{"k": "{\n  \"a\": \"X\"}"}`, 1, 22},
		"JSON on lines":        {"{\n\t\"k\": \"a X\"\n}", 2, 10},
		"JSON, escaped slash":  {`{"k": "\/ X"}`, 1, 11},
		"JSON, brackets":       {`{"k": "\u003ca\u003e X"}`, 1, 22},
		"JSON, escaped blank":  {`{"k": "a\u0020\u00a0 X"}`, 1, 22},
		"escaped controls":     {`k: "\0\a\b\e X"` + "\n", 1, 14},
		"escaped blanks":       {`k: "\n\v\f\r\N\_\L\P\x20\  X"` + "\n", 1, 28},
		"escaped wide":         {`k: "\U0001f600 X"` + "\n", 1, 16},
		"JSON, surrogates":     {`{"k": "\ud83d\ude00 X"}`, 1, 21},
		"JSON, half of two":    {`{"k": "\ud83d \\\/X"}`, 1, 19},
		"JSON, after escapes":  {`{"\/": "\ud83d\ude00", "k": "\\/X"}`, 1, 33},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := scalar(t, tc.file)
			if got := v.at(strings.IndexByte(v.value, 'X')); got != (mark{tc.line, tc.column}) {
				t.Errorf("%+v in %q, want %d:%d", got, v.value, tc.line, tc.column)
			}
			if v.at(1000) == (mark{}) || v.at(0).line == 0 {
				t.Error("no place at the ends")
			}
		})
	}
}

// otherRules returns the rules that a fuzz target leaves out: all but the one that the environment variable LINT_RULE
// names, if it is set.
func otherRules(f *testing.F) []string {
	f.Helper()
	only := os.Getenv("LINT_RULE")
	if only == "" {
		return nil
	}
	var others []string
	for _, r := range Rules() {
		if r.ID != only {
			others = append(others, r.ID)
		}
	}
	if len(others) == len(Rules()) {
		f.Fatalf("LINT_RULE: no rule %q", only)
	}
	return others
}

// FuzzRun checks that Run does not panic, and that every finding has a position in the file and a fix.
func FuzzRun(f *testing.F) {
	paths, err := filepath.Glob("testdata/corpus/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	o := Options{Config: &config.Plugin{NamespaceIsolation: true}, Complete: true, Disabled: otherRules(f)}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := len(split(data))
		found := Run([]File{{Name: "f", Data: data}}, o)
		if i := slices.IndexFunc(found, func(f Finding) bool {
			return f.Line < 1 || f.Line > lines+1 || f.Column < 1 || f.Fix == "" || slices.Contains(o.Disabled, f.Rule)
		}); i >= 0 {
			t.Errorf("%+v", found[i])
		}
	})
}

// FuzzTree checks that the tree has the values of encoding/json, and that every part is at its position.
func FuzzTree(f *testing.F) {
	for _, seed := range []string{`{"a": [1, {"b": null}], "c" : "d"}`, `[]`, ` "x" `, `{"a":}`, `[1 2]`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, src string) {
		root, err := parseTree(src)
		if err != nil {
			return
		}
		root.walk(func(n *tree) {
			if n.offset >= len(src) || strings.ContainsRune(" \t\r\n,:]}", rune(src[n.offset])) {
				t.Errorf("nothing begins at %d of %q", n.offset, src)
			}
		})
	})
}

func (t *tree) walk(visit func(*tree)) {
	visit(t)
	for _, m := range t.members {
		m.value.walk(visit)
	}
	for _, item := range t.items {
		item.walk(visit)
	}
}

// FuzzPositions checks that each character of a value has its position in JSON and in YAML.
func FuzzPositions(f *testing.F) {
	for _, seed := range []string{"a b", "{\n\t\"a\": \"b\"\n}", "😀/\\ \u00a0\u2028'#x", "'", "\x00\b\u0085 end", "a: b # c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		const most = 200 // each character is looked up
		value = value[:min(most, len(value))]
		inJSON, err := json.Marshal(map[string]string{"a/": "x", "k": value})
		if err != nil {
			t.Fatal(err)
		}
		inYAML, err := yaml.Marshal(map[string]string{"a": "x", "k": value})
		if err != nil {
			return
		}
		for _, file := range []string{string(inJSON), strings.ReplaceAll(string(inJSON), "/", `\/`), string(inYAML)} {
			lines := split([]byte(file))
			source, _ := readable(File{Data: []byte(file)}, lines)
			if yaml.Unmarshal([]byte(source), &yaml.Node{}) != nil {
				continue // control characters, and values that the library writes in a form that it cannot read
			}
			v := scalar(t, file)
			for i, r := range v.value {
				if unicode.IsSpace(r) {
					continue
				}
				at := v.at(i)
				if got := lines[at.line-1][at.column-1]; got != r && got != '\\' {
					t.Fatalf("%q of %q is at %v of %q", r, v.value, at, file)
				}
			}
		}
	})
}
