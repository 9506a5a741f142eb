package lint

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestRules checks that the IDs of the rules are sorted, unique and in kebab case, that every rule of the planner is
// among them, and that the corpus has a finding of each rule, with its severity or a lower one.
func TestRules(t *testing.T) {
	t.Parallel()
	severities := map[string]Severity{}
	last := ""
	for _, r := range Rules() {
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(r.ID) || r.ID <= last || r.About == "" {
			t.Errorf("%+v after %s", r, last)
		}
		severities[r.ID], last = r.Severity, r.ID
	}
	src, err := os.ReadFile("../engine/plan/refusal.go")
	if err != nil {
		t.Fatal(err)
	}
	planned := regexp.MustCompile(`Rule = "([a-z-]+)"`).FindAllStringSubmatch(string(src), -1)
	const least = 14
	if len(planned) < least {
		t.Errorf("%d rules of the planner, want at least %d", len(planned), least)
	}
	for _, m := range planned {
		if severities[m[1]] != Error {
			t.Errorf("no rule for %s of the planner, or not an error", m[1])
		}
	}
	paths, err := filepath.Glob("testdata/corpus/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range wanted.FindAllSubmatch(data, -1) {
			field := strings.Fields(string(m[1]))
			severity, rule := Severity(field[1]), field[2]
			if severity != severities[rule] && severity != Warning {
				t.Errorf("%s: %s, want %s", path, m[1], severities[rule])
			}
			found = append(found, rule)
		}
	}
	for rule := range severities {
		if !slices.Contains(found, rule) {
			t.Errorf("no file for rule %s", rule)
		}
	}
}

// TestIgnored checks that a rule that is disabled, or that the annotation of an object names, has no findings, and that
// the other rules have.
func TestIgnored(t *testing.T) {
	t.Parallel()
	const definition = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: NAME, namespace: team-a, annotations: {ANNOTATION}}
spec: {config: '{"type": "macvlan", "mode": "x", "mtu": -1, "mastr": "eth1"}'}
---`
	file := func(ignored string) File {
		plain := strings.NewReplacer("NAME", "plain", "ANNOTATION", "").Replace(definition)
		return File{Name: "f", Data: []byte(plain + strings.NewReplacer("NAME", "ignores", "ANNOTATION",
			Ignore+`: "`+ignored+`"`).Replace(definition))}
	}
	for _, tc := range []struct {
		ignored  string
		disabled []string
		want     string
	}{
		{"", nil, "plain value, plain value, plain unknown-key, ignores value, ignores value, ignores unknown-key"},
		{"value", nil, "plain value, plain value, plain unknown-key, ignores unknown-key"},
		{"unknown-key, value", nil, "plain value, plain value, plain unknown-key"},
		{"", []string{"value"}, "plain unknown-key, ignores unknown-key"},
		{"unknown-key", []string{"value", "mac"}, "plain unknown-key"},
	} {
		var got []string
		for _, f := range Run([]File{file(tc.ignored)}, Options{Disabled: tc.disabled}) {
			_, name, _ := strings.Cut(f.Object, "/")
			got = append(got, name+" "+f.Rule)
		}
		if s := strings.Join(got, ", "); s != tc.want {
			t.Errorf("%q, %q: %s, want %s", tc.ignored, tc.disabled, s, tc.want)
		}
	}
}

// TestSeverities checks that a changed severity is that of all findings of the rule, and of no other.
func TestSeverities(t *testing.T) {
	t.Parallel()
	file := File{Name: "f", Data: []byte(`
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: net.a, namespace: team-a}
spec: {config: '{"type": "macvlan", "mode": "x", "mastr": "eth1"}'}
`)}
	for _, tc := range []struct {
		changed map[string]Severity
		want    string
	}{
		{nil, "warning name, error value, warning unknown-key"},
		{map[string]Severity{"value": Warning, "mac": Error}, "warning name, warning value, warning unknown-key"},
		{map[string]Severity{"unknown-key": Error, "name": Error}, "error name, error value, error unknown-key"},
	} {
		var got []string
		for _, f := range Run([]File{file}, Options{Severities: tc.changed}) {
			got = append(got, string(f.Severity)+" "+f.Rule)
		}
		if s := strings.Join(got, ", "); s != tc.want {
			t.Errorf("%v: %s, want %s", tc.changed, s, tc.want)
		}
	}
}
