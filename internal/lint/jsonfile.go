package lint

import (
	"encoding/json"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// onlyJSON matches escapes of JSON that the YAML library refuses, and \\, so that the second of two backslashes is not
// taken for the first one of an escape.
var onlyJSON = regexp.MustCompile(`\\\\|\\/|\\u[dD][89a-bA-B][0-9a-fA-F]{2}(\\u[dD][c-fC-F][0-9a-fA-F]{2})?` +
	`|\\u[dD][c-fC-F][0-9a-fA-F]{2}`)

// shifts are by how much the escapes of a line were shortened, and where.
type shifts map[int][]shift

type shift struct{ column, by int }

// readable returns a file as the YAML library can read it. In JSON, it replaces the escapes that are not in YAML 1.1 by
// the characters.
func readable(f File, lines [][]rune) (string, shifts) {
	if !json.Valid(f.Data) || !onlyJSON.Match(f.Data) {
		return string(f.Data), nil
	}
	moved := shifts{}
	out := make([]string, len(lines))
	for i, line := range lines {
		rest, at := string(line), 1
		for span := onlyJSON.FindStringIndex(rest); span != nil; span = onlyJSON.FindStringIndex(rest) {
			escape, text := rest[span[0]:span[1]], ""
			if escape == `\\` {
				text = escape
			} else {
				_ = json.Unmarshal([]byte(`"`+escape+`"`), &text) // the file is valid
			}
			at += len([]rune(rest[:span[0]])) + len([]rune(text))
			moved[i+1] = append(moved[i+1], shift{at, len(escape) - len([]rune(text))})
			out[i] += rest[:span[0]] + text
			rest = rest[span[1]:]
		}
		out[i] += rest
	}
	return strings.Join(out, "\n"), moved
}

// apply sets the positions in a document to those in the file.
func (s shifts) apply(n *yaml.Node) {
	by := 0
	for _, shift := range s[n.Line] {
		if n.Column >= shift.column {
			by += shift.by
		}
	}
	n.Column += by
	for _, c := range n.Content {
		s.apply(c)
	}
}
