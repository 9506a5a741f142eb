package lint

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

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
	// indentation), so that the n-th such character of the value is the n-th in the file. offsets are their bytes in the
	// value.
	marks   []mark
	offsets []int
}

// verbatim is the style of a string that is in the lines as it is: that of an object of Review.
const verbatim yaml.Style = 1 << 16

// escapes are the escapes of a double-quoted scalar for white space. After x, u and U there is the code of a character.
const escapes = "ntrvfNLP_"

// digits is the length of the code of a character.
var digits = map[rune]int{'x': 2, 'u': 4, 'U': 8}

// newText returns the value of a scalar with the positions of its characters.
func newText(lines [][]rune, n *yaml.Node) text {
	t := text{value: n.Value, start: mark{n.Line, n.Column}, offsets: solid(n.Value)}
	c := &cursor{lines: lines, at: t.start}
	var quote rune
	if n.Style&verbatim == 0 {
		c.skipProperties()
	}
	switch {
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		c.at = mark{c.at.line + 1, 1} // the line of the indicator has no part of the value
	case n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		quote = c.next()
	}
	for len(t.marks) < len(t.offsets) && c.more() {
		here := c.at
		r := c.next()
		switch {
		case r == '\'' && quote == r: // it is doubled
			c.at.column++
		case r == '\\' && quote == '"' && c.more():
			r = c.escaped()
		}
		if !unicode.IsSpace(r) {
			t.marks = append(t.marks, here)
		}
	}
	return t
}

// cursor reads a file from a position.
type cursor struct {
	lines [][]rune
	at    mark
}

func (c *cursor) more() bool { return c.at.line <= len(c.lines) }

// next returns the next character, and a line feed for every line break.
func (c *cursor) next() rune {
	line := c.lines[c.at.line-1]
	if c.at.column > len(line) {
		c.at = mark{c.at.line + 1, 1}
		return '\n'
	}
	c.at.column++
	return line[c.at.column-2]
}

// skipProperties skips what may precede a scalar: its tag and its anchor, white space and comments.
func (c *cursor) skipProperties() {
	for property := false; c.more(); {
		before := c.at
		switch r := c.next(); {
		case r == ' ' || r == '\t' || r == '\n':
			property = false
		case property:
		case r == '!' || r == '&':
			property = true
		case r == '#':
			c.at = mark{before.line + 1, 1}
		default:
			c.at = before
			return
		}
	}
}

// escaped returns the character of an escape, after the backslash. JSON has those beyond 16 bits as two escapes.
func (c *cursor) escaped() rune {
	r := c.next()
	if strings.ContainsRune(escapes, r) {
		return ' '
	}
	first := c.code(r)
	if utf16.IsSurrogate(first) {
		before := *c
		if c.more() && c.next() == '\\' && c.more() {
			if both := utf16.DecodeRune(first, c.code(c.next())); both != unicode.ReplacementChar {
				return both
			}
		}
		*c = before
	}
	return first
}

// code returns the character of which the code follows, if r is x, u or U, and else r.
func (c *cursor) code(r rune) rune {
	n, ok := digits[r]
	line := []rune(nil)
	if ok && c.more() {
		line = c.lines[c.at.line-1]
	}
	if from := c.at.column - 1; ok && from+n <= len(line) {
		if code, err := strconv.ParseUint(string(line[from:from+n]), 16, 31); err == nil {
			c.at.column += n
			return rune(code)
		}
	}
	return r
}

// solid returns the offsets of the characters that are not white space.
func solid(s string) []int {
	var out []int
	for i, r := range s {
		if !unicode.IsSpace(r) {
			out = append(out, i)
		}
	}
	return out
}

// at returns the position of the character at a byte offset of the value, or of the next one that is not white space.
// Beyond the end, it returns that of the last character.
func (t text) at(offset int) mark {
	if len(t.marks) == 0 {
		return t.start
	}
	before, _ := slices.BinarySearch(t.offsets, offset)
	return t.marks[min(before, len(t.marks)-1)]
}

// breaks matches the line breaks of YAML 1.1, by which the YAML library counts lines.
var breaks = regexp.MustCompile("\r\n|[\n\r\u0085\u2028\u2029]")

// split splits a file into lines of characters, without the byte order mark.
func split(data []byte) [][]rune {
	return lines(strings.TrimPrefix(string(data), "\ufeff"))
}

// lines splits a string into lines of characters.
func lines(s string) [][]rune {
	if !strings.ContainsAny(s, "\n\r\u0085\u2028\u2029") {
		return [][]rune{[]rune(s)}
	}
	var out [][]rune
	for _, line := range breaks.Split(s, -1) {
		out = append(out, []rune(line))
	}
	return out
}
