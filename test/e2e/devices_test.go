package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

const (
	// nic is a resource that only these tests use, because device-info files are at a fixed path of the machine.
	nic     = "test.multus.example/nic"
	devInfo = "/var/run/k8s.cni.cncf.io/devinfo"
)

// kubelet serves the kubelet's podresources API in a root directory.
type kubelet struct {
	podresourcesv1.UnimplementedPodResourcesListerServer
	root string
	pods []*podresourcesv1.PodResources
}

func (k *kubelet) List(context.Context,
	*podresourcesv1.ListPodResourcesRequest,
) (*podresourcesv1.ListPodResourcesResponse, error) {
	return &podresourcesv1.ListPodResourcesResponse{PodResources: k.pods}, nil
}

// allocate gives devices to a pod, one device for each container, in the given order.
func (k *kubelet) allocate(namespace, pod string, ids ...string) {
	p := &podresourcesv1.PodResources{Namespace: namespace, Name: pod}
	for _, id := range ids {
		p.Containers = append(p.Containers,
			&podresourcesv1.ContainerResources{
				Devices: []*podresourcesv1.ContainerDevices{{ResourceName: nic, DeviceIds: []string{id}}},
			})
	}
	k.pods = append(k.pods, p)
}

// newKubelet creates the root directory. Its path is short enough for that of a socket.
func newKubelet(t *testing.T) *kubelet {
	t.Helper()
	root, err := os.MkdirTemp("", "kubelet") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	for _, d := range []string{"pod-resources", "device-plugins"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &kubelet{root: root}
}

// serve answers until stop is called. stop also removes the socket.
func (k *kubelet) serve(t *testing.T) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(k.root, "pod-resources", "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	podresourcesv1.RegisterPodResourcesListerServer(s, k)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			s.Stop()
			<-done
		}
	}
	t.Cleanup(stop)
	return stop
}

// checkpoint writes the kubelet's checkpoint file with one pod that has one device.
func (k *kubelet) checkpoint(t *testing.T, uid, id string) {
	t.Helper()
	text := fmt.Sprintf(`{"Data":{"PodDeviceEntries":[{"PodUID":%q,"ContainerName":"app","ResourceName":%q,"DeviceIDs":{"0":[%q]},"AllocResp":"EgA="}],"RegisteredDevices":{}},"Checksum":1}`, uid, nic, id)
	if err := os.WriteFile(filepath.Join(k.root, "device-plugins", "kubelet_internal_checkpoint"), []byte(text),
		0o600); err != nil {
		t.Fatal(err)
	}
}

// infos has an example of each type of device-info in the specification.
var infos = map[string]string{
	"pci":        `{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:00:01.1","vhost-net":"/dev/vhost-net","rdma-device":"mlx5_0","pf-pci-address":"0000:00:01.0","representor-device":"rep0"}}`,
	"vdpa":       `{"type":"vdpa","version":"1.1.0","vdpa":{"parent-device":"vdpa1","driver":"vhost","path":"/dev/vhost-vdpa-0","pci-address":"0000:00:01.2","pf-pci-address":"0000:00:01.0","representor-device":"rep1"}}`,
	"vhost-user": `{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"client","path":"/run/vhost.sock"}}`,
	"memif":      `{"type":"memif","version":"1.1.0","memif":{"role":"master","path":"/run/memif.sock","mode":"ethernet"}}`,
}

