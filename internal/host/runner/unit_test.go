package runner_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"multus/internal/host/runner"
	"multus/internal/testutil/unit"
)

func run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = runner.Run(args, strings.NewReader(""), &out, &errs, func(string) string { return "" })
	return code, out.String(), errs.String()
}

// TestUnit checks the settings of deploy/systemd/multus-runner.service that the runner depends on, and that the runner
// accepts its command line. TestHotPlug of test/realnode runs that command on a node.
func TestUnit(t *testing.T) {
	t.Parallel()
	settings, err := unit.Runner()
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"Unit.StartLimitIntervalSec": "0", "Service.Restart": "always", "Service.KillMode": "mixed",
		"Install.WantedBy": "multi-user.target",
	} {
		if settings[key] != want {
			t.Errorf("%s is %q, want %q", key, settings[key], want)
		}
	}
	command := strings.Fields(settings["Service.ExecStart"])
	if len(command) < 4 || !strings.HasSuffix(command[0], "/multus-shim") || command[1] != "runner" ||
		!strings.Contains(settings["Service.ExecStart"], "--linger 0s") {
		t.Fatalf("ExecStart is %q", command)
	}
	if code, stdout, stderr := run(append(command[2:], "--help")...); code != 0 || stdout == "" || stderr != "" {
		t.Errorf("ExecStart with --help: exit code %d, %s%s", code, stdout, stderr)
	}
	// One pod may take as long as the engine allows.
	if stop, err := time.ParseDuration(settings["Service.TimeoutStopSec"]); err != nil || stop < runner.StopLimit {
		t.Errorf("TimeoutStopSec is %s, less than %s: %v", stop, runner.StopLimit, err)
	}
}

// TestInNode checks that --in-node takes no value: with one, the program would start itself again and again.
func TestInNode(t *testing.T) {
	t.Parallel()
	if code, _, stderr := run("--in-node=true"); code != 2 || !strings.Contains(stderr, "--in-node takes no value") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
