package fault

import "unicode/utf8"

// Limits for strings that a tenant may have written, in log lines, errors and events.
const (
	MaxName    = 253  // name of an object
	MaxMessage = 1024 // message
	MaxValue   = 64   // value of a key that is short if it is valid, such as a version
)

// Clip shortens a string to limit bytes, at the boundary of a character.
func Clip(s string, limit int) string {
	const mark = "..."
	if len(s) <= limit {
		return s
	}
	end := limit - len(mark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// Text returns the text of an error for a log line.
func Text(err error) string { return Clip(err.Error(), MaxMessage) }
