package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/node"
	wirev1 "multus/wire/v1"
)

// earlier is the commit of the plugin and the daemon with which the present ones must work: the last one that sent the
// values of the engine themselves, before wire/v1 had types. Messages of version 1 are compatible for ever, so that the
// commit stays until the paths of version 1 are no longer served.
const earlier = "122079198044cece3976ee1a330fe055e2967db2"

// TestSkew checks that an earlier plugin works with this daemon, and this plugin with an earlier daemon, as during an
// update of a node: every request on the socket, and the files with reports (wire/v1).
func TestSkew(t *testing.T) {
	if testing.Short() {
		t.Skip("builds an earlier version")
	}
	for _, old := range []string{"multus-shim", "multus-daemon"} {
		t.Run("earlier "+old, func(t *testing.T) {
			f := newFakesOn(t, node.Options{
				Kind: node.Thick, BinDir: binariesWith(t, old),
				Conf: map[string]any{"cniVersion": "1.1.0", "checkNetworks": "all", "failureEvents": true},
			}, nil)
			n := 0
			p := f.pod(t, "one,two@x0")
			f.planAndReport(t, p, &n)
			f.cachedStatus(t, &n)
			f.reportInFile(t)
			f.undefined(t)
			f.free(t, p, &n)
		})
	}
}

// planAndReport attaches a pod with networks, whose network status and events are written.
func (f *fakes) planAndReport(t *testing.T, p *node.Pod, n *int) {
	t.Helper()
	res, err := f.Add(t, f.Conf(), p)
	if err != nil {
		t.Fatalf("ADD: %v\n%s", err, f.DaemonLog())
	}
	if got := res.IPs[0].Address.String(); got != "10.244.0.2/24" {
		t.Errorf("the runtime got the address %s", got)
	}
	want := []string{"cluster ADD eth0", "chained ADD eth0", "one ADD net1", "two ADD x0"}
	if d := cmp.Diff(want, f.calls(t, n)); d != "" {
		t.Errorf("ADD (-want +got):\n%s", d)
	}
	waitFor(t, f.Node, "the network status", func() bool { return f.networkStatus(t, p) != "" })
	if got := f.networkStatus(t, p); strings.Count(got, `"name"`) != 3 || !strings.Contains(got, `"10.2.0.2"`) ||
		!strings.Contains(got, `"default": true`) {
		t.Errorf("network-status: %s\n%s", got, f.DaemonLog())
	}
	waitFor(t, f.Node, "the events", func() bool {
		return strings.Count(f.events(t, p), `"AddedInterface"`) == 3
	})
	if err := f.Check(t, f.Conf(), p); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	f.calls(t, n)
}

// cachedStatus checks that the daemon answers the second STATUS from the result of the first.
func (f *fakes) cachedStatus(t *testing.T, n *int) {
	t.Helper()
	for _, want := range [][]string{{"cluster STATUS", "chained STATUS"}, nil} {
		if err := f.Status(t, f.Conf()); err != nil {
			t.Errorf("STATUS: %v", err)
		}
		if d := cmp.Diff(want, f.calls(t, n)); d != "" {
			t.Errorf("STATUS (-want +got):\n%s", d)
		}
	}
}

