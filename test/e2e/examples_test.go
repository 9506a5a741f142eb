package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// TestExamples attaches the pods of examples/ to a node with the NICs that the examples name, and detaches them.
// Examples whose kernel features are missing are skipped with the reason. Those of SR-IOV need hardware and are left
// out.
func TestExamples(t *testing.T) {
	testnet.RequireRoot(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(node.Root(t), "examples"))); err != nil {
		t.Fatal(err)
	}
	ownReservations(t, dir)
	for _, kind := range node.Kinds {
		n := node.New(t, node.Options{Kind: kind, NetworksDir: dir, Conf: map[string]any{"namespaceIsolation": true}})
		outside := testnet.New(t)
		for i := range 2 {
			testnet.Veth(t, n.NS, fmt.Sprintf("eth%d", i), outside, fmt.Sprintf("out%d", i))
		}
		for _, tc := range []struct {
			namespace, pod string
			kinds          []string // kinds of links that the kernel must support
			want           []string
		}{
			{"default", "three-networks", []string{"macvlan"}, []string{"eth0", "net1", "net2"}},
			{"default", "chosen-address", []string{"macvlan"}, []string{"data0", "eth0"}},
			{"default", "microk8s-with-nic", nil, []string{"eth0", "lan0"}},
			{"default", "default-route", nil, []string{"eth0", "net1"}},
			{"default", "ipvlan", []string{"ipvlan"}, []string{"eth0", "net1"}},
			{"default", "vlan", []string{"vlan"}, []string{"eth0", "net1"}},
			{"team-a", "at-home", []string{"macvlan"}, []string{"eth0", "net2", "store0"}},
		} {
			t.Run(string(kind)+"/"+tc.pod, func(t *testing.T) {
				for _, k := range tc.kinds {
					testnet.RequireKernel(t, k)
				}
				p := n.NewPod(t, tc.namespace, tc.pod, "", nil)
				if _, err := n.Add(t, n.Conf(), p); err != nil {
					t.Fatalf("ADD: %v\n%s", err, n.DaemonLog())
				}
				got := testnet.Interfaces(t, p.NS)
				slices.Sort(got)
				if !slices.Equal(got, tc.want) {
					t.Errorf("interfaces %v, want %v", got, tc.want)
				}
				if err := n.Del(t, n.Conf(), p); err != nil {
					t.Errorf("DEL: %v", err)
				}
				if left := n.Left(t); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

// ownReservations makes the examples use a temporary directory for host-local instead of /var/lib/cni/networks of the
// machine.
func ownReservations(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const was = `"type": "host-local",`
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		own := fmt.Sprintf(`%s "dataDir": %q,`, was, t.TempDir())
		if err := os.WriteFile(f, []byte(strings.ReplaceAll(string(b), was, own)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
