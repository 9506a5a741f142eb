package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/testutil/testnet"
)

// TestDevices lists the devices of a namespace that serves as a node: a free cable, a bridge with a port, and lo, each
// with its reason (multus-cni#1134).
func TestDevices(t *testing.T) {
	t.Parallel()
	node, other, dir := testnet.New(t), testnet.New(t), t.TempDir()
	testnet.RequireKernel(t, "bridge")
	testnet.Veth(t, node, "free0", node, "free1")
	testnet.Veth(t, node, "uplink", other, "router")
	testnet.Addr(t, node, "uplink", "192.0.2.2/24")
	args := []string{
		"devices", "--state-dir", filepath.Join(dir, "state"), "--lock-file", filepath.Join(dir, "locks"),
		"--node-address", "192.0.2.2",
	}
	node.Do(t, func() {
		code, out, errs := call(t, nil, append(args, "-o", "json")...)
		var list struct{ Devices []deviceRow }
		if err := json.Unmarshal([]byte(out), &list); err != nil || code != OK {
			t.Fatalf("%d %v %s%s", code, err, out, errs)
		}
		free := map[string]bool{}
		kinds := map[string]string{}
		for _, d := range list.Devices {
			free[d.Name] = d.Free
			for _, r := range d.Reasons {
				kinds[d.Name] += r.Kind + " "
			}
		}
		if len(free) != 4 || !free["free0"] || !free["free1"] || free["lo"] || free["uplink"] {
			t.Errorf("%s", out)
		}
		if kinds["lo"] == "" || !strings.Contains(kinds["uplink"], "node-address") {
			t.Errorf("%v", kinds)
		}
		code, out, _ = call(t, nil, args...)
		if code != OK || !strings.Contains(out, "free0   veth") || !strings.Contains(out, "  yes   -") ||
			!strings.Contains(out, "192.0.2.2") {
			t.Errorf("%d\n%s", code, out)
		}
		// On that node, explain reports what ADD would report.
		objects := filepath.Join(dir, "pod.yaml")
		write(t, objects, pods("uplink"))
		write(t, filepath.Join(dir, "bin", "host-device"), "")
		conf := filepath.Join(dir, "multus.conf")
		write(t, conf, `{"cniVersion":"1.0.0","name":"m","type":"multus","delegates":[{"name":"c","type":"host-device","device":"free0"}],"binDir":"`+
			filepath.Join(dir, "bin")+`","cniDir":"`+filepath.Join(dir, "state")+`","nodeAddresses":["192.0.2.2"]}`)
		code, out, errs = call(t, nil, "explain", "-f", objects, "--config", conf)
		if code != Found || !strings.Contains(out, `ADD would fail: device "uplink" of network default/nic is not free`) ||
			strings.Contains(out, `device "free0"`) {
			t.Errorf("%d %s%s", code, out, errs)
		}
	})
}

func write(t *testing.T, path, data string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(data), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// pods returns a pod that requests a device of the node.
func pods(device string) string {
	return `{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: nic}, spec: {config: '{"type":"host-device","device":"` + device + `"}'}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {k8s.v1.cni.cncf.io/networks: nic}}}
`
}
