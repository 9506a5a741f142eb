package errtable

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/fault"
)

var update = flag.Bool("update", false, "write docs/errors.md")

const page = "../../docs/errors.md"

// begin is the line after which the page is generated. The text before it is written by hand.
const begin = "<!-- From here on: go test ./test/errtable -update -->\n"

// TestPage checks that docs/errors.md contains the errors of the catalogue.
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
	want := table(sorted())
	if *update {
		if err := os.WriteFile(page, []byte(guide+begin+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("not the catalogue: go test ./test/errtable -update (-catalogue +page):\n%s", diff)
	}
}

// sorted returns the catalogue by code and message.
func sorted() []fault.Entry {
	entries := fault.Catalogue()
	slices.SortStableFunc(entries, func(a, b fault.Entry) int {
		if a.Code != b.Code {
			return int(a.Code) - int(b.Code)
		}
		return strings.Compare(a.Message, b.Message)
	})
	return entries
}

func table(entries []fault.Entry) string {
	var b strings.Builder
	b.WriteString("\n| Error | Code | What to do |\n|---|---|---|\n")
	cell := func(s string) string { return strings.NewReplacer("|", `\|`, "`", "'").Replace(s) }
	for _, e := range entries {
		message, code := e.Message, fmt.Sprint(e.Code)
		if e.Wraps {
			message += ": <cause>"
		}
		if e.MayPass {
			code += fmt.Sprintf(" or %d", fault.TryAgain)
		}
		fmt.Fprintf(&b, "| `%s` | %s | `%s` |\n", cell(message), code, cell(e.Next))
	}
	return b.String()
}

// objects are the objects that a message may name without a value at run time, because there is only one of each.
var objects = regexp.MustCompile(
	`netconf|runtimeConfig|daemon configuration|k8s client|clusterNetwork|valid-attachments|readinessindicatorfile|devices of the node|networks of running pods`)

// TestText checks that every error has one line, names its object, contains no raw bytes, and says what to do.
func TestText(t *testing.T) {
	t.Parallel()
	for _, e := range fault.Catalogue() {
		for _, problem := range problems(&e) {
			t.Errorf("%q, %q: %s", e.Message, e.Next, problem)
		}
	}
}

func problems(e *fault.Entry) []string {
	var out []string
	for text, problem := range map[string]string{
		"\n": "more than one line", "%!": "a verb without its argument",
		"Multus:": "the engine adds this prefix",
	} {
		if strings.Contains(e.Message+e.Next, text) {
			out = append(out, problem)
		}
	}
	if !strings.Contains(e.Message, "<") && !objects.MatchString(e.Message) {
		out = append(out, "names no object")
	}
	if e.Next == "" {
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
		if got := problems(&fault.Entry{Message: text, Next: "next"}); len(got) != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	if got := problems(&fault.Entry{Message: "<x>"}); len(got) != 1 {
		t.Errorf("no advice: %q", got)
	}
}
