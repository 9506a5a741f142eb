package page

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPages checks that Replace finds the markers of every measurement in its page, and changes nothing else.
func TestPages(t *testing.T) {
	t.Parallel()
	for target, name := range map[string]string{"scale": "scale.md", "bench": "performance.md", "density": "performance.md"} {
		b, err := os.ReadFile(filepath.Join("../../../docs", name))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Replace(file, target, "measured\n"); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		marker := "<!-- From here on: make " + target + " -->\n"
		head, _, _ := strings.Cut(string(b), marker)
		if !strings.HasPrefix(string(got), head+marker+"measured\n<!-- To here. -->\n") {
			t.Errorf("%s: %s", name, got)
		}
	}
	file := filepath.Join(t.TempDir(), "other.md")
	if err := os.WriteFile(file, []byte("# Other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Replace(file, "bench", "x"); err == nil {
		t.Error("a page without a place")
	}
}

func TestBudgets(t *testing.T) {
	t.Parallel()
	const want = "| figure | budget | measured | met |\n|---|---|---|---|\n" +
		"| size | ≤ 5 | 4.80 | yes |\n" +
		"| time | ≤ 1.15 | 1.16 | **no**: [why](#budgets-that-are-not-met) |\n" +
		"| rate | ≥ 2 | 1.99 | **no**: [why](#budgets-that-are-not-met) |\n" +
		"| memory | ≤ 30 | 0.00 | not measured |\n"
	rows := []Budget{
		AtMost("size", 4.8, 5), AtMost("time", 1.16, 1.15), AtLeast("rate", 1.99, 2), AtMost("memory", 0, 30),
	}
	if got := Budgets(rows); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
