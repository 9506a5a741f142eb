package errtable

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/errors.md")

const page = "../../docs/errors.md"

// begin is the line after which the page is generated. The text before it is written by hand.
const begin = "<!-- From here on: go test ./test/errtable -update -->\n"

// TestPage checks that docs/errors.md contains the errors of the source.
func TestPage(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	guide, got, ok := strings.Cut(string(b), begin)
	if !ok {
		t.Fatalf("%s has no line %q", page, begin)
	}
	want := table(rows(t))
	if *update {
		if err := os.WriteFile(page, []byte(guide+begin+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("not what the source has: go test ./test/errtable -update (-source +page):\n%s", diff)
	}
}

func table(rows []row) string {
	var b strings.Builder
	b.WriteString("\n| Error | Code | What to do | Made in |\n|---|---|---|---|\n")
	cell := func(s string) string { return strings.NewReplacer("|", `\|`, "`", "'").Replace(s) }
	for _, r := range rows {
		message := r.message
		if r.wraps {
			message += ": <cause>"
		}
		codes := make([]string, len(r.codes))
		for i, c := range r.codes {
			codes[i] = strconv.FormatUint(uint64(c), 10)
		}
		fmt.Fprintf(&b, "| `%s` | %s | `%s` | `%s` |\n", cell(message), strings.Join(codes, " or "), cell(r.next), r.where)
	}
	return b.String()
}

// objects are the objects that a message may name without a value at run time, because there is only one of each.
var objects = regexp.MustCompile(
	`netconf|runtimeConfig|daemon configuration|k8s client|clusterNetwork|valid-attachments|readinessindicatorfile|devices of the node`)

// TestText checks that every error has one line, names its object, contains no raw bytes, and says what to do.
func TestText(t *testing.T) {
	t.Parallel()
	all := rows(t)
	const least = 40
	if len(all) < least {
		t.Fatalf("%d errors found, want at least %d", len(all), least)
	}
	for _, r := range all {
		for _, problem := range problems(&r) {
			t.Errorf("%s: %q, %q: %s", r.where, r.message, r.next, problem)
		}
	}
}

func problems(r *row) []string {
	var out []string
	for text, problem := range map[string]string{
		"\n": "more than one line", "%!": "a verb without its argument",
		"Multus:": "the engine puts that in front",
	} {
		if strings.Contains(r.message+r.next, text) {
			out = append(out, problem)
		}
	}
	if !strings.Contains(r.message, "<") && !objects.MatchString(r.message) {
		out = append(out, "names no object")
	}
	if r.next == "" {
		out = append(out, "does not say what to do")
	}
	return out
}

// TestProblems checks that TestText can fail.
func TestProblems(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"network <network> is bad": 0, "it is bad": 1, "a\n<b>": 1,
		"Multus: %!s <x>": 2,
	} {
		if got := problems(&row{message: text, next: "next"}); len(got) != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	if got := problems(&row{message: "<x>"}); len(got) != 1 {
		t.Errorf("no advice: %q", got)
	}
}
