// Package bench measures the plugin beside the limit: the same delegates called through libcni without it. Ratios
// of one run count, not times. It asserts nothing.
package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"multus/test/node"
)

func TestMain(m *testing.M) {
	code := m.Run()
	node.Cleanup()
	os.Exit(code)
}

const networks = "k8s.v1.cni.cncf.io/networks"

// setup is a node without Kubernetes whose delegates do nothing, so that our own share is what is seen.
func setup(b *testing.B, kind node.Kind) (*node.Node, []byte) {
	b.Helper()
	dir, primary := b.TempDir(), filepath.Join(b.TempDir(), "10-cluster.conflist")
	n := node.New(b, node.Options{Kind: kind, NetworksDir: dir, Conf: map[string]any{
		"clusterNetwork": primary, "plainPods": "local", "logFile": "", "logLevel": "",
	}})
	fake := n.Fake(b, "noop")
	delete(fake, "log")
	fake["result"] = json.RawMessage(`{"cniVersion":"1.0.0","interfaces":[{"name":"{ifname}","sandbox":"{netns}"}],"ips":[{"address":"10.0.0.2/24","interface":0}]}`)
	conf := map[string]any{"cniVersion": "1.0.0", "name": "cluster", "plugins": []any{map[string]any{"type": "noop", "fake": fake}}}
	text, err := json.Marshal(conf)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(primary, text, 0o644); err != nil {
		b.Fatal(err)
	}
	for i := range 2 {
		one, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "type": "noop", "fake": fake})
		if err != nil {
			b.Fatal(err)
		}
		nad := fmt.Sprintf("kind: NetworkAttachmentDefinition\napiVersion: k8s.cni.cncf.io/v1\nmetadata: {name: n%d}\nspec: {config: '%s'}\n", i, one)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("n%d.yaml", i)), []byte(nad), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return n, text
}

// cycle is ADD and DEL of one pod.
func cycle(b *testing.B, n *node.Node, conf []byte, p *node.Pod) {
	b.Helper()
	if _, err := n.Add(b, conf, p); err != nil {
		b.Fatalf("%v\n%s", err, n.DaemonLog())
	}
	if err := n.Del(b, conf, p); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkPod is ADD and DEL of a pod: without Multus, thin and thick; plain, and with two more networks.
func BenchmarkPod(b *testing.B) {
	b.Run("raw/plain", func(b *testing.B) {
		n, text := setup(b, node.Thin)
		p := n.NewPod(b, "default", "p", "u", nil)
		for b.Loop() {
			cycle(b, n, text, p)
		}
	})
	for _, kind := range node.Kinds {
		for name, annotations := range map[string]map[string]string{"plain": {}, "two": {networks: "n0,n1"}} {
			b.Run(string(kind)+"/"+name, func(b *testing.B) {
				n, _ := setup(b, kind)
				conf := n.Conf()
				p := n.NewPod(b, "default", "p", "u", annotations)
				for b.Loop() {
					cycle(b, n, conf, p)
				}
			})
		}
	}
}