// devicePlugin writes the device-info file of a device as a device plugin does.
func devicePlugin(t *testing.T, id, info string) {
	t.Helper()
	path := filepath.Join(devInfo, "dp", strings.ReplaceAll(nic, "/", "-")+"-"+id+"-device.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(info), 0o444); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
}

// selfInforming is a plugin that writes the device-info file itself, at the path CNIDeviceInfoFile.
const selfInforming = `#!/bin/sh
conf=$(cat)
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
ADD)
	path=$(printf %s "$conf" | sed -n 's/.*"CNIDeviceInfoFile":"\([^"]*\)".*/\1/p')
	mkdir -p "$(dirname "$path")"
	printf %s "$conf" | sed -n 's/.*"info":"\([^"]*\)".*/\1/p' | base64 -d > "$path"
	echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"'$CNI_NETNS'"}]}' ;;
esac
`

// deviceSite is a site with networks that need devices of a kubelet.
func deviceSite(t *testing.T, kind node.Kind, k *kubelet) *site {
	t.Helper()
	s := newSite(t, kind, node.Options{Conf: map[string]any{"kubeletRoot": k.root}})
	if kind == node.Thick {
		s.StopDaemon(t)
		a := startAgent(t, s.Node, []string{"MULTUS_NODE_NAME=node-a"}, "--config",
			agentConf(t, s.Node, map[string]any{"networksDir": nil, "kubeletRoot": k.root, "multusAutoconfigDir": nil}),
			"--kubeconfig", s.api.Kubeconfig(t))
		a.serves(t, filepath.Join(s.SocketDir(), "multus.sock"))
	}
	resource := map[string]string{"k8s.v1.cni.cncf.io/resourceName": nic}
	for _, name := range []string{"dev-a", "dev-b"} {
		m := s.Fake(t, "fake-"+name)
		m["result"] = json.RawMessage(result("10.1.0.2/24"))
		b, err := json.Marshal(map[string]any{
			"cniVersion": "1.0.0", "name": "conf-of-" + name, "type": "fake-" + name,
			"fake": m, "capabilities": map[string]bool{"deviceID": true, "CNIDeviceInfoFile": true},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.api.CreateNetwork(t, s.ns, name, string(b), resource)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "plugins", "self-informing"), []byte(selfInforming), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vhost-user", "memif"} {
		s.api.CreateNetwork(t, s.ns, name,
			fmt.Sprintf(`{"cniVersion":"1.0.0","type":"self-informing","capabilities":{"CNIDeviceInfoFile":true},"info":%q}`,
				base64.StdEncoding.EncodeToString([]byte(infos[name]))), nil)
	}
	return s
}

// given returns what the delegates received for devices: plugin, deviceID, pciBusID, and deviceID of runtimeConfig.
func (s *site) given(t *testing.T, command, containerID string) []string {
	t.Helper()
	var out []string
	for _, c := range s.Calls(t) {
		var conf struct {
			DeviceID, PCIBusID string
			RuntimeConfig      struct{ DeviceID, CNIDeviceInfoFile string }
		}
		if c.Command != command || c.Env["CNI_CONTAINERID"] != containerID {
			continue
		}
		if err := json.Unmarshal(c.Stdin, &conf); err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %q %q %q", c.Plugin, conf.DeviceID, conf.PCIBusID, conf.RuntimeConfig.DeviceID))
	}
	return out
}

// TestDevices checks that two networks of one resource get the pod's two devices in order. Device-info is written to
// the file where consumers look for it and to the network status, and the file is removed by DEL (behaviour B4,
// C69-C71, H1-H4, H20, H23, H30-H35).
func TestDevices(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			k := newKubelet(t)
			s := deviceSite(t, kind, k)
			k.allocate("elsewhere", "two", "of-another-pod")
			k.allocate(s.ns, "two", "0000:00:01.2", "0000:00:01.1")
			stop := k.serve(t)
			devicePlugin(t, "0000:00:01.1", infos["pci"])
			devicePlugin(t, "0000:00:01.2", infos["vdpa"])

			p := s.pod(t, "two", map[string]string{
				networks: `[{"name":"dev-a"},{"name":"dev-b","deviceID":"of-the-annotation"},{"name":"vhost-user","deviceID":"x"},{"name":"memif","deviceID":"y"}]`,
			}, false)
			file := func(network string, i int) string {
				return filepath.Join(devInfo, "cni", fmt.Sprintf("%s-%s-%s_net%d", s.ns, network, p.ContainerID, i))
			}
			if _, err := s.Add(t, s.Conf(), p); err != nil {
				t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
			}
			want := []string{
				// In the order of the containers (multus-cni#1539).
				`fake-dev-a "0000:00:01.2" "0000:00:01.2" "0000:00:01.2"`,
				`fake-dev-b "0000:00:01.1" "0000:00:01.1" "0000:00:01.1"`,
			}
			if d := cmp.Diff(want, s.given(t, "ADD", p.ContainerID)); d != "" {
				t.Errorf("what the delegates got (-want +got):\n%s", d)
			}
			wanted := []string{"vdpa", "pci", "vhost-user", "memif"}
			s.informed(t, wanted, []string{file("dev-a", 1), file("dev-b", 2), file("vhost-user", 3), file("memif", 4)})
			s.recorded(t, p)
			if err := s.Del(t, s.Conf(), p); err != nil {
				t.Fatalf("DEL: %v", err)
			}
			if got := s.given(t, "DEL", p.ContainerID); len(got) != 2 || got[0] != want[1] || got[1] != want[0] {
				t.Errorf("at DEL the delegates got %q", got)
			}
			if left, err := filepath.Glob(filepath.Join(devInfo, "cni", "*"+p.ContainerID+"*")); err != nil || len(left) > 0 {
				t.Errorf("left after DEL: %v, %v", left, err)
			}

			t.Run("none allocated", func(t *testing.T) {
				p := s.pod(t, "none", map[string]string{networks: "dev-a"}, false)
				_, err := s.Add(t, s.Conf(), p)
				if err == nil {
					t.Fatal("attached without its device")
				}
				names(t, err.Error(), s.ns+"/none", s.ns+"/dev-a", "no device of "+nic+" is left", "the kubelet gave the pod 0",
					"request 1 or more of "+nic)
				if got := s.given(t, "ADD", p.ContainerID); len(got) > 0 || len(testnet.Interfaces(t, p.NS)) > 0 {
					t.Errorf("attached: %v, %v", got, testnet.Interfaces(t, p.NS))
				}
				s.delete(t, p)
			})
			t.Run("none allocated, allowed", func(t *testing.T) {
				p := s.pod(t, "allowed", map[string]string{networks: "dev-a"}, false)
				conf := edited(t, s.Conf(), map[string]any{"allowMissingDevices": true})
				if _, err := s.Add(t, conf, p); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff([]string{`fake-dev-a "" "" ""`}, s.given(t, "ADD", p.ContainerID)); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
				s.delete(t, p)
			})
			t.Run("checkpoint file", func(t *testing.T) {
				stop()
				p := s.pod(t, "checkpoint", map[string]string{networks: "dev-a"}, false)
				k.checkpoint(t, p.UID, "0000:00:07.7")
				// H35: a file of the same name that a crash has left is not used for this pod.
				stale := filepath.Join(devInfo, "cni", fmt.Sprintf("%s-dev-a-%s_net1", s.ns, p.ContainerID))
				if err := os.WriteFile(stale, []byte(`{"type":"stale"}`), 0o444); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Add(t, s.Conf(), p); err != nil {
					t.Fatal(err)
				}
				if value := s.statusText(t, "checkpoint"); strings.Contains(value, "stale") ||
					!strings.Contains(value, "dev-a") {
					t.Errorf("network-status: %s", value)
				}
				if d := cmp.Diff([]string{`fake-dev-a "0000:00:07.7" "0000:00:07.7" "0000:00:07.7"`},
					s.given(t, "ADD", p.ContainerID)); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
				s.delete(t, p)
			})
			t.Run("no kubelet", func(t *testing.T) {
				if err := os.Remove(filepath.Join(k.root, "device-plugins", "kubelet_internal_checkpoint")); err != nil {
					t.Fatal(err)
				}
				p := s.pod(t, "unallocated", map[string]string{networks: "dev-a"}, false)
				_, err := s.Add(t, s.Conf(), p)
				if err == nil {
					t.Fatal("attached without a source of devices")
				}
				names(t, err.Error(), s.ns+"/unallocated", nic, k.root)
				s.delete(t, p)
			})
		})
	}
}

