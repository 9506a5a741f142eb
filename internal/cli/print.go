package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"multus/internal/logging"
)

// formats are the values of --output.
var formats = []string{"table", "json", "yaml"}

// checkOutput runs before every command, so that none fails after its work because its result cannot be printed.
func (a *app) checkOutput(*cobra.Command, []string) error { return a.checkFormat(formats) }

func (a *app) checkFormat(known []string) error {
	if !slices.Contains(known, a.output) {
		return usageError{fmt.Errorf("unknown output format %q: want %s", a.output, strings.Join(known, ", "))}
	}
	return nil
}

// print writes a value in the requested format. table writes it as text.
func (a *app) print(value any, table func(w io.Writer)) error {
	if a.output == "table" {
		table(&printable{a.Stdout})
		return nil
	}
	b, err := json.MarshalIndent(value, "", "  ")
	switch {
	case err != nil:
	case a.output == "json":
		b = withoutHidden(b, jsonEscape)
	case bytes.ContainsFunc(b, hidden): // a YAML encoder leaves some of them; JSON is YAML, except for some escapes
		b = withoutHidden(b, yamlEscape)
	default:
		b, err = yaml.JSONToYAML(b)
	}
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, err = fmt.Fprintln(a.Stdout, strings.TrimSuffix(string(b), "\n"))
	return err
}

// withoutHidden escapes characters that a terminal would not show unchanged. In JSON, they occur in strings only.
func withoutHidden(doc []byte, escape func(r rune) string) []byte {
	var out []byte
	for _, r := range string(doc) {
		if hidden(r) {
			out = append(out, escape(r)...)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}

func jsonEscape(r rune) (out string) {
	for _, unit := range utf16.AppendRune(nil, r) {
		out += fmt.Sprintf(`\u%04x`, unit)
	}
	return out
}

func yamlEscape(r rune) string { return fmt.Sprintf(`\U%08x`, r) }

func hidden(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }

// printable is a writer that escapes control characters, because the output contains what users wrote and what other
// machines sent. It does not escape our own colours.
type printable struct{ w io.Writer }

func (p *printable) Write(b []byte) (int, error) {
	if _, err := io.WriteString(p.w, escaped(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

func escaped(s string) string {
	plain := func(r rune) bool { return r == '\n' || r == '\t' || unicode.IsPrint(r) }
	var b strings.Builder
	for s != "" {
		at := ourColours.FindStringIndex(s)
		if at == nil {
			at = []int{len(s), len(s)}
		}
		b.WriteString(logging.Escape(s[:at[0]], plain) + s[at[0]:at[1]])
		s = s[at[1]:]
	}
	return b.String()
}

// columns writes rows in columns. The first row is the header.
func columns(w io.Writer, rows ...[]string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	_ = t.Flush() // the underlying writer reports its own errors
}

// The colours of severities on a terminal.
const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	green  = "\x1b[32m"
	bold   = "\x1b[1m"
	reset  = "\x1b[0m"
)

// ourColours matches what paint writes.
var ourColours = regexp.MustCompile(`\x1b\[(31|33|32|1|0)m`)

// paint colours a string if the output is a terminal and NO_COLOR is not set (https://no-color.org).
func (a *app) paint(colour, s string) string {
	if !a.Terminal || a.Getenv("NO_COLOR") != "" {
		return s
	}
	return colour + s + reset
}

// dash replaces an empty string in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
