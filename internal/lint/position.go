package lint

import (
	"bytes"
	"regexp"
	"slices"
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
	// indentation), so that the n-th such character of the value is the n-th in the file. offsets are their bytes in the
	// value.
	marks   []mark
	offsets []int
}

// blanks are the escapes of a double-quoted scalar for white space and control characters.
const blanks = "ntrvf0abeNLP_"

func newText(lines [][]rune, n *yaml.Node) text {
	t := text{value: n.Value, start: mark{n.Line, n.Column}, offsets: solid(n.Value)}
	at, quote := t.start, rune(0)
	switch {
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		at = mark{n.Line + 1, 1} // the line of the indicator has no part of the value
	case n.Style&yaml.SingleQuotedStyle != 0:
		quote = '\''
	case n.Style&yaml.DoubleQuotedStyle != 0:
		quote = '"'
	}
	next := func() rune {
		line := lines[at.line-1]
		if at.column > len(line) {
			at = mark{at.line + 1, 1}
			return '\n'
		}
		at.column++
		return line[at.column-2]
	}
	digits := map[rune]int{'x': 2, 'u': 4, 'U': 8}
	open := quote == 0
	for len(t.marks) < len(t.offsets) && at.line <= len(lines) {
		here := at
		r := next()
		switch {
		case !open: // a tag or an anchor precedes the quotation mark
			open = r == quote
			continue
		case r == '\'' && quote == r: // it is doubled
			at.column++
		case r == '\\' && quote == '"' && at.line <= len(lines):
			if r = next(); strings.ContainsRune(blanks, r) {
				continue
			}
			at.column += digits[r]
		}
		if !unicode.IsSpace(r) {
			t.marks = append(t.marks, here)
		}
	}
	return t
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

// split splits a file into lines of characters.
func split(data []byte) [][]rune {
	if !bytes.ContainsAny(data, "\n\r\u0085\u2028\u2029") {
		return [][]rune{[]rune(string(data))}
	}
	var out [][]rune
	for _, line := range breaks.Split(string(data), -1) {
		out = append(out, []rune(line))
	}
	return out
}
