package cli

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestEscaped checks that control characters in what users wrote are escaped, and that printable text is unchanged.
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

// FuzzEscaped checks that the output has only printable characters, newlines, tabs and our colours.
func FuzzEscaped(f *testing.F) {
	for _, s := range []string{"", "a", "\x1b[31m", "\x1b[31", "\xff", "\u009b31m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := ourColours.ReplaceAllString(escaped(s), "")
		if strings.ContainsFunc(out, func(r rune) bool {
			return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f &&
				r < 0xa0
		}) {
			t.Errorf("%q becomes %q", s, out)
		}
	})
}

// TestEscapedDocuments checks that JSON and YAML have no control characters and keep their meaning.
func TestEscapedDocuments(t *testing.T) {
	t.Parallel()
	want := map[string]string{"a": "tab\tline\nC1 \u009b31m, right to left \u202e, tag \U000e0041, ü"}
	for _, format := range []string{"json", "yaml"} {
		var out bytes.Buffer
		a := &app{output: format}
		a.Stdout = &out
		if err := a.print(want, nil); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if i := strings.IndexFunc(out.String(), hidden); i >= 0 {
			t.Errorf("%s: %q", format, out.String())
		}
		got, decode := map[string]string{}, json.Unmarshal
		if format == "yaml" {
			decode = func(b []byte, v any) error { return yaml.Unmarshal(b, v) }
		}
		if err := decode(out.Bytes(), &got); err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: %v, %q", format, err, got)
		}
	}
}