// reportInFile attaches a pod with no networks of its own while no daemon runs, and starts the daemon afterwards.
func (f *fakes) reportInFile(t *testing.T) {
	t.Helper()
	conf := edited(t, f.Conf(), map[string]any{"plainPods": "local"})
	p := f.NewPod(t, "default", "plain", "uid-plain", map[string]string{})
	f.StopDaemon(t)
	if _, err := f.Add(t, conf, p); err != nil {
		t.Fatalf("ADD without the daemon: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(f.SocketDir(), wirev1.ReportDir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Errorf("files with reports: %v, %v", files, err)
	}
	f.StartDaemon(t)
	waitFor(t, f.Node, "the status from the file", func() bool {
		return strings.Contains(f.networkStatus(t, p), `"10.244.0.2"`)
	})
	if err := f.Del(t, conf, p); err != nil {
		t.Errorf("DEL: %v", err)
	}
}

// undefined checks that the daemon's error reaches the runtime, and that the report of the failure causes an event.
func (f *fakes) undefined(t *testing.T) {
	t.Helper()
	p := f.NewPod(t, "default", "undefined", "uid-undefined", map[string]string{networks: "nope"})
	_, err := f.Add(t, f.Conf(), p)
	var ce *types.Error
	if !errors.As(err, &ce) || !strings.Contains(ce.Msg, "default/nope") {
		t.Errorf("ADD: %v, want an error that names the network", err)
	}
	waitFor(t, f.Node, "the event", func() bool {
		return strings.Contains(f.events(t, p), `"FailedAddingInterface"`)
	})
	if err := f.Del(t, f.Conf(), p); err != nil {
		t.Errorf("DEL: %v", err)
	}
}

// free collects garbage beside the pod, and then deletes the pod.
func (f *fakes) free(t *testing.T, p *node.Pod, n *int) {
	t.Helper()
	f.calls(t, n)
	if err := f.GC(t, f.Conf(), p); err != nil {
		t.Errorf("GC: %v", err)
	}
	if got := f.calls(t, n); len(got) != 4 || strings.Contains(strings.Join(got, " "), "DEL") {
		t.Errorf("GC calls %v, want a GC of each plugin", got)
	}
	if err := f.Del(t, f.Conf(), p); err != nil {
		t.Errorf("DEL: %v", err)
	}
	want := []string{"two DEL x0", "one DEL net1", "chained DEL eth0", "cluster DEL eth0"}
	if d := cmp.Diff(want, f.calls(t, n)); d != "" {
		t.Errorf("DEL (-want +got):\n%s", d)
	}
	if left := f.Left(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// networkStatus returns the network status that the daemon wrote, or "".
func (f *fakes) networkStatus(t *testing.T, p *node.Pod) string {
	t.Helper()
	annotations := map[string]string{}
	if b := f.written(t, p, ".json"); b != nil {
		if err := json.Unmarshal(b, &annotations); err != nil {
			t.Fatal(err)
		}
	}
	return annotations[status]
}

// events returns the events that the daemon wrote.
func (f *fakes) events(t *testing.T, p *node.Pod) string {
	t.Helper()
	return string(f.written(t, p, ".events.jsonl"))
}

func (f *fakes) written(t *testing.T, p *node.Pod, ext string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.SocketDir(), "status", p.Namespace+"_"+p.Name+ext))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return b
}

// binariesWith returns a directory with the present binaries, except for old, which is the earlier one.
func binariesWith(t *testing.T, old string) string {
	t.Helper()
	present, before, dir := node.Binaries(t), earlierBinaries(t), t.TempDir()
	for _, name := range []string{"multus-shim", "multus-daemon", "fakeplugin"} {
		from := present
		if name == old {
			from = before
		}
		b, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// earlierBinaries builds the plugin and the daemon of the commit earlier, once, and returns their directory. It skips
// the test if the history does not have the commit.
func earlierBinaries(t *testing.T) string {
	t.Helper()
	root := node.Root(t)
	cache := filepath.Join(root, "bin", "skew")
	dir := filepath.Join(cache, earlier)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	run := func(in, name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = in, append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	source := t.TempDir()
	if out, err := run(root, "git", "cat-file", "-e", earlier+"^{commit}"); err != nil {
		t.Skipf("the history does not have the earlier version, as in a shallow clone: %v: %s", err, out)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	// Another process may build it at the same time: the directory appears complete, and the first one stays.
	built, err := os.MkdirTemp(cache, ".new-") //nolint:usetesting // it is renamed, so it must be on the same disk
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(built)
	for _, step := range [][]string{
		{root, "git", "archive", "--output", filepath.Join(source, "all.tar"), earlier},
		{source, "tar", "-xf", "all.tar"},
		{
			source, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", built + "/",
			"./cmd/multus-shim", "./cmd/multus-daemon",
		},
	} {
		if out, err := run(step[0], step[1], step[2:]...); err != nil {
			t.Fatalf("build the earlier version: %s: %v: %s", strings.Join(step[1:], " "), err, out)
		}
	}
	if err := os.Rename(built, dir); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return dir
}
