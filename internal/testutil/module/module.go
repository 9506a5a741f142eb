// Package module finds files in the folder of this module for tests. Only tests and their helpers may import it.
package module

import (
	"fmt"
	"os"
	"path/filepath"
)

// Root returns the folder with go.mod that contains the working directory. Tests run in the folder of their package.
func Root() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find working directory: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find go.mod above %q: %w", wd, os.ErrNotExist)
		}
	}
}
