// Package conformance runs the black-box comparison with today's Multus: its scenarios, thin and thick, against
// a real API server. The program and the records of today's Multus live outside of the repository, beside it;
// without them the test is skipped.
package conformance

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multus/test/node"
	"multus/test/testnet"
)

// limit bounds one run of all scenarios.
const limit = 10 * time.Minute

func TestMain(m *testing.M) {
	code := m.Run()
	node.Cleanup()
	os.Exit(code)
}

// suite is where the program is: CONFORMANCE_DIR, or beside the repository.
func suite(t *testing.T, root string) string {
	t.Helper()
	dir := os.Getenv("CONFORMANCE_DIR")
	if dir == "" {
		dir = filepath.Join(root, "..", "shared", "conformance")
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Skipf("no conformance program: set CONFORMANCE_DIR (%v)", err)
	}
	return dir
}

// TestConformance: equal in every scenario but for the listed improvements (docs/compatibility.md).
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	testnet.RequireRoot(t)
	root := node.Root(t)
	dir := suite(t, root)
	tools := filepath.Join(root, "bin", "tools")
	for _, tool := range []string{"kube-apiserver", "etcd"} {
		if _, err := os.Stat(filepath.Join(tools, tool)); err != nil {
			t.Skipf("no %s: run make tools", tool)
		}
	}
	bin := node.Binaries(t)
	out := t.TempDir()
	run(t, dir, "go", "build", "-buildvcs=false", "-o", out+"/", "./differ", "./recorder")
	for _, tc := range []struct {
		impl node.Kind
		args []string
	}{
		{node.Thin, []string{"-plugin", filepath.Join(bin, "multus")}},
		{node.Thick, []string{"-plugin", filepath.Join(bin, "multus-shim"), "-daemon", filepath.Join(bin, "multus-daemon")}},
	} {
		t.Run(string(tc.impl), func(t *testing.T) {
			got := filepath.Join(out, string(tc.impl))
			args := []string{
				"run", "-impl", string(tc.impl), "-out", got, "-scenarios", filepath.Join(dir, "scenarios"),
				"-kube-apiserver", filepath.Join(tools, "kube-apiserver"), "-etcd", filepath.Join(tools, "etcd"),
			}
			run(t, out, filepath.Join(out, "differ"), append(args, tc.args...)...)
			report := run(t, out, filepath.Join(out, "differ"), "compare", "-ignore", filepath.Join(dir, "improvements.json"),
				filepath.Join(dir, "goldens", string(tc.impl)), got)
			lines := strings.Split(strings.TrimSpace(report), "\n")
			t.Log(lines[len(lines)-1])
		})
	}
}

// run runs a program to its end and fails the test, with the output, if it fails.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), args[0], err, differences(string(b)))
	}
	return string(b)
}

// differences leaves out the scenarios that are equal.
func differences(report string) string {
	var out strings.Builder
	for line := range strings.Lines(report) {
		if !strings.HasPrefix(line, "equal ") {
			out.WriteString(line)
		}
	}
	return out.String()
}
