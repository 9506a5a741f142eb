// Command table prints a table of tests (scenario, result, seconds) from the output of `go test -json`:
//
//	table results.json
//
// A test with subtests is replaced by these, one level deep. The value of Attr("note", …) follows the time of a test.
// The exit code does not depend on the results of the tests.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"text/tabwriter"
)

// event is one line of `go test -json`.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Key     string
	Value   string
}

// scenario is one line of the table.
type scenario struct {
	pkg, test string
	result    string
	seconds   float64
	notes     []string
	parent    bool // replaced by its subtests
}

// unfinished is the result of a test that was still running when the output ended.
const unfinished = "CUT OFF"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: table FILE")
	}
	f, err := os.Open(args[0])
	if err != nil {
		return fmt.Errorf("open results: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	scenarios, err := read(f)
	if err != nil {
		return err
	}
	return write(w, scenarios)
}

// read returns the tests in the order in which they began.
func read(r io.Reader) ([]*scenario, error) {
	var all []*scenario
	known := map[string]*scenario{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read results: %w", err)
		}
		if e.Test == "" || strings.Count(e.Test, "/") > 1 {
			continue
		}
		key := e.Package + " " + e.Test
		s := known[key]
		if s == nil {
			s = &scenario{pkg: path.Base(e.Package), test: e.Test, result: unfinished}
			known[key] = s
			all = append(all, s)
			if p := known[e.Package+" "+path.Dir(e.Test)]; p != nil {
				p.parent = true
			}
		}
		s.take(&e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	return all, nil
}

func (s *scenario) take(e *event) {
	switch e.Action {
	case "pass":
		s.result, s.seconds = "ok", e.Elapsed
	case "fail":
		s.result, s.seconds = "FAILED", e.Elapsed
	case "skip":
		s.result, s.seconds = "skipped", e.Elapsed
	case "attr":
		if e.Key == "note" {
			s.notes = append(s.notes, e.Value)
		}
	}
}

func write(w io.Writer, scenarios []*scenario) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	counts := map[string]int{}
	for _, s := range scenarios {
		if s.parent && (s.result == "ok" || s.result == "skipped") {
			continue
		}
		counts[s.result]++
		line := fmt.Sprintf("%s\t%s\t%s\t%.1f", s.pkg, s.test, s.result, s.seconds)
		if len(s.notes) > 0 {
			line += "\t" + strings.Join(s.notes, "; ")
		}
		fmt.Fprintln(t, line)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	_, err := fmt.Fprintf(w, "%d scenarios ok, %d failed, %d skipped, %d cut off\n", counts["ok"], counts["FAILED"],
		counts["skipped"], counts[unfinished])
	return err
}
