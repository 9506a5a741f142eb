package tool

import (
	"errors"
	"strings"
	"testing"
)

// TestNotBuilt checks that the error for a program that was not built names it, and is the one that skips a test.
func TestNotBuilt(t *testing.T) {
	t.Parallel()
	const name = "of-no-set"
	if path, err := Find(name); !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), name) {
		t.Errorf("%q, %v", path, err)
	}
}
