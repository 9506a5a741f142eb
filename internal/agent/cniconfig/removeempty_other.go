//go:build !linux

package cniconfig

import (
	"errors"
	"fmt"
)

// removeEmpty returns an error: only the daemon, which runs on Linux, writes CNI configurations.
func removeEmpty(dir string) error { return fmt.Errorf("remove %q: %w", dir, errors.ErrUnsupported) }
