// rules lists, for each rule of docs/behaviour.md, the tests that cite it (`behaviour C27`). It fails if a rule has no
// test, or if a rule or section is cited that the page does not have. Rules that cannot be tested are listed with the
// reason in moot.txt.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The files that the program reads, below the root of the repository.
const (
	pageFile          = "docs/behaviour.md"
	compatibilityFile = "docs/compatibility.md"
	mootFile          = "tools/rules/moot.txt"
)

func main() {
	if err := run(os.Stdout, "."); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, root string) error {
	b, err := os.ReadFile(filepath.Join(root, pageFile))
	if err != nil {
		return err
	}
	p, err := parsePage(string(b))
	if err != nil {
		return err
	}
	if b, err = os.ReadFile(filepath.Join(root, mootFile)); err != nil {
		return err
	}
	moot, err := reasons(string(b))
	if err != nil {
		return err
	}
	cited, err := citations(root)
	if err != nil {
		return err
	}
	return errors.Join(list(w, p, cited, moot), unknown(p, cited, moot), unlisted(p, cited))
}

// list prints each rule with its tests, or with the reason why it has none. It returns an error for each rule that has
// neither.
func list(w io.Writer, p *page, cited []cite, moot map[string]string) error {
	tests := testsOf(cited)
	var errs []error
	tested := 0
	for _, r := range p.rules {
		why, isMoot := moot[r]
		switch {
		case len(tests[r]) > 0:
			tested++
			fmt.Fprintf(w, "%-5s %s\n", r, strings.Join(tests[r], " "))
		case isMoot:
			fmt.Fprintf(w, "%-5s none: %s\n", r, why)
		default:
			fmt.Fprintf(w, "%-5s NO TEST\n", r)
			errs = append(errs, fmt.Errorf("rule %s has no test", r))
		}
	}
	fmt.Fprintf(w, "%d rules: %d tested, %d without a test for a reason, %d missing\n",
		len(p.rules), tested, len(p.rules)-tested-len(errs), len(errs))
	return errors.Join(errs...)
}

// unknown returns an error for each rule and section that is cited, or has a reason, and is not on the page.
func unknown(p *page, cited []cite, moot map[string]string) error {
	var errs []error
	for _, c := range cited {
		for _, name := range c.ends {
			if !p.has(name) {
				errs = append(errs, fmt.Errorf("%s:%d: %s is not in %s", c.file, c.line, name, pageFile))
			}
		}
	}
	for r := range moot {
		if !p.has(r) {
			errs = append(errs, fmt.Errorf("%s: %s is not in %s", mootFile, r, pageFile))
		}
	}
	return errors.Join(errs...)
}

// unlisted returns an error for each rule that says how today's Multus differs and is not in a row of the page that
// lists these differences.
func unlisted(p *page, cited []cite) error {
	var errs []error
	for _, r := range p.differs {
		listed := func(c cite) bool { return c.file == compatibilityFile && slices.Contains(c.rules, r) }
		if !slices.ContainsFunc(cited, listed) {
			errs = append(errs, fmt.Errorf("%s: the difference of %s is not in %s", pageFile, r, compatibilityFile))
		}
	}
	return errors.Join(errs...)
}

// page is the content of docs/behaviour.md.
type page struct {
	rules []string // in order
	// differs are the rules that say how today's Multus differs.
	differs []string
	known   map[string]bool
}

var (
	ruleLine    = regexp.MustCompile(`^- \*\*([A-Z]\d+)\*\* \S`)
	sectionLine = regexp.MustCompile(`^#{2,3} ([A-Z](?:\.\d+)?)\.? `)
)

func parsePage(text string) (*page, error) {
	p := &page{known: map[string]bool{}}
	section := ""
	for line := range strings.Lines(text) {
		name := ""
		if m := sectionLine.FindStringSubmatch(line); m != nil {
			section, name = m[1], m[1]
		}
		if m := ruleLine.FindStringSubmatch(line); m != nil {
			if name = m[1]; name[:1] != section[:min(1, len(section))] {
				return nil, fmt.Errorf("%s: rule %s is in section %q", pageFile, name, section)
			}
			p.rules = append(p.rules, name)
		}
		if n := len(p.rules); n > 0 && strings.Contains(line, "Differs:") && !slices.Contains(p.differs, p.rules[n-1]) {
			p.differs = append(p.differs, p.rules[n-1])
		}
		if name == "" {
			continue
		}
		if p.known[name] {
			return nil, fmt.Errorf("%s: %s is there twice", pageFile, name)
		}
		p.known[name] = true
	}
	if len(p.rules) == 0 {
		return nil, fmt.Errorf("%s has no rule", pageFile)
	}
	return p, nil
}

func (p *page) has(name string) bool { return p.known[name] }

var ruleRange = regexp.MustCompile(`^([A-Z])(\d+)(?:[-–]([A-Z]?)(\d+))?$`)

// expand returns the rules of A1 or of A1-A9. ends are the first and the last of them. There may be gaps between them.
func expand(s string) (rules, ends []string, err error) {
	m := ruleRange.FindStringSubmatch(s)
	if m == nil || m[3] != "" && m[3] != m[1] {
		return nil, nil, fmt.Errorf("%q is no rule and no range of rules", s)
	}
	from, err := strconv.Atoi(m[2])
	if err != nil {
		return nil, nil, err
	}
	to := from
	if m[4] != "" {
		if to, err = strconv.Atoi(m[4]); err != nil {
			return nil, nil, err
		}
	}
	if to < from {
		return nil, nil, fmt.Errorf("%q ends before it begins", s)
	}
	for i := from; i <= to; i++ {
		rules = append(rules, m[1]+strconv.Itoa(i))
	}
	return rules, slices.Compact([]string{rules[0], rules[len(rules)-1]}), nil
}

// reasons parses lines of the form "A1-A3 why".
func reasons(text string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		head, why, ok := strings.Cut(strings.TrimSpace(line), " ")
		if head == "" || strings.HasPrefix(head, "#") {
			continue
		}
		rules, _, err := expand(head)
		if err != nil || !ok {
			return nil, fmt.Errorf("%s: %q: want a rule and a reason: %w", mootFile, line, err)
		}
		for _, r := range rules {
			out[r] = why
		}
	}
	return out, nil
}
