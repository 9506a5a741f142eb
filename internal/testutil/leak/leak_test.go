package leak

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// leakVar is the environment variable that selects what a copy of this test binary leaks.
const leakVar = "LEAK_TEST_KIND"

func TestMain(m *testing.M) { Main(m) }

// TestLeakOnPurpose is no test of its own. TestMainReports runs it in a copy of this binary.
func TestLeakOnPurpose(t *testing.T) {
	switch kind := os.Getenv(leakVar); kind {
	case "":
		t.Skip("only in the copy that TestMainReports starts")
	case "nothing":
	case "fd":
		if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil {
			t.Fatal(err)
		}
	case "goroutine":
		go neverEnds()
	case "ending goroutine":
		end, ended := make(chan bool), make(chan bool)
		go func() { <-end; close(ended) }()
		t.Cleanup(func() { close(end) })
	case "mount":
		leakMount(t)
	case "failure":
		t.Error("on purpose")
	default:
		t.Fatalf("unknown kind %q", kind)
	}
}

func neverEnds() { select {} }

// leakMount mounts the network namespace of the test itself: any namespace serves the purpose.
func leakMount(t *testing.T) {
	// Not t.TempDir: its cleanup would fail because of the mount, and the test would fail before Main reports the leak.
	dir := filepath.Join(os.TempDir(), "with blank") //nolint:usetesting // see above
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	point := filepath.Join(dir, "ns")
	if err := os.WriteFile(point, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Mount("/proc/thread-self/ns/net", point, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

func TestMainReports(t *testing.T) {
	if os.Getenv(leakVar) != "" {
		t.Skip("only in the original")
	}
	for _, tt := range []struct {
		kind string
		root bool
		code int
		want string // in the output
	}{
		{kind: "nothing", code: 0, want: "PASS"},
		{kind: "ending goroutine", code: 0, want: "PASS"},
		{kind: "failure", code: 1, want: "on purpose"},
		{kind: "fd", code: 1, want: "/dev/null"},
		{kind: "goroutine", code: 1, want: "leak.neverEnds"},
		{kind: "mount", root: true, code: 1, want: "/ns (network namespace)"},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			t.Parallel() // each copy that leaks waits for settleLimit
			if tt.root && os.Geteuid() != 0 {
				t.Skip("mounting needs root")
			}
			tmp := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLeakOnPurpose$")
			// A binary built with -race otherwise sleeps for a second before it exits.
			cmd.Env = append(os.Environ(), leakVar+"="+tt.kind, "TMPDIR="+tmp, "GORACE=atexit_sleep_ms=0")
			out, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d; output:\n%s", code, tt.code, out)
			}
			if !strings.Contains(string(out), tt.want) {
				t.Errorf("output does not contain %q:\n%s", tt.want, out)
			}
			if tt.code == 0 && strings.Contains(string(out), "leak:") {
				t.Errorf("leak reported:\n%s", out)
			}
			left, err := os.ReadDir(tmp)
			if err != nil || len(left) != 0 {
				t.Errorf("left in the temporary directory: %v %v", left, err)
			}
		})
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"/a":             "/a",
		`/with\040blank`: "/with blank",
		`/end\134`:       `/end\`,
		`/short\04`:      `/short\04`,
		`/no\999octal`:   `/no\999octal`,
	} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}
