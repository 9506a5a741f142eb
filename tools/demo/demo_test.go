package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"multus/internal/testutil/leak"
	"multus/internal/testutil/testnet"
)

// marker is an environment variable that makes the test binary run the demo. All processes of a run inherit it, which
// identifies them.
const marker = "MULTUS_TEST_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(marker) != "" {
		main()
	}
	leak.Main(m)
}

func TestDemo(t *testing.T) {
	r := start(t)
	if code := r.wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s", code, r.out)
	}
	out := r.out.String()
	for _, want := range []string{
		`(?m)^eth0 +cluster-net +[0-9a-f:]{17} +10\.244\.0\.2/24 +10\.244\.0\.1 \(default\)$`,
		`(?m)^net1 +default/macvlan +[0-9a-f:]{17} +192\.0\.2\.100/24 +192\.0\.2\.1 `,
		`(?m)^net2 +default/host-device +[0-9a-f:]{17} +198\.51\.100\.10/24 +198\.51\.100\.1 `,
		`(?m)^    eth0 +10\.244\.0\.2 +→ 10\.244\.0\.1 +\d+\.\d+ ms$`,
		`(?m)^    net1 +192\.0\.2\.100 +→ 192\.0\.2\.1 +\d+\.\d+ ms$`,
		`(?m)^    net2 +2001:db8:51::10 +→ 2001:db8:51::1 +\d+\.\d+ ms$`,
		`"name": "default/host-device"`,
		`pod: no interface but lo\n`,
		`the NIC eth1 is back`,
		`no address reservation, no ledger entry`,
		`\nOK\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("the output does not match %s", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	r.nothingLeft(t)
}

// TestInterrupted sends a signal while the daemon starts, and while the plugin attaches the networks, some of which are
// not yet begun.
func TestInterrupted(t *testing.T) {
	for _, tc := range []struct {
		name   string
		signal syscall.Signal
		moment func(t *testing.T, r *running)
		freed  bool
	}{
		{"start", syscall.SIGINT, daemonStarts, false},
		{"ADD", syscall.SIGINT, delegatesRun, true},
		{"ADD SIGTERM", syscall.SIGTERM, delegatesRun, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := start(t)
			tc.moment(t, r)
			r.signal(t, tc.signal)
			if code := r.wait(t); code != exitInterrupted {
				t.Errorf("exit code %d, want %d", code, exitInterrupted)
			}
			out := r.out.String()
			if !strings.Contains(out, "interrupted; ") || strings.Contains(out, "\nOK\n") {
				t.Errorf("not interrupted, or OK, in:\n%s", out)
			}
			if tc.freed && !strings.Contains(out, "no address reservation, no ledger entry") {
				t.Errorf("not freed:\n%s", out)
			}
			r.nothingLeft(t)
		})
	}
}

// TestKeep ends a kept pod with Ctrl-C. That is no interruption: DEL and the proof follow.
func TestKeep(t *testing.T) {
	r := start(t, "--keep")
	r.waitFor(t, "stays attached until Ctrl-C")
	node := regexp.MustCompile(`/proc/(\d+)/root/run/netns/pod`).FindStringSubmatch(r.out.String())
	if node == nil {
		t.Errorf("it does not say how to look around:\n%s", r.out)
	} else if entries, err := os.ReadDir(filepath.Join("/proc", node[1], "root", ledgerDir)); err != nil ||
		len(entries) == 0 {
		t.Errorf("the ledger of the node, seen from outside: %v, %v", entries, err)
	}
	r.signal(t, syscall.SIGINT)
	if code := r.wait(t); code != 0 || !strings.HasSuffix(r.out.String(), "\nOK\n") {
		t.Errorf("exit code %d\n%s", code, r.out)
	}
	r.nothingLeft(t)
}

// TestKilled kills the parent, which then cannot clean up.
func TestKilled(t *testing.T) {
	r := start(t)
	delegatesRun(t, r)
	r.signal(t, syscall.SIGKILL)
	r.wait(t)
	r.nothingLeft(t)
}

// TestWrongExample uses a network that cannot be attached. One line reports the reason, and everything is freed.
func TestWrongExample(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(examplesDir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "macvlan.yaml")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte(`"master": "eth0"`), []byte(`"master": "eth7"`), 1)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	r := start(t, "--examples", dir)
	code := r.wait(t)
	out := r.out.String()
	if n := strings.Count(out, "error:"); code != 1 || n != 1 ||
		!strings.Contains(out, "no address reservation, no ledger entry") ||
		!regexp.MustCompile(`(?m)^error: .*default/macvlan.*not on this node.*\n\z`).MatchString(out) {
		t.Errorf("exit code %d, %d errors\n%s", code, n, out)
	}
	r.nothingLeft(t)
}

func TestWithoutRoot(t *testing.T) {
	testnet.RequireRoot(t) // to run as another user
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe", "--bin", t.TempDir(), "--examples", t.TempDir())
	cmd.Env = append(os.Environ(), marker+"=without root")
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var ee *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &ee) || ee.ExitCode() != 1 {
		t.Fatalf("%v, want exit code 1\n%s", err, &out)
	}
	for _, want := range []string{"needs root", "uid 65534"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
}

func TestMissing(t *testing.T) {
	missing := strings.Join(missingOnHost(&options{bin: t.TempDir(), examples: t.TempDir()}), "\n")
	for _, want := range []string{"multus-daemon", "cni/macvlan", "make build bin/cni", "pod.yaml"} {
		if !strings.Contains(missing, want) {
			t.Errorf("no %q in:\n%s", want, missing)
		}
	}
}

// TestLeft checks that the proof finds what it looks for.
func TestLeft(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"net/10.0.0.2", "net/fd00::2", "net/last_reserved_ip.0", "net/lock"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found, err := reservations(dir)
	if err != nil || strings.Join(found, " ") != "10.0.0.2 fd00::2" {
		t.Errorf("reservations %q, %v", found, err)
	}
	before := &state{node: map[string]string{"eth1": "02:00:00:00:00:01"}, pod: map[string]string{"lo": ""}}
	now := &state{
		node: map[string]string{"veth1": "", "cni0": ""}, bridges: []string{"cni0"}, ports: []string{"veth1"},
		pod: map[string]string{"lo": "", "net1": ""}, reservations: found, ledger: []string{"id"}, results: []string{"file"},
	}
	err = now.sameAs(before)
	if err == nil {
		t.Fatal("no difference found")
	}
	for _, want := range []string{"eth1", "interface veth1 is left", "net1", "10.0.0.2", "ledger entries", "results"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

// running is one run of the demo on this machine.
type running struct {
	cmd    *exec.Cmd
	out    *output
	marker string
	tmp    string
	host   map[string]bool // what exists on the machine under names that the demo uses
}

const examplesDir = "../../examples"

func start(t *testing.T, args ...string) *running {
	t.Helper()
	testnet.RequireRoot(t)
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range binaries {
		if !exists(filepath.Join(bin, file)) {
			t.Skipf("needs %s: make build bin/cni", filepath.Join(bin, file))
		}
	}
	for _, kind := range []string{"bridge", "veth", "macvlan"} {
		testnet.RequireKernel(t, kind)
	}
	r := &running{out: &output{}, tmp: t.TempDir(), host: onHost()}
	r.marker = fmt.Sprintf("%s=%s", marker, r.tmp)
	r.cmd = exec.Command("/proc/self/exe", append([]string{"--bin", bin, "--examples", examplesDir}, args...)...)
	r.cmd.Env = append(os.Environ(), r.marker, "TMPDIR="+r.tmp)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	r.cmd.WaitDelay = 10 * time.Second
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	return r
}

func (r *running) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// waitFor waits until the demo has printed a string.
func (r *running) waitFor(t *testing.T, text string) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !strings.Contains(r.out.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("no %q in:\n%s", text, r.out)
		}
	}
}

func daemonStarts(t *testing.T, r *running) {
	t.Helper()
	r.waitFor(t, "· multus-daemon: start")
}

// delegatesRun waits until the plugin has recorded its plan. Then the delegates start, which take seconds.
func delegatesRun(t *testing.T, r *running) {
	t.Helper()
	r.waitFor(t, "· ADD: ")
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); time.Sleep(time.Millisecond) {
		for _, p := range r.processes(t) {
			node, cmdline, _ := strings.Cut(p, " ")
			if !strings.Contains(cmdline, nodeArg) {
				continue
			}
			if found, err := entries(filepath.Join(filepath.Dir(node), "root", ledgerDir)); err == nil && len(found) > 0 {
				return
			}
		}
	}
	t.Fatalf("no ledger entry:\n%s", r.out)
}

func (r *running) wait(t *testing.T) int {
	t.Helper()
	err := r.cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

// nothingLeft checks for processes, namespaces, mounts, interfaces and files. Only processes of the demo hold its
// namespaces and mounts. Any others would be in this mount namespace.
func (r *running) nothingLeft(t *testing.T) {
	t.Helper()
	// After the parent was killed, the kernel ends the other processes, which takes a moment.
	var left []string
	for limit := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if left = r.processes(t); len(left) == 0 || time.Now().After(limit) {
			break
		}
	}
	if len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	if entries, err := os.ReadDir(r.tmp); err != nil || len(entries) > 0 {
		t.Errorf("in the temporary directory: %v, %v", entries, err)
	}
	for what := range onHost() {
		if !r.host[what] {
			t.Errorf("%s is on the machine", what)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, r.tmp) || strings.Contains(line, " - tmpfs demo ") ||
			strings.Contains(line, namespaceDir+"/outside ") {
			t.Errorf("a mount is left: %s", line)
		}
	}
}

// processes returns the processes that have the marker of the run in their environment.
func (r *running) processes(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(b, []byte(r.marker)) {
			continue // it may have ended
		}
		cmdline, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err != nil {
			continue
		}
		found = append(found, file+" "+string(cmdline))
	}
	return found
}

// onHost returns what the demo would leave on the machine if it worked there instead of on its node.
func onHost() map[string]bool {
	found := map[string]bool{}
	for _, path := range []string{
		multusConf, daemonConf, networksDir, daemonLog, reserved + "/cluster-net", statusDir + "/default_three-networks.json",
		namespaceDir + "/pod", namespaceDir + "/outside", "/sys/class/net/cni0", "/sys/class/net/switch0",
		"/sys/class/net/eth1",
	} {
		if exists(path) {
			found[path] = true
		}
	}
	return found
}

// output is the output of the demo. It can be read while the demo writes.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

var _ io.Writer = (*output)(nil)

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
