package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/link"
	"multus/internal/testutil/testnet"
)

const objects = `apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: net, namespace: team-a}
spec:
  config: '{"cniVersion": "1.0.0", "type": "bridge", "bridge": "br-extra", "ipam": {"type": "static", "addresses": [{"address": "192.0.2.7/24"}]}}'
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: team-a, annotations: {k8s.v1.cni.cncf.io/networks: net@data0}}
`

// TestAttach attaches a pod to a real network namespace, looks at it and detaches it, with real plugins and the ledger
// of the engine, and checks that nothing is left (behaviour D20-D24, D60).
func TestAttach(t *testing.T) {
	t.Parallel()
	plugins, err := filepath.Abs("../../bin/cni")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(plugins, "bridge")); err != nil {
		t.Skip("no reference plugins in bin/cni: run make tools")
	}
	node, pod, dir := testnet.New(t), testnet.New(t), t.TempDir()
	state := filepath.Join(dir, "state")
	write := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	objectsDir := filepath.Dir(write("objects/objects.yaml", objects))
	cluster := write("10-cluster.conf",
		`{"cniVersion": "1.0.0", "name": "cluster", "type": "bridge", "ipam": {"type": "static", "addresses": [{"address": "198.51.100.7/24"}]}}`)
	common := []string{
		"team-a/web-0", "--netns", pod.Path, "--plugin-dir", plugins, "--state-dir", state, "--lock-file",
		filepath.Join(dir, "locks"),
	}

	node.Do(t, func() {
		code, out, errs := call(t, nil,
			append([]string{"attach", "--networks-dir", objectsDir, "--cluster-network", cluster}, common...)...)
		if code != OK {
			t.Fatalf("%d %s %s", code, out, errs)
		}
	})
	code, out, errs := call(t, nil, "status", "team-a/web-0", "--state-dir", state, "--socket-dir", dir, "--networks-dir",
		objectsDir, "-o", "json")
	var s statusOutput
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != OK {
		t.Fatalf("%d %v %s %s", code, err, out, errs)
	}
	if s.Daemon.State != "unreachable" || len(s.Pods) != 1 || len(s.Pods[0].Interfaces) != 2 {
		t.Fatalf("%s", out)
	}
	if i := s.Pods[0].Interfaces[1]; i.Name != "data0" || i.Network != "team-a/net" || i.Present == nil || !*i.Present ||
		len(i.Addrs) != 1 || i.Addrs[0] != "192.0.2.7/24" || i.MAC == "" {
		t.Errorf("%+v", i)
	}
	if code, _, errs := call(t, nil,
		append([]string{"attach", "--networks-dir", objectsDir, "--cluster-network", cluster},
			common...)...); code != Found || !strings.Contains(errs, "already exists") {
		t.Errorf("attached twice: %d %s", code, errs)
	}
	node.Do(t, func() {
		if code, out, errs := call(t, nil, append([]string{"detach"}, common...)...); code != OK {
			t.Fatalf("%d %s %s", code, out, errs)
		}
	})
	if code, out, errs := call(t, nil, append([]string{"detach"}, common...)...); code != Found || out != "" ||
		!strings.Contains(errs, "pod team-a/web-0 (container multusctl-team-a-web-0) has no record") {
		t.Errorf("detached twice: %d %s %s", code, out, errs)
	}
	if code, out, _ := call(t, nil, "ledger", "ls", "--state-dir", state, "-o", "json"); code != OK ||
		!strings.Contains(out, `"records": []`) {
		t.Errorf("%d %s", code, out)
	}
	ns, err := link.Open(pod.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if links, err := ns.Interfaces(); err != nil || len(links) != 1 {
		t.Errorf("left in the pod: %+v, %v", links, err)
	}
}

// TestDetachUnknown checks that a name without a record is an error and that nothing is done for it, and that a ledger
// which cannot be read is an error.
func TestDetachUnknown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	recordSandbox(t, state, "multusctl-team-a-web-0", "web-0", "/nowhere/netns")
	file := filepath.Join(dir, "file")
	write(t, file, "")
	before := tree(t, dir)
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"misspelt": {
			[]string{"team-a/wbe-0", "--state-dir", state},
			"pod team-a/wbe-0 (container multusctl-team-a-wbe-0) has no record in " + state +
				": nothing was done (see multusctl ledger ls)\n",
		},
		"another container": {
			[]string{"team-a/web-0", "--state-dir", state, "--container", "x"},
			"pod team-a/web-0 (container x) has no record in " + state,
		},
		"no record": {
			[]string{"web-0", "--state-dir", filepath.Join(dir, "none")},
			"pod default/web-0 (container multusctl-default-web-0) has no record in " + filepath.Join(dir, "none"),
		},
		"not a directory": {[]string{"web-0", "--state-dir", file}, "read record of container multusctl-default-web-0: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			locks := filepath.Join(t.TempDir(), "locks")
			code, out, errs := call(t, nil,
				append([]string{"detach", "--netns", "/nowhere/netns", "--lock-file", locks}, tc.args...)...)
			if code != Found || out != "" || !strings.HasPrefix(errs, "error: "+tc.want) {
				t.Errorf("%d %q %q, want %q", code, out, errs, tc.want)
			}
			if _, err := os.Stat(locks); err == nil {
				t.Error("the engine was called")
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Errorf("something was done:\n%s", diff)
			}
		})
	}
}
