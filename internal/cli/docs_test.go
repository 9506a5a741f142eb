package cli

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"multus/internal/doctor"
	"multus/internal/lint"
)

// TestDocs checks that docs/multusctl.md names every command, every check of the doctor and every lint rule of the
// corpus.
func TestDocs(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/multusctl.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	root := Command(Env{
		Args: []string{"multusctl"}, Getenv: func(string) string { return "" }, Stdout: &bytes.Buffer{},
		Stderr: &bytes.Buffer{},
	})
	for _, c := range everyCommand(root) {
		if c.HasSubCommands() || c.Name() == "help" || c.Parent().Name() == "completion" {
			continue
		}
		if !strings.Contains(doc, c.CommandPath()) {
			t.Errorf("%s is not in the document", c.CommandPath())
		}
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
	}
	for _, c := range doctor.Checks() {
		if !strings.Contains(doc, "| `"+c.Name+"` |") {
			t.Errorf("check %s is not in the document", c.Name)
		}
	}
	for _, r := range lint.Rules() {
		if !strings.Contains(doc, "`"+r.ID+"`") {
			t.Errorf("rule %s is not in the document", r.ID)
		}
	}
	corpus, err := os.ReadDir("../lint/testdata/corpus")
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`(?m)^# want \S+ \S+ (\S+)$`)
	for _, f := range corpus {
		data, err := os.ReadFile("../lint/testdata/corpus/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range want.FindAllStringSubmatch(string(data), -1) {
			if !strings.Contains(doc, "`"+m[1]+"`") {
				t.Errorf("rule %s of %s is not in the document", m[1], f.Name())
			}
		}
	}
}
