package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheck checks that every network of the pod gets a CHECK, and that each answer is printed.
func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	recordSandbox(t, dir, "aaaa", "web-0", "/proc/self/ns/net")
	plugins := t.TempDir()
	script := "#!/bin/sh\ncat >/dev/null\ntest $CNI_COMMAND = CHECK && { echo '{\"code\":999,\"msg\":\"its address is " +
		"gone\"}'; exit 1; }\nexit 0\n"
	for _, name := range []string{"bridge", "macvlan"} {
		if err := os.WriteFile(filepath.Join(plugins, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"--state-dir", dir, "--plugin-dir", plugins, "--lock-file", filepath.Join(dir, "locks")}
	code, out, errs := call(t, nil, append([]string{"check", "team-a/web-0"}, args...)...)
	if code != Found || !strings.Contains(out, "eth0") || !strings.Contains(out, "net1") ||
		!strings.Contains(out, "failed") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if code, _, errs := call(t, nil, append([]string{"check", "team-a/none"}, args...)...); code == OK ||
		!strings.Contains(errs, "multusctl ledger ls") {
		t.Errorf("%d %s", code, errs)
	}
}