// informed checks that each file, and each element of the network status, has the device-info of its type.
func (s *site) informed(t *testing.T, kinds, files []string) {
	t.Helper()
	value := s.statusText(t, "two")
	var elements []struct {
		Name       string          `json:"name"`
		DeviceInfo json.RawMessage `json:"device-info"`
	}
	if err := json.Unmarshal([]byte(value), &elements); err != nil {
		t.Fatalf("network-status %q: %v", value, err)
	}
	same := func(what, want string, got []byte) {
		var a, b any
		if err := json.Unmarshal([]byte(want), &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got, &b); err != nil {
			t.Errorf("%s: %q: %v", what, got, err)
		}
		if d := cmp.Diff(a, b); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	for i, kind := range kinds {
		b, err := os.ReadFile(files[i])
		if err != nil {
			t.Error(err)
		}
		same(files[i], infos[kind], b)
		// The plugins wrote the other files.
		if info, err := os.Stat(files[i]); i < 2 && (err != nil || info.Mode().Perm() != 0o444) {
			t.Errorf("%s: %v, %v", files[i], info.Mode(), err)
		}
		if i+1 < len(elements) {
			same("device-info of "+elements[i+1].Name, infos[kind], elements[i+1].DeviceInfo)
		}
	}
	if len(elements) != 1+len(kinds) {
		t.Errorf("network-status: %s", value)
	}
	if len(elements) > 1 && (elements[1].Name != s.ns+"/dev-a" || len(elements[0].DeviceInfo) > 0) {
		t.Errorf("network-status: %s", value)
	}
	if info, err := os.Stat(filepath.Dir(files[0])); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("H32: %v, %v", info.Mode(), err)
	}
}

// recorded checks the members of the record that DEL needs, under today's names. It also checks the name under which
// libcni caches the result: that of the configuration, which can differ from the name of the definition.
func (s *site) recorded(t *testing.T, p *node.Pod) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.State(), p.ContainerID))
	if err != nil {
		t.Fatal(err)
	}
	var record []struct {
		Name, DeviceID, ResourceName string
	}
	if err := json.Unmarshal(b, &record); err != nil || len(record) < 3 {
		t.Fatalf("%s: %v", b, err)
	}
	if r := record[1]; r.Name != s.ns+"/dev-a" || r.DeviceID != "0000:00:01.2" || r.ResourceName != nic {
		t.Errorf("%+v", r)
	}
	if r := record[2]; r.Name != s.ns+"/dev-b" || r.DeviceID != "0000:00:01.1" || r.ResourceName != nic {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(filepath.Join(s.State(), "results", "conf-of-dev-a-"+p.ContainerID+"-net1")); err != nil {
		t.Error(err)
	}
}
