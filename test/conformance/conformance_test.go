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
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
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
	tools := filepath.Join(root, "bin", "tools")
	for _, tool := range []string{"kube-apiserver", "etcd"} {
		if _, err := os.Stat(filepath.Join(tools, tool)); err != nil {
			t.Skipf("no %s: run make tools", tool)
		}
	}
	bin := node.Binaries(t)
	out := t.TempDir()
	run(t, dir, "go", "build", "-buildvcs=false", "-o", out+"/", "./differ", "./recorder")
	run(t, root, "go", "build", "-buildvcs=false", "-ldflags", "-X main.plugin="+filepath.Join(bin, "multus"), "-o",
		filepath.Join(out, "concurrent"), "./test/conformance/concurrent")
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
			"-plugin", filepath.Join(bin, "multus-shim"), "-daemon",
			filepath.Join(bin, "multus-daemon"),
		}, false},
		// With attachConcurrency everything except the order of the calls is the same.
		{"concurrent", node.Thin, []string{"-plugin", filepath.Join(out, "concurrent")}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, golden := filepath.Join(out, "of-"+tc.name), filepath.Join(dir, "goldens", string(tc.impl))
			scenarios := filepath.Join(dir, "scenarios")
			record := func(scenarios, got string) {
				args := []string{
					"run", "-impl", string(tc.impl), "-out", got, "-scenarios", scenarios,
					"-kube-apiserver", filepath.Join(tools, "kube-apiserver"), "-etcd", filepath.Join(tools, "etcd"),
				}
				run(t, out, filepath.Join(out, "differ"), append(args, tc.args...)...)
			}
			compare := func() (string, error) {
				got, golden := got, golden
				if tc.unordered {
					got, golden = sorted(t, got), sorted(t, golden)
				}
				return try(out, filepath.Join(out, "differ"), "compare", "-ignore", listed, golden, got)
			}
			record(scenarios, got)
			report, err := compare()
			if names := eventsCutOff(report); err != nil && len(names) > 0 {
				t.Logf("run again, since the end of the API server cut off events: %s", names)
				some, again := t.TempDir(), t.TempDir()
				copyFiles(t, scenarios, some, ".yaml", names)
				record(some, again)
				copyFiles(t, again, got, ".json", names)
				report, err = compare()
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, differences(report))
			}
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
	out, err := try(dir, name, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, differences(out))
	}
	return out
}

// try runs a program and returns its output.
func try(dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	b, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", filepath.Base(name), args[0], err)
	}
	return string(b), err
}

// eventsCutOff returns the scenarios of a report that differ, if in each of them the API server becomes unavailable and
// only events differ. Otherwise it returns none. Events are written concurrently with the answer to ADD, as in today's
// Multus, so that on a busy machine the next step of such a scenario can come first.
func eventsCutOff(report string) (names []string) {
	for line := range strings.Lines(differences(report)) {
		name, isScenario := strings.CutPrefix(line, "DIFFERS  ")
		switch {
		case isScenario && strings.HasPrefix(name, "api-down-") && !strings.Contains(name, ":"):
			name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
			names = append(names, name)
		case isScenario, isPath.MatchString(line) && !isEvents.MatchString(line):
			return nil
		}
	}
	return names
}

// A report has a line with four spaces and the path for each difference.
var (
	isPath   = regexp.MustCompile(`^    \S`)
	isEvents = regexp.MustCompile(`^    pods\.[^.]+\.events`)
)

// copyFiles copies the files of scenarios.
func copyFiles(t *testing.T, from, to, ext string, names []string) {
	t.Helper()
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(from, name+ext))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name+ext), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
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

// TestEventsCutOff checks that only the scenarios that may be repeated are returned.
func TestEventsCutOff(t *testing.T) {
	t.Parallel()
	const down, events = "DIFFERS  api-down-del (2 allowed)\n",
		"    pods.a.events\n        golden: {}\n        got:    (none)\n"
	for report, want := range map[string]int{
		"equal    x\n" + down + events + "2 equal, 1 differ\n":                1,
		down + events + strings.Replace(down, "-del", "-x", 1) + events:       2,
		down + events + "    steps.1.ok\n":                                    0,
		down + "    pods.a.status\n":                                          0,
		strings.Replace(down, "api-down", "multi", 1) + events:                0,
		down + events + "DIFFERS  api-down-x: missing in the output folder\n": 0,
		"1 equal, 0 differ\n":                                                 0,
	} {
		if got := eventsCutOff(report); len(got) != want {
			t.Errorf("%q: %q", report, got)
		}
	}
}
