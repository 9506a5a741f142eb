// Package conformance runs the black-box comparison with today's Multus: its scenarios, thin and thick, with a real API
// server. The program and the records of today's Multus are outside of the repository. Without them the test is
// skipped.
package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
	"multus/internal/testutil/tool"
)

// limit bounds one run of all scenarios.
const limit = 10 * time.Minute

func TestMain(m *testing.M) {
	code := m.Run()
	node.Cleanup()
	os.Exit(code)
}

// suite returns the directory of the program: CONFORMANCE_DIR, or the default beside the repository.
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

// TestConformance checks that every scenario is equal except for the listed improvements (docs/compatibility.md).
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	testnet.RequireRoot(t)
	root := node.Root(t)
	dir := suite(t, root)
	tools := filepath.Dir(tool.Path(t, "kube-apiserver"))
	tool.Path(t, "etcd")
	bin := node.Binaries(t)
	out := t.TempDir()
	run(t, dir, "go", "build", "-buildvcs=false", "-o", out+"/", "./differ", "./recorder")
	for name, with := range map[string]struct{ plugin, keys string }{
		"concurrent": {"multus", `{"attachConcurrency":4}`}, "serial": {"multus", `{"prestart":false}`},
		"waiting": {"multus-shim", `{"statusWait":true}`}, // the program reads the status as soon as ADD has returned
	} {
		run(t, root, "go", "build", "-buildvcs=false", "-ldflags",
			"-X main.plugin="+filepath.Join(bin, with.plugin)+" -X main.keys="+with.keys, "-o", filepath.Join(out, name),
			"./test/conformance/withkeys")
	}
	listed := listedDifferences(t, filepath.Join(dir, "improvements.json"), "differences.json")
	for _, tc := range []struct {
		name string
		impl node.Kind
		args []string
		// unordered reports whether the order of calls is ignored.
		unordered bool
	}{
		{"thin", node.Thin, []string{"-plugin", filepath.Join(bin, "multus")}, false},
		{"thick", node.Thick, []string{
			"-plugin", filepath.Join(out, "waiting"), "-daemon",
			filepath.Join(bin, "multus-daemon"),
		}, false},
		// With attachConcurrency everything except the order of the calls is the same.
		{"concurrent", node.Thin, []string{"-plugin", filepath.Join(out, "concurrent")}, true},
		// The others start delegates ahead (key prestart), unless the node is busy.
		{"without prestart", node.Thin, []string{"-plugin", filepath.Join(out, "serial")}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, golden := filepath.Join(out, "of-"+tc.name), filepath.Join(dir, "goldens", string(tc.impl))
			args := []string{
				"run", "-impl", string(tc.impl), "-out", got, "-scenarios", filepath.Join(dir, "scenarios"),
				"-kube-apiserver", filepath.Join(tools, "kube-apiserver"), "-etcd", filepath.Join(tools, "etcd"),
			}
			run(t, out, filepath.Join(out, "differ"), append(args, tc.args...)...)
			if tc.unordered {
				got, golden = sorted(t, got), sorted(t, golden)
			}
			report := run(t, out, filepath.Join(out, "differ"), "compare", "-ignore", listed, golden, got)
			lines := strings.Split(strings.TrimSpace(report), "\n")
			t.Log(lines[len(lines)-1])
		})
	}
}

// listedDifferences merges the improvements that the suite lists and those that were made later.
func listedDifferences(t *testing.T, files ...string) string {
	t.Helper()
	var all []json.RawMessage
	for _, file := range files {
		b, err := os.ReadFile(file)
		var some []json.RawMessage
		if err == nil {
			err = json.Unmarshal(b, &some)
		}
		if err != nil {
			t.Fatalf("read %s: %v", file, err)
		}
		all = append(all, some...)
	}
	b, err := json.Marshal(all)
	path := filepath.Join(t.TempDir(), "differences.json")
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// sorted copies records and sorts the calls of each attaching step by interface. The calls of one interface stay in
// their order.
func sorted(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no records in %s: %v", dir, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var record map[string]any
		if err := json.Unmarshal(b, &record); err != nil {
			t.Fatal(err)
		}
		steps, _ := record["steps"].([]any)
		for _, s := range steps {
			step, _ := s.(map[string]any)
			calls, _ := step["calls"].([]any)
			slices.SortStableFunc(calls, func(a, b any) int { return strings.Compare(attachment(a), attachment(b)) })
		}
		if b, err = json.Marshal(record); err == nil {
			err = os.WriteFile(filepath.Join(out, filepath.Base(file)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// attachment returns the verb, the container and the interface of a call.
func attachment(call any) string {
	c, _ := call.(map[string]any)
	env, _ := c["env"].(map[string]any)
	return fmt.Sprint(c["command"], env["CNI_CONTAINERID"], env["CNI_IFNAME"])
}

// run runs a program and fails the test with the output if the program fails.
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

// differences returns a report without the scenarios that are equal.
func differences(report string) string {
	var out strings.Builder
	for line := range strings.Lines(report) {
		if !strings.HasPrefix(line, "equal ") {
			out.WriteString(line)
		}
	}
	return out.String()
}
