package neighbours

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

const (
	networksKey = "k8s.v1.cni.cncf.io/networks"
	statusKey   = "k8s.v1.cni.cncf.io/network-status"

	// waitTimeout bounds the wait for a condition.
	waitTimeout = 30 * time.Second
)

// deployment is one way to run Multus on a node.
type deployment struct {
	name string
	kind node.Kind
	// dir reports whether definitions are files and no API server is used.
	dir bool
}

var (
	thin    = deployment{"thin", node.Thin, false}
	thinDir = deployment{"thin, networksDir", node.Thin, true}
	thick   = deployment{"thick", node.Thick, false}

	deployments = []deployment{thin, thinDir, thick}
	// withAPI are the deployments with an API server.
	withAPI = []deployment{thin, thick}
)

// each runs a test for every deployment.
func each(t *testing.T, fn func(t *testing.T, d deployment)) {
	t.Helper()
	for _, d := range deployments {
		t.Run(d.name, func(t *testing.T) { fn(t, d) })
	}
}

// site is a node with an uplink, and a namespace for pods and definitions.
type site struct {
	*node.Node
	d       deployment
	api     *kubetest.Cluster // nil with networksDir
	ns      string
	outside *testnet.NS
	// outer is the CNI configuration that the runtime loads.
	outer []byte
	// kubeconfig connects to the API server directly, even if Multus uses a proxy.
	kubeconfig string
	pods       int
}

// primary is the cluster network: bridge and host-local. %[1]q is host-local's directory, %[2]q the version.
const primary = `{"cniVersion":%[2]q,"name":"cluster","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
	"ipam":{"type":"host-local","dataDir":%[1]q,"ranges":[[{"subnet":"10.244.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`

// newSite creates a site. The version of the outer configuration is 1.1.0, so that the runtime sends GC and STATUS.
func newSite(t *testing.T, d deployment, o node.Options) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("not with -short: it takes a minute")
	}
	testnet.RequireRoot(t)
	testnet.RequireKernel(t, "macvlan")
	testnet.RequireKernel(t, "bridge")
	s := &site{d: d, ns: "neighbours", outside: testnet.New(t)}
	if o.Dir == "" {
		o.Dir = tempDir(t)
	}
	o.Kind = d.kind
	if o.Conf == nil {
		o.Conf = map[string]any{}
	}
	o.Conf["cniVersion"] = "1.1.0"
	if o.Primary == "" {
		o.Primary = fmt.Sprintf(primary, filepath.Join(o.Dir, "ipam"), "1.1.0")
	}
	if d.dir {
		o.NetworksDir = filepath.Join(o.Dir, "networks")
		check(t, os.MkdirAll(o.NetworksDir, 0o755))
	} else {
		if cluster == nil {
			t.Skip("no API server: run make tools")
		}
		s.api, s.kubeconfig = cluster, cluster.Kubeconfig(t)
		if o.Kubeconfig == "" {
			o.Kubeconfig, o.API = s.kubeconfig, cluster.Addr()
		}
		s.ns = fmt.Sprintf("n%x", time.Now().UnixNano())
		cluster.CreateNamespace(t, s.ns)
	}
	s.Node = node.New(t, o)
	s.outer = s.Conf()
	testnet.Veth(t, s.NS, "uplink0", s.outside, "up0")
	for name := range standIns {
		check(t, os.Link(standin, filepath.Join(s.Dir, "plugins", name)))
	}
	return s
}

// tempDir is like t.TempDir, with a short name: the path of a socket may have at most 107 bytes.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nb") //nolint:usetesting // see above
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// define creates a network definition.
func (s *site) define(t *testing.T, name, config string) {
	t.Helper()
	if !json.Valid([]byte(config)) {
		t.Fatalf("configuration of %s is not JSON: %s", name, config)
	}
	if s.api != nil {
		s.api.CreateNetwork(t, s.ns, name, config, nil)
		return
	}
	b, err := json.Marshal(map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"name": name, "namespace": s.ns},
		"spec":     map[string]any{"config": config},
	})
	check(t, err)
	check(t, os.WriteFile(filepath.Join(s.Dir, "networks", name+".json"), b, 0o644))
}

// pod creates a sandbox and, if there is an API server, the object of the pod.
func (s *site) pod(t *testing.T, annotations map[string]string) *node.Pod {
	t.Helper()
	s.pods++
	name, uid := fmt.Sprintf("pod%d", s.pods), fmt.Sprintf("uid-%d", s.pods)
	if annotations == nil {
		annotations = map[string]string{}
	}
	if s.api != nil {
		uid = s.api.CreatePod(t, s.ns, name, annotations)
	}
	return s.NewPod(t, s.ns, name, uid, annotations)
}

// with creates a pod with these networks.
func (s *site) with(t *testing.T, networks string) *node.Pod {
	t.Helper()
	return s.pod(t, map[string]string{networksKey: networks})
}

// ipam returns the configuration of host-local with one range. more is added to the object.
func (s *site) ipam(subnet, more string) string {
	return fmt.Sprintf(`{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]]%s}`, s.Reservations(), subnet, more)
}

// log returns the warnings and errors that Multus logged, for a failed test.
func (s *site) log() string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, "plugin.log")) // it does not exist before the first call
	var out strings.Builder
	for line := range strings.Lines(string(b) + s.DaemonLog()) {
		if strings.Contains(line, "[error]") || strings.Contains(line, "[warn") {
			out.WriteString(line)
		}
	}
	const most = 1500
	return out.String()[max(0, out.Len()-most):]
}

// holds returns what is recorded or reserved for a pod: records, results, addresses.
func (s *site) holds(t *testing.T, p *node.Pod) []string {
	t.Helper()
	return slices.DeleteFunc(s.Left(t), func(name string) bool {
		b, err := os.ReadFile(filepath.Join(s.Dir, name))
		check(t, err)
		return !strings.Contains(name, p.ContainerID) && !strings.Contains(string(b), p.ContainerID)
	})
}

// addresses returns the addresses that host-local has reserved for a pod, as sorted "network/address".
func (s *site) addresses(t *testing.T, p *node.Pod) []string {
	t.Helper()
	var out []string
	for _, name := range s.holds(t, p) {
		if rest, ok := strings.CutPrefix(name, "ipam/"); ok {
			out = append(out, rest)
		}
	}
	slices.Sort(out)
	return out
}

// gone checks that nothing is left of a pod that was torn down.
func (s *site) gone(t *testing.T, p *node.Pod) {
	t.Helper()
	if left := s.holds(t, p); len(left) > 0 {
		t.Errorf("left after DEL: %v", left)
	}
	if _, err := os.Stat(p.Path); err != nil {
		return
	}
	if left := testnet.Interfaces(t, p.NS); len(left) > 0 {
		t.Errorf("interfaces left in the pod: %v", left)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
