package cli

import (
	"strings"
	"testing"
)

// TestEscaped: what users wrote does not reach a terminal as a command; what it shows as it is stays so.
func TestEscaped(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"team-a/web-0\teth0\n":     "team-a/web-0\teth0\n",
		"\x1b]0;pwn\a":             `\x1b]0;pwn\a`,
		red + "problem:" + reset:   red + "problem:" + reset,
		"\x1b[31mx\x1b[2J":         red + `x\x1b[2J`,
		"é 網\u202e\u0007":          `é 網\u202e\a`,
		"\xff\xfe":                 `\xff\xfe`,
		"a\rb":                     `a\rb`,
		strings.Repeat("x", 1<<16): strings.Repeat("x", 1<<16),
	} {
		if got := escaped(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

// FuzzEscaped: nothing but printable characters, lines, tabs and our colours comes out.
func FuzzEscaped(f *testing.F) {
	for _, s := range []string{"", "a", "\x1b[31m", "\x1b[31", "\xff", "\u009b31m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := ourColours.ReplaceAllString(escaped(s), "")
		if strings.ContainsFunc(out, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 }) {
			t.Errorf("%q becomes %q", s, out)
		}
	})
}
