package lint

import (
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// mark is a position in a file. It starts at 1 and counts characters.
type mark struct{ line, column int }

// text is a scalar of a YAML file with the position of each of its characters in the file, for all styles: block
// scalars are indented, and quoted ones have escapes.
type text struct {
	value string
	start mark
	// marks are the positions of the characters that are not white space. YAML changes only white space (folding,
	// indentation), so that the n-th such character of the value is the n-th in the file.
	marks []mark
}

func newText(lines [][]rune, n *yaml.Node) text {
	t := text{value: n.Value, start: mark{n.Line, n.Column}}
	want := 0
	for _, r := range n.Value {
		if !unicode.IsSpace(r) {
			want++
		}
	}
	s := scanner{lines: lines, line: n.Line - 1, column: n.Column - 1}
	switch {
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		s.line, s.column = s.line+1, 0 // the line of the indicator has no part of the value
	case n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		s.quote = '\''
		if n.Style&yaml.DoubleQuotedStyle != 0 {
			s.quote = '"'
		}
		for s.more() && s.next() != s.quote { // skip a tag or an anchor
		}
	}
	for len(t.marks) < want && s.more() {
		at := mark{s.line + 1, s.column + 1}
		if r := s.character(); !unicode.IsSpace(r) {
			t.marks = append(t.marks, at)
		}
	}
	return t
}

// at returns the position of the character at a byte offset of the value, or of the next one that is not white space.
// Beyond the end, it returns that of the last character.
func (t text) at(offset int) mark {
	n := 0
	for i, r := range t.value {
		if i >= offset {
			break
		}
		if !unicode.IsSpace(r) {
			n++
		}
	}
	switch {
	case n < len(t.marks):
		return t.marks[n]
	case len(t.marks) > 0:
		return t.marks[len(t.marks)-1]
	}
	return t.start
}

// scanner reads the characters of a scalar as they are in the file.
type scanner struct {
	lines        [][]rune
	line, column int
	// quote is the quotation mark around the scalar, or 0.
	quote rune
}

func (s *scanner) more() bool { return s.line < len(s.lines) }

func (s *scanner) next() rune {
	if s.column >= len(s.lines[s.line]) {
		s.line, s.column = s.line+1, 0
		return '\n'
	}
	s.column++
	return s.lines[s.line][s.column-1]
}

// character reads what represents one character of the value.
func (s *scanner) character() rune {
	r := s.next()
	switch {
	case s.quote == '\'' && r == '\'' && s.more():
		return s.next() // a quotation mark is doubled
	case s.quote == '"' && r == '\\' && s.more():
		return s.escaped()
	}
	return r
}

// escaped reads an escape sequence of a double-quoted scalar, after the backslash.
func (s *scanner) escaped() rune {
	r := s.next()
	digits := map[rune]int{'x': 2, 'u': 4, 'U': 8}[r]
	if digits == 0 {
		if strings.ContainsRune("ntrvf0abeNLP_", r) {
			return ' ' // white space and control characters, of which JSON permits no control characters
		}
		return r
	}
	var hex strings.Builder
	for range digits {
		if s.more() {
			hex.WriteRune(s.next())
		}
	}
	code, err := strconv.ParseInt(hex.String(), 16, 32)
	if err != nil {
		return unicode.ReplacementChar
	}
	return rune(code)
}

// split splits a file into lines of characters.
func split(data []byte) [][]rune {
	var out [][]rune
	for line := range strings.SplitSeq(string(data), "\n") {
		out = append(out, []rune(line))
	}
	return out
}
