package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestEveryRuleHasATest checks that each rule of the page is cited by a test or has a reason, and that every cited rule
// is on the page.
func TestEveryRuleHasATest(t *testing.T) {
	t.Parallel()
	if err := run(io.Discard, filepath.Join("..", "..")); err != nil {
		t.Error(err)
	}
}

// TestPageIsNeeded checks that any rule that is removed from the real page is reported.
func TestPageIsNeeded(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	b, err := os.ReadFile(filepath.Join(root, pageFile))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := parsePage(string(b))
	if err != nil {
		t.Fatal(err)
	}
	cited, err := citations(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"A2", "B30", "D46", "H21", "O64"} {
		without, err := parsePage(strings.Replace(string(b), "- **"+gone+"** ", "- ", 1))
		if err != nil || len(without.rules) != len(whole.rules)-1 {
			t.Fatalf("%s: %v", gone, err)
		}
		if err := unknown(without, cited, nil); err == nil || !strings.Contains(err.Error(), gone+" is not in "+pageFile) {
			t.Errorf("without %s: %v", gone, err)
		}
	}
}

// word is in the sources of this test without a rule after it, so that they cite nothing.
const word = "behaviour"

const aPage = "# P\n\n## A. One\n\n- **A1** First.\n- **A2** Second\n  (A1).\n\n### A.2 Two\n\n- **A9** Last, `B7`.\n"

// write creates a repository with a page, reasons and one more file.
func write(t *testing.T, page, moot, name, text string) string {
	t.Helper()
	root := t.TempDir()
	for file, content := range map[string]string{pageFile: page, mootFile: moot, name: text} {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestRun checks the errors for missing tests, unknown rules and wrong pages.
func TestRun(t *testing.T) {
	t.Parallel()
	all := "// TestX: x (" + word + " A1, A2; A9).\n"
	for _, tc := range []struct {
		name, page, moot, file, text string
		want                         string // "" for no error
	}{
		{"all cited", aPage, "", "x_test.go", all, ""},
		{"a range over a gap", aPage, "", "x_test.go", "// TestX: x (" + word + " A1-A9).\n", ""},
		{"a citation of three lines", aPage, "", "x_test.go", "// TestX: x (" + word + "\n// A1, A2,\n// A9).\n", ""},
		{"a reason", aPage, "# c\nA9 cannot be tested\n", "x_test.go", "// TestX shows A1 and A2.\n", ""},
		{"a section", aPage, "", "x_test.go", all + "// (" + word + " A.2, " + word + " A).\n", ""},
		{"data of a test", aPage, "", "x/y.txtar", word + " A1, A2, A9: x\n", ""},
		{"no test", aPage, "", "x_test.go", "// TestX: x (" + word + " A1, A9).\n", "rule A2 has no test"},
		{"only cited by code", aPage, "", "x.go", all, "rule A1 has no test"},
		{"an unknown rule in a test", aPage, "", "x_test.go", all + "// (" + word + " A3)\n", "x_test.go:2: A3 is not in"},
		{"an unknown rule in a row", aPage, "", "x_test.go", all + "var _ = \"" + "A4 x\"\n", "x_test.go:2: A4 is not in"},
		{"an unknown rule in a page", aPage, "", "docs/x.md", "x\ny " + word + " A7.\n", "docs/x.md:2: A7 is not in"},
		{"an unknown end of a range", aPage, "", "x_test.go", "// (" + word + " A1-A10)\n", "x_test.go:1: A10 is not in"},
		{"an unknown section", aPage, "", "x_test.go", all + "// (" + word + " B.2)\n", "x_test.go:2: B.2 is not in"},
		{"an unknown rule in the first cell", aPage, "", compatibilityFile, "| A1, A6 | B6 |\n", "A6 is not in"},
		{"an unknown rule in the page", aPage + "See A5.\n", "", "x_test.go", all, "docs/behaviour.md:12: A5 is not in"},
		{
			"a difference that is not listed", strings.Replace(aPage, "First.", "First. Differs:\n  x.", 1), "",
			"x_test.go", all, "the difference of A1 is not in",
		},
		{
			"a difference that is listed", strings.Replace(aPage, "First.", "First. Differs: x.", 1), "A1-A2 x\nA9 x\n",
			compatibilityFile, "| A1-A2 | x |\n", "",
		},
		{"a reason for an unknown rule", aPage, "A8 x\n", "x_test.go", all, "moot.txt: A8 is not in"},
		{"a reason without words", aPage, "A1\n", "x_test.go", all, "want a rule and a reason"},
		{"a citation of the file", aPage, "", "x.go", "\n// " + word + ".md A1\n", "x.go:2: cite a rule as"},
		{"a rule twice", aPage + "- **A1** Again.\n", "", "x_test.go", all, "A1 is there twice"},
		{"a rule in another section", aPage + "- **B1** Here.\n", "", "x_test.go", all, `rule B1 is in section "A.2"`},
		{"not a rule", "# P\n", "", "x_test.go", all, "has no rule"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := run(io.Discard, write(t, tc.page, tc.moot, tc.file, tc.text))
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
	if err := run(io.Discard, t.TempDir()); err == nil || !strings.Contains(err.Error(), pageFile) {
		t.Errorf("without a page: %v", err)
	}
}

// TestCitations checks that the rules of one comment are found, and no others.
func TestCitations(t *testing.T) {
	t.Parallel()
	got, err := scan("x_test.go", "// TestX: something ("+word+" A1, A3-A5; B1 and B2). C3.")
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	for _, c := range got {
		rules = append(rules, c.rules...)
	}
	if want := []string{"A1", "A3", "A4", "A5", "B1", "B2"}; !slices.Equal(rules, want) {
		t.Errorf("rules %v, want %v", rules, want)
	}
	if _, _, err := expand("A9-A1"); err == nil {
		t.Error("a range that ends before it begins is accepted")
	}
}
