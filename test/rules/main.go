// rules lists, for each rule of the behaviour specification that this project implements, the tests that cite it
// (`behaviour.md C27`), and fails on a rule without a test. Rules that cannot be tested, or that the design
// makes moot, are listed with the reason in moot.txt.
package main

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// rulesText has the rules, one range a line: A1-A9.
//
//go:embed rules.txt
var rulesText string

// mootText has the rules without a test: the rule, and why.
//
//go:embed moot.txt
var mootText string

func main() {
	if err := run(os.Stdout, "."); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, root string) error {
	rules, err := expandLines(rulesText)
	if err != nil {
		return err
	}
	moot, err := reasons(mootText)
	if err != nil {
		return err
	}
	cited, err := citations(root)
	if err != nil {
		return err
	}
	var errs []error
	tested := 0
	for _, r := range rules {
		files := cited[r]
		why, isMoot := moot[r]
		switch {
		case len(files) > 0:
			tested++
			fmt.Fprintf(w, "%-5s %s\n", r, strings.Join(files, " "))
		case isMoot:
			fmt.Fprintf(w, "%-5s none: %s\n", r, why)
		default:
			fmt.Fprintf(w, "%-5s NO TEST\n", r)
			errs = append(errs, fmt.Errorf("rule %s has no test", r))
		}
		delete(moot, r)
	}
	for r := range moot {
		errs = append(errs, fmt.Errorf("moot.txt: %s is no rule", r))
	}
	fmt.Fprintf(w, "%d rules: %d tested, %d without a test for a reason, %d missing\n", len(rules), tested,
		len(rules)-tested-len(errs), len(errs))
	return errors.Join(errs...)
}

var ruleRange = regexp.MustCompile(`^([A-Z])(\d+)(?:[-–]([A-Z]?)(\d+))?$`)

// expand turns A1 and A1-A9 into rules.
func expand(s string) ([]string, error) {
	m := ruleRange.FindStringSubmatch(s)
	if m == nil || m[3] != "" && m[3] != m[1] {
		return nil, fmt.Errorf("%q is no rule and no range of rules", s)
	}
	from, err := strconv.Atoi(m[2])
	if err != nil {
		return nil, err
	}
	to := from
	if m[4] != "" {
		if to, err = strconv.Atoi(m[4]); err != nil {
			return nil, err
		}
	}
	var out []string
	for i := from; i <= to; i++ {
		out = append(out, m[1]+strconv.Itoa(i))
	}
	return out, nil
}

func expandLines(text string) ([]string, error) {
	var out []string
	for word := range strings.FieldsSeq(text) {
		rules, err := expand(word)
		if err != nil {
			return nil, fmt.Errorf("rules.txt: %w", err)
		}
		out = append(out, rules...)
	}
	return out, nil
}

// reasons reads lines "A1-A3 why".
func reasons(text string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		head, why, ok := strings.Cut(strings.TrimSpace(line), " ")
		if head == "" || strings.HasPrefix(head, "#") {
			continue
		}
		rules, err := expand(head)
		if err != nil || !ok {
			return nil, fmt.Errorf("moot.txt: %q: want a rule and a reason: %w", line, err)
		}
		for _, r := range rules {
			out[r] = why
		}
	}
	return out, nil
}

// citation is "behaviour.md" and the rules after it: C12, D30-D35 [quirk]; C40 and C41.
var (
	citation = regexp.MustCompile(`behaviour(?:\.md)? ([A-Z]\d+(?:(?:[-–, ;]|and|\[quirk\]|[A-Z]?\d+|\n\s*//)+)?)`)
	oneRule  = regexp.MustCompile(`[A-Z]\d+(?:[-–][A-Z]?\d+)?`)
	// shows is how a test's comment begins: "TestX shows F20 and P09".
	shows = regexp.MustCompile(`// (?:Test|Fuzz)\w+ shows ([A-Z]\d+(?:(?:[-–, ;]|and|\[quirk\]|[A-Z]?\d+|\n\s*//)+)?)`)
	// row is the name of a table's row: "D112 K5 two interfaces".
	row = regexp.MustCompile(`"((?:[A-Z]\d+(?:[-–][A-Z]?\d+)? )+)`)
)

// citations maps each rule to the tests that cite it: test files and their data.
func citations(root string) (map[string][]string, error) {
	out := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, ".txtar") {
			return nil
		}
		return scan(path, out)
	})
	return out, err
}

func scan(path string, out map[string][]string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var text strings.Builder
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		text.WriteString(sc.Text() + "\n")
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	found := citation.FindAllStringSubmatch(text.String(), -1)
	if strings.HasSuffix(path, "_test.go") {
		found = append(found, shows.FindAllStringSubmatch(text.String(), -1)...)
		found = append(found, row.FindAllStringSubmatch(text.String(), -1)...)
	}
	for _, m := range found {
		for _, word := range oneRule.FindAllString(m[1], -1) {
			rules, err := expand(word)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			for _, r := range rules {
				if !slices.Contains(out[r], path) {
					out[r] = append(out[r], path)
				}
			}
		}
	}
	return nil
}
