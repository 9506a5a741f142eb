package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// change is an entry of the change log, as Artifact Hub reads it.
type change struct {
	Kind        string `json:"kind"`
	Description string `json:"description"`
}

// changes returns the entries of this version in CHANGELOG.md.
func (r *release) changes() ([]change, error) {
	b, err := os.ReadFile(filepath.Join(r.src, "CHANGELOG.md"))
	if err != nil {
		return nil, err
	}
	number := strings.TrimPrefix(r.version, "v")
	out := entries(string(b), number)
	if len(out) == 0 {
		fmt.Fprintf(r.stdout, "  CHANGELOG.md has no entries of %s: those of Unreleased are used\n", number)
		out = entries(string(b), "Unreleased")
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("CHANGELOG.md has entries neither of %s nor of Unreleased", number)
	}
	return out, nil
}

// kinds are the headings of keep-a-changelog, which are also Artifact Hub's kinds of changes.
var kinds = []string{"added", "changed", "deprecated", "removed", "fixed", "security"}

// entries returns the entries of the section of a version, `## [1.2.3] - date`.
func entries(log, version string) (out []change) {
	in, kind, open := false, "", false
	for line := range strings.Lines(log) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "## "):
			in, kind, open = strings.HasPrefix(line, "## ["+version+"]"), "", false
		case strings.HasPrefix(line, "### "):
			kind, open = strings.ToLower(strings.TrimPrefix(line, "### ")), false
		case !in || !slices.Contains(kinds, kind):
		case strings.HasPrefix(line, "- "):
			out, open = append(out, change{kind, strings.TrimPrefix(line, "- ")}), true
		case strings.TrimSpace(line) == "":
			open = false
		case open:
			out[len(out)-1].Description += " " + strings.TrimSpace(line)
		}
	}
	return out
}
