package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// cite is one citation of a rule, a range of rules or a section.
type cite struct {
	file string
	line int
	// ends must be on the page: the rule, both ends of the range, or the section.
	ends []string
	// rules are all rules of the range. It is nil for a section.
	rules []string
	// test reports whether the citation says what a test shows.
	test bool
}

// numbers matches the rules of one citation: C12, D30-D35; C40 and C41. They may continue in the next line of a
// comment.
const numbers = `([A-Z]\d+(?:(?:[-–, ;]|and|[A-Z]?\d+|\n\s*//)+)?)`

var (
	// citation matches the word and the rules after it.
	citation = regexp.MustCompile(`\bbehaviour(?: |\n\s*// )` + numbers)
	// section matches the word and a section after it: D.4, L.
	section = regexp.MustCompile(`\bbehaviour ([A-Z](?:\.\d)?)[^\w.]`)
	// shows matches the beginning of a test's comment: "TestX shows F20 and M25", "TestX checks F20".
	shows = regexp.MustCompile(`// (?:Test|Fuzz)\w+ (?:shows|checks) ` + numbers)
	// row matches the name of a row of a table: "D112 K5 two interfaces".
	row = regexp.MustCompile(`"((?:[A-Z]\d+(?:[-–][A-Z]?\d+)? )+)`)
	// file matches a form that is not allowed: rules are cited by the page's name without the extension.
	file = regexp.MustCompile(`\bbehaviour\.md (?:[A-Z]\d+)`)
	// first matches the first cell of a table's row in Markdown.
	first = regexp.MustCompile(`(?m)^\| ([^|]*) \|`)
	// code matches a code span of Markdown, which may continue in the next line.
	code = regexp.MustCompile("`[^`]*`")

	oneRule = regexp.MustCompile(`\b[A-Z]\d+(?:[-–][A-Z]?\d+)?\b`)
)

// citations returns every citation of the repository.
func citations(root string) ([]cite, error) {
	var out []cite
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "bin", "dist"}, d.Name()) {
			return filepath.SkipDir
		}
		name, err := filepath.Rel(root, path)
		if err != nil || d.IsDir() || !readable(name) {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found, err := scan(filepath.ToSlash(name), string(b))
		out = append(out, found...)
		return err
	})
	return out, err
}

// readable reports whether a file may have citations.
func readable(name string) bool {
	extensions := []string{".go", ".md", ".txtar", ".yaml"}
	return filepath.Base(name) == "Makefile" || slices.Contains(extensions, filepath.Ext(name))
}

// scan returns the citations of one file.
func scan(name, text string) ([]cite, error) {
	if at := file.FindStringIndex(text); at != nil {
		return nil, fmt.Errorf("%s:%d: cite a rule as `behaviour B30`", name, lineOf(text, at[0]))
	}
	isTest := strings.HasSuffix(name, "_test.go")
	var out []cite
	find := func(text string, test bool, patterns ...*regexp.Regexp) error {
		for _, pattern := range patterns {
			for _, at := range pattern.FindAllStringSubmatchIndex(text, -1) {
				// The whole match where the pattern has no group.
				from, to := at[len(at)-2], at[len(at)-1]
				for _, word := range oneRule.FindAllString(text[from:to], -1) {
					rules, ends, err := expand(word)
					if err != nil {
						return fmt.Errorf("%s:%d: %w", name, lineOf(text, from), err)
					}
					out = append(out, cite{file: name, line: lineOf(text, from), ends: ends, rules: rules, test: test})
				}
			}
		}
		return nil
	}
	for _, at := range section.FindAllStringSubmatchIndex(text, -1) {
		out = append(out, cite{file: name, line: lineOf(text, at[2]), ends: []string{text[at[2]:at[3]]}})
	}
	err := find(text, isTest || strings.HasSuffix(name, ".txtar"), citation)
	switch {
	case err != nil:
	case isTest:
		err = find(text, true, shows, row)
	case name == pageFile: // the page refers to its own rules by their numbers alone
		err = find(withoutCode(text), false, oneRule)
	case name == compatibilityFile:
		err = find(withoutCode(text), false, first)
	}
	return out, err
}

// withoutCode returns a page with its code spans blank, so that lines and places stay as they are.
func withoutCode(text string) string {
	return code.ReplaceAllStringFunc(text, func(span string) string {
		return strings.Map(func(r rune) rune {
			if r == '\n' {
				return r
			}
			return ' '
		}, span)
	})
}

func lineOf(text string, at int) int { return 1 + strings.Count(text[:at], "\n") }

// testsOf maps each rule to the files of the tests that cite it.
func testsOf(cited []cite) map[string][]string {
	out := map[string][]string{}
	for _, c := range cited {
		for _, r := range c.rules {
			if c.test && !slices.Contains(out[r], c.file) {
				out[r] = append(out[r], c.file)
			}
		}
	}
	return out
}
