package realnode

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write into deploy/README.md and docs/install.md which manifests are run")

// state is how much of the manifests of a directory is run on a real node.
type state string

const (
	run      state = "run"
	pathsRun state = "paths run"
	notRun   state = "not run"
)

// states returns the state of each directory of deploy by its name below overlays. "base" is the base.
func states(t *testing.T) map[string]state {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(root, "deploy", "overlays", "*"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("overlays: %v, %v", dirs, err)
	}
	out := map[string]state{filepath.Base(nodeBase): run, filepath.Base(nodeThin): run}
	for _, r := range roots {
		name := filepath.Base(r.overlay)
		if r.paths {
			out[name] = pathsRun
		} else {
			out[name] = run
		}
	}
	for _, dir := range dirs {
		if name := filepath.Base(dir); out[name] == "" {
			out[name] = notRun
		}
	}
	return out
}

// inInstall maps each state to its text in docs/install.md.
var inInstall = map[state]string{run: "Run here", pathsRun: "Paths run here", notRun: "Not run"}

var (
	// lineOf matches the line of an overlay in deploy/README.md. Its last cell begins with the state.
	lineOf = regexp.MustCompile("(?m)^(\\| `([a-z0-9-]+)` \\|.*\\| )(run|paths run|not run)(,[^|]*)?( \\|)$")
	// sectionOf matches the heading of a section of docs/install.md.
	sectionOf = regexp.MustCompile(`(?m)^### `)
	overlayIn = regexp.MustCompile("`deploy/(?:overlays/)?([a-z0-9-]+)`")
	saidIn    = regexp.MustCompile(`\*\*(Run here|Paths run here|Not run)(\.?)\*\*`)
)

// TestStates checks that deploy/README.md and docs/install.md describe for each directory what the tests of this
// package run.
func TestStates(t *testing.T) {
	t.Parallel()
	want := states(t)
	for path, rewrite := range map[string]func(string, map[string]state) (string, []string){
		"deploy/README.md": inTable, "docs/install.md": inSections,
	} {
		file := filepath.Join(root, path)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text, said := rewrite(string(b), want)
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if text != string(b) {
			t.Errorf("%s does not have the present states: go test ./test/realnode -run TestStates -update", path)
		}
		count := map[string]int{}
		for _, name := range said {
			count[name]++
		}
		for name := range want {
			// The table has only overlays. The base is above it.
			if n := count[name]; n != 1 && (name != filepath.Base(nodeBase) || path != "deploy/README.md") {
				t.Errorf("%s has %d states of %s, want one", path, n, name)
			}
		}
	}
}

// inTable writes the states into the table of deploy/README.md and returns the overlays that it found.
func inTable(text string, want map[string]state) (string, []string) {
	var said []string
	text = lineOf.ReplaceAllStringFunc(text, func(line string) string {
		m := lineOf.FindStringSubmatch(line)
		said = append(said, m[2])
		return m[1] + string(want[m[2]]) + m[4] + m[5]
	})
	return text, said
}

// inSections writes the states into the sections of docs/install.md and returns the directories that it found.
func inSections(text string, want map[string]state) (string, []string) {
	var said []string
	starts := sectionOf.FindAllStringIndex(text, -1)
	var b strings.Builder
	from := 0
	for i := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		section := text[starts[i][0]:end]
		b.WriteString(text[from:starts[i][0]])
		if m := overlayIn.FindStringSubmatch(section); m != nil && want[m[1]] != "" {
			section = saidIn.ReplaceAllStringFunc(section, func(s string) string {
				said = append(said, m[1])
				return fmt.Sprintf("**%s%s**", inInstall[want[m[1]]], saidIn.FindStringSubmatch(s)[2])
			})
		}
		b.WriteString(section)
		from = end
	}
	b.WriteString(text[from:])
	return b.String(), said
}
