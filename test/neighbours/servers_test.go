package neighbours

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
	"multus/internal/testutil/tool"
)

var (
	crds = schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1",
		Resource: "customresourcedefinitions",
	}
	ipPools = schema.GroupVersionResource{Group: "whereabouts.cni.cncf.io", Version: "v1alpha1", Resource: "ippools"}
)

// background runs a program in a namespace until the test ends.
func background(t *testing.T, ns *testnet.NS, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	log := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(log)
	check(t, err)
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	ns.Do(t, func() { err = cmd.Start() })
	check(t, err)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(log)
			t.Logf("%s: %s", filepath.Base(path), b)
		}
	})
}

func dhcpSocket(s *site) string { return filepath.Join(s.Dir, "dhcp.sock") }

// dhcp starts the daemon of the dhcp plugin, and a DHCP server on the uplink.
func dhcp(t *testing.T, s *site) {
	t.Helper()
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("no dnsmasq: apt-get install dnsmasq-base")
	}
	testnet.Addr(t, s.outside, "up0", "10.4.0.1/24")
	background(t, s.outside, dnsmasq, "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=up0",
		"--bind-interfaces", "--user=root", "--no-ping", "--dhcp-broadcast",
		"--dhcp-authoritative", "--leasefile-ro", "--log-dhcp", "--pid-file="+filepath.Join(t.TempDir(), "pid"),
		"--dhcp-range=10.4.0.50,10.4.0.90,255.255.255.0,1h")
	background(t, s.NS, filepath.Join(s.BinDirs[1], "dhcp"), "daemon", "-socketpath", dhcpSocket(s), "-broadcast=true",
		"-timeout=10s")
	eventually.Within(t, waitTimeout, "socket of the dhcp daemon", func() bool {
		_, err := os.Stat(dhcpSocket(s))
		return err == nil
	})
}

// pools installs whereabouts on the node and its CRDs in the API server.
func pools(cidr ...string) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		t.Helper()
		if s.api == nil {
			t.Skip("whereabouts keeps its addresses in the API server")
		}
		if err := os.Link(tool.Path(t, "whereabouts"), filepath.Join(s.Dir, "plugins", "whereabouts")); err != nil &&
			!os.IsExist(err) {
			// The repository is on another file system.
			check(t, os.Symlink(tool.Path(t, "whereabouts"), filepath.Join(s.Dir, "plugins", "whereabouts")))
		}
		installPools(t)
		// Without this file every call of the plugin fails.
		check(t, os.WriteFile(filepath.Join(s.Dir, "whereabouts.conf"),
			fmt.Appendf(nil, `{"datastore":"kubernetes","kubernetes":{"kubeconfig":%q}}`, s.kubeconfig), 0o600))
		testnet.Addr(t, s.outside, "up0", cidr...)
	}
}

func dynamicClient(t *testing.T) dynamic.Interface {
	t.Helper()
	client, err := dynamic.NewForConfig(cluster.RESTConfig())
	check(t, err)
	return client
}

// installPools applies the CRDs of the release that tools/whereabouts pins.
func installPools(t *testing.T) {
	t.Helper()
	client := dynamicClient(t)
	cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", whereabouts.module)
	cmd.Dir = filepath.Join(node.Root(t), "tools", whereabouts.tool)
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("no source of whereabouts: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "doc", "crds",
		"whereabouts.cni.cncf.io_*.yaml"))
	check(t, err)
	if len(files) == 0 {
		t.Fatal("no definitions in the module of whereabouts")
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		check(t, err)
		b, err = yaml.YAMLToJSONStrict(b)
		check(t, err)
		crd := &unstructured.Unstructured{}
		check(t, crd.UnmarshalJSON(b))
		if _, err := client.Resource(crds).Create(t.Context(), crd, metav1.CreateOptions{}); err != nil &&
			!apierrors.IsAlreadyExists(err) {
			t.Fatalf("create %s: %v", crd.GetName(), err)
		}
	}
	eventually.Within(t, waitTimeout, "pools are served", func() bool {
		_, err := client.Resource(ipPools).List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
}

// pool returns the configuration of a network with whereabouts.
func pool(name, ranges string) func(*site) string {
	return func(s *site) string {
		return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,%s,"ipam":{"type":"whereabouts",%s,"configuration_path":%q}}`,
			name, macvlan, ranges, filepath.Join(s.Dir, "whereabouts.conf"))
	}
}

// allocations returns the addresses that whereabouts has assigned to pods of the site, as "address pod".
func allocations(t *testing.T, s *site) []string {
	t.Helper()
	list, err := dynamicClient(t).Resource(ipPools).List(t.Context(), metav1.ListOptions{})
	check(t, err)
	var out []string
	for _, item := range list.Items {
		given, _, err := unstructured.NestedMap(item.Object, "spec", "allocations")
		check(t, err)
		for offset, a := range given {
			m, ok := a.(map[string]any)
			if ref, _ := m["podref"].(string); ok && strings.HasPrefix(ref, s.ns+"/") {
				out = append(out, item.GetName()+"+"+offset+" "+ref)
			}
		}
	}
	return out
}

// reconcile runs the reconciler of whereabouts and returns the addresses that it released.
func reconcile(t *testing.T) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool.Path(t, "whereabouts-reconcile"), cluster.Kubeconfig(t))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("reconcile: %v\n%s", err, &stderr)
	}
	return strings.Fields(string(out))
}
