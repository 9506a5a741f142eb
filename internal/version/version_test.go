package version

import (
	"regexp"
	"testing"
)

// TestVersion checks the format of the version (D3).
func TestVersion(t *testing.T) {
	t.Parallel()
	if got := String(); !regexp.MustCompile(`^version:.*\((clean|dirty)\), commit:.+, date:.+$`).MatchString(got) {
		t.Errorf("%q", got)
	}
}
