package fault

import (
	"strings"
	"testing"
)

// TestClip checks that a string is cut at the boundary of a character.
func TestClip(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"short":                   "short",
		strings.Repeat("a", 1024): strings.Repeat("a", 1024),
		strings.Repeat("a", 1025): strings.Repeat("a", 1021) + "...",
		strings.Repeat("ü", 600):  strings.Repeat("ü", 510) + "...",
	} {
		if got := Clip(in, 1024); got != want {
			t.Errorf("Clip(%d bytes) = %q", len(in), got)
		}
	}
}
