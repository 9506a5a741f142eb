// Package tool finds the pinned programs that tests run. Only tests and their helpers may import it.
package tool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"multus/internal/testutil/module"
)

// ErrNotBuilt is returned for a program that was not built.
var ErrNotBuilt = errors.New("not built: make tools, or tools/build with the name of its set")

// Find returns the absolute path of a program of bin/tools.
func Find(name string) (string, error) {
	root, err := module.Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "tools", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find %s: %w: %w", name, ErrNotBuilt, err)
	}
	return path, nil
}

// Path is like Find. It skips the test if the program was not built.
func Path(tb testing.TB, name string) string {
	tb.Helper()
	path, err := Find(name)
	if errors.Is(err, ErrNotBuilt) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return path
}
