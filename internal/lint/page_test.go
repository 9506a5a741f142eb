package lint

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multus/internal/testutil/page"
)

var update = flag.Bool("update", false, "write the rules of docs/lint.md")

// TestPage compares docs/lint.md with the rules, and with what they find in the corpus.
func TestPage(t *testing.T) {
	t.Parallel()
	var index, rules strings.Builder
	index.WriteString("| Rule | Severity | Finds |\n|---|---|---|\n")
	examples := readExamples(t)
	for _, r := range Rules() {
		fmt.Fprintf(&index, "| [`%s`](#%[1]s) | %s | %s |\n", r.ID, r.Severity, r.About)
		e, ok := examples[r.ID]
		if !ok {
			t.Errorf("no file of the corpus has a finding of rule %s", r.ID)
			continue
		}
		fmt.Fprintf(&rules, "\n### %s\n\nFinds %s. Severity: %s.\n\n```yaml\n%s```\n\n", r.ID, r.About, r.Severity, e.source)
		for _, f := range e.findings {
			fmt.Fprintf(&rules, "- line %d, column %d, %s: %s. **Fix:** %s\n", f.Line, f.Column, f.Severity,
				outsideCode(f.Message), outsideCode(f.Fix))
		}
	}
	page.Compare(t, "../../docs/lint.md", "go test ./internal/lint -run TestPage -update", index.String()+rules.String(),
		*update)
}

// example is a file of the corpus, and the findings of one rule in it.
type example struct {
	source   string
	findings []Finding
}

// readExamples returns for each rule the shortest file of the corpus that has findings of it, if possible of no other
// rule.
func readExamples(t *testing.T) map[string]example {
	t.Helper()
	paths, err := filepath.Glob("testdata/corpus/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	out, best := map[string]example{}, map[string]int{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		o := corpusOptions(data)
		shown, _, _ := strings.Cut(string(data), "# want ")
		found := Run([]File{{Name: path, Data: data}}, o)
		for _, f := range found {
			of := slices.DeleteFunc(slices.Clone(found), func(o Finding) bool { return o.Rule != f.Rule })
			cost := len(shown)
			if len(of) < len(found) {
				cost += 1 << 20
			}
			if least, ok := best[f.Rule]; !ok || cost < least {
				best[f.Rule], out[f.Rule] = cost, example{shown, of}
			}
		}
	}
	return out
}

// outsideCode escapes what Markdown would not show as it is.
func outsideCode(s string) string {
	return strings.NewReplacer("<", `\<`, "*", `\*`, "_", `\_`, "[", `\[`, "\n", " ").Replace(s)
}
