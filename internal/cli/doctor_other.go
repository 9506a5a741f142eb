//go:build !linux

package cli

import (
	"context"
	"errors"
)

// daemonVersion returns an error: the daemon runs on Linux.
func daemonVersion(context.Context, string) (string, error) { return "", errors.ErrUnsupported }
