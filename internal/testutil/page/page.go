// Package page writes the results of a measurement into a page of the documentation, between two lines that name the
// make target, and compares the generated end of a page with what it is generated from. The rest of the page is written
// by people. Only tests import the package.
package page

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/fsx"
)

// Replace replaces the lines between the markers of a make target.
func Replace(path, target, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := fmt.Sprintf("<!-- From here on: make %s -->\n", target), "<!-- To here. -->\n"
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return fmt.Errorf("%s has no lines %q and %q", path, begin, end)
	}
	return fsx.WriteAtomic(path, []byte(before+begin+text+end+after), 0o644)
}

// Compare compares the end of a page with a text, and writes it instead if update is set. The end begins after a line
// that names the command which writes it.
func Compare(tb testing.TB, path, command, want string, update bool) {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	begin := fmt.Sprintf("<!-- From here on: %s -->\n", command)
	guide, got, ok := strings.Cut(string(b), begin)
	if !ok {
		tb.Fatalf("%s has no line %q", path, begin)
	}
	if update {
		if err := fsx.WriteAtomic(path, []byte(guide+begin+want), 0o644); err != nil {
			tb.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("%s is not what the code has: %s (-code +page):\n%s", path, command, diff)
	}
}

// Machine describes this machine in a few words.
func Machine() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // only informative
	return fmt.Sprintf("%d cores, Linux %s, %s", runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version())
}

// Budget is one row of a table of budgets.
type Budget struct {
	what, limit, got string
	met, taken       bool
}

// AtMost returns the budget of a figure that must not exceed its limit. The figure 0 was not measured.
func AtMost(what string, got, limit float64) Budget {
	return Budget{what, fmt.Sprintf("≤ %g", limit), fmt.Sprintf("%.2f", got), got <= limit, got != 0}
}

// AtLeast returns the budget of a figure that must reach its limit. The figure 0 was not measured.
func AtLeast(what string, got, limit float64) Budget {
	return Budget{what, fmt.Sprintf("≥ %g", limit), fmt.Sprintf("%.2f", got), got >= limit, got != 0}
}

// Budgets returns a Markdown table. A figure that was not measured is neither met nor missed.
func Budgets(rows []Budget) string {
	var b strings.Builder
	b.WriteString("| figure | budget | measured | met |\n|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.what, r.limit, r.got, r.verdict())
	}
	return b.String()
}

func (b Budget) verdict() string {
	switch {
	case !b.taken:
		return "not measured"
	case b.met:
		return "yes"
	}
	return "**no**: [why](#budgets-that-are-not-met)"
}
