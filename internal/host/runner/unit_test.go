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

// TestArguments checks that a wrong argument, or a configuration that does not call Multus, is reported.
func TestArguments(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--linger"}, 2, "--linger needs a value"},
		{[]string{"--linger=soon"}, 2, `--linger "soon" is no duration`},
		{[]string{"--linger", "-1s"}, 2, "is no duration"},
		{[]string{"--in-node=true"}, 2, "--in-node takes no value"},
		{[]string{"--once"}, 2, `unknown argument "--once"`},
		{[]string{"--config", "/nowhere"}, 1, "read the CNI configuration"},
		{[]string{"--config", t.TempDir()}, 1, "name one with --config"},
		{[]string{"--config", "-"}, 1, "decode the CNI configuration"},
	} {
		if code, _, stderr := run(tt.args...); code != tt.code || !strings.Contains(stderr, tt.says) {
			t.Errorf("%q: exit code %d, want %d; %q does not say %q", tt.args, code, tt.code, stderr, tt.says)
		}
	}
}
