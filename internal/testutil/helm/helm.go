// Package helm runs the pinned Helm for tests. Only tests may import it.
package helm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"multus/internal/testutil/tool"
)

// Run runs helm, and returns what it prints on standard output. It uses neither the settings nor the caches of the
// user. The error has the standard error; it is a tool.ErrNotBuilt if helm was not built. After limit helm is killed.
func Run(tb testing.TB, limit time.Duration, args ...string) (string, error) {
	tb.Helper()
	program, err := tool.Find("helm")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(tb.Context(), limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	dir := tb.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+dir, "HELM_CONFIG_HOME="+dir, "HELM_DATA_HOME="+dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return stdout.String(), fmt.Errorf("helm %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
