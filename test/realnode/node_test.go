package realnode

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/test/cluster"
)

// TestPlain: the cluster itself runs a pod, without Multus.
func TestPlain(t *testing.T) {
	n := start(t, cluster.Options{})
	n.apply(t, fmt.Sprintf(podManifest, "plain", "{}"))
	until(t, "pod Running, primary network only", func() error { return n.running(t, "plain") })
}

// TestPrivateRoot: nothing on the node is shared, and the manifests ask for nothing that would have to be.
func TestPrivateRoot(t *testing.T) {
	n := start(t, cluster.Options{})
	n.install(t)
	n.twoNetworks(t)
}

// TestSharedRoot: a root as systemd makes it.
func TestSharedRoot(t *testing.T) {
	n := start(t, cluster.Options{Shared: true})
	n.install(t)
	n.twoNetworks(t)
}

// TestReadOnlyRoot: nothing can be written but /run, /var, /etc/cni and /opt/cni; /var/run is a link.
func TestReadOnlyRoot(t *testing.T) {
	n := start(t, cluster.Options{ReadOnly: true})
	if err := os.WriteFile(n.Path("/try"), nil, 0o600); err == nil {
		t.Fatal("root can be written: this test shows nothing")
	}
	n.install(t)
	n.twoNetworks(t)
}

// TestReadOnlyRootVarRun: the same, where /var/run is a directory of its own.
func TestReadOnlyRootVarRun(t *testing.T) {
	n := start(t, cluster.Options{ReadOnly: true, VarRunDir: true})
	n.install(t)
	n.twoNetworks(t)
}

// TestScale: a Deployment comes and goes, and nothing of it stays.
func TestScale(t *testing.T) {
	const replicas = 10
	n := start(t, cluster.Options{})
	n.install(t)
	n.networks(t)
	n.apply(t, fmt.Sprintf(deploymentManifest, replicas))
	until(t, fmt.Sprintf("%d pods Ready", replicas), func() error { return n.replicas(t, replicas) })
	pods, err := n.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=many"})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "network-status of all", func() error {
		for _, p := range pods.Items {
			if err := n.status(t, p.Name); err != nil {
				return err
			}
		}
		return nil
	})
	n.apply(t, fmt.Sprintf(deploymentManifest, 0))
	until(t, "scaled to 0", func() error {
		left, err := n.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err == nil && len(left.Items) != 0 {
			err = fmt.Errorf("%d pods are left", len(left.Items))
		}
		return err
	})
	until(t, "no ledger entry, no reservation", func() error { return n.left() })
}

// left says what is still recorded or reserved on the node.
func (n *node) left() error {
	var left []string
	for _, pattern := range []string{"multus/*", "networks/net-*/*", "networks/primary/*", "multus/results/*"} {
		files, err := filepath.Glob(filepath.Join(n.Path("/var/lib/cni"), pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			info, err := os.Stat(f)
			name := filepath.Base(f)
			if err == nil && info.Mode().IsRegular() && name != "lock" && !strings.HasPrefix(name, "last_reserved_ip") {
				left = append(left, f)
			}
		}
	}
	if len(left) != 0 {
		return fmt.Errorf("left: %q", left)
	}
	return nil
}

func (n *node) apply(t *testing.T, text string) {
	t.Helper()
	if err := n.Apply(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

// install does what deploy/README.md says.
func (n *node) install(t *testing.T) {
	t.Helper()
	archive, err := image()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Import(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	if err := n.Kustomize(t.Context(), filepath.Join(root, "deploy", "base")); err != nil {
		t.Fatal(err)
	}
	until(t, "DaemonSet Ready", func() error {
		ds, err := n.Client.AppsV1().DaemonSets("kube-system").Get(t.Context(), "kube-multus-ds", metav1.GetOptions{})
		if err == nil && (ds.Status.NumberReady != 1 || ds.Status.DesiredNumberScheduled != 1) {
			err = fmt.Errorf("%d of %d are ready", ds.Status.NumberReady, ds.Status.DesiredNumberScheduled)
		}
		return err
	})
}

func (n *node) networks(t *testing.T) {
	t.Helper()
	for i, name := range []string{"net-a", "net-b"} {
		n.apply(t, fmt.Sprintf(networkManifest, name, name, cluster.Uplink, i+1))
	}
}

func (n *node) twoNetworks(t *testing.T) {
	t.Helper()
	n.networks(t)
	n.apply(t, fmt.Sprintf(podManifest, "two", `{k8s.v1.cni.cncf.io/networks: "net-a,net-b"}`))
	until(t, "pod with two macvlan networks Running", func() error { return n.running(t, "two") })
	until(t, "network-status", func() error { return n.status(t, "two") })
	until(t, "eth0, net1, net2 seen in the pod", func() error { return n.inside(t, "two") })
	if err := n.Client.CoreV1().Pods("default").Delete(t.Context(), "two", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "deleted: no ledger entry, no reservation", func() error { return n.left() })
}

func (n *node) running(t *testing.T, name string) error {
	t.Helper()
	p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" {
		return fmt.Errorf("pod is %s, address %q", p.Status.Phase, p.Status.PodIP)
	}
	return nil
}

// status says what is wrong with the annotation network-status.
func (n *node) status(t *testing.T, name string) error {
	t.Helper()
	p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	var got []nadv1.NetworkStatus
	if err := json.Unmarshal([]byte(p.Annotations[nadv1.NetworkStatusAnnot]), &got); err != nil {
		return fmt.Errorf("network-status %q: %w", p.Annotations[nadv1.NetworkStatusAnnot], err)
	}
	if len(got) != 3 {
		return fmt.Errorf("network-status has %d networks", len(got))
	}
	for i, want := range []struct{ ifname, name, prefix string }{
		{"eth0", "primary", p.Status.PodIP}, {"net1", "default/net-a", "198.18.1."}, {"net2", "default/net-b", "198.18.2."},
	} {
		g := got[i]
		if g.Interface != want.ifname || g.Name != want.name || len(g.IPs) != 1 || !strings.HasPrefix(g.IPs[0], want.prefix) || g.Default != (i == 0) {
			return fmt.Errorf("network-status: %+v, want %+v", g, want)
		}
	}
	return nil
}

// inside compares what the program in the pod found with what it should.
func (n *node) inside(t *testing.T, name string) error {
	t.Helper()
	b, err := n.Client.CoreV1().Pods("default").GetLogs(name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil {
		return err
	}
	var found map[string][]string
	if err := json.Unmarshal(b, &found); err != nil {
		return fmt.Errorf("%q: %w", b, err)
	}
	for ifname, prefix := range map[string]string{"eth0": "10.244.", "net1": "198.18.1.", "net2": "198.18.2."} {
		if !slices.ContainsFunc(found[ifname], func(a string) bool { return strings.HasPrefix(a, prefix) }) {
			return fmt.Errorf("%s in the pod: %v", ifname, found)
		}
	}
	return nil
}

// replicas says how many pods of the Deployment are not ready.
func (n *node) replicas(t *testing.T, want int32) error {
	t.Helper()
	d, err := n.Client.AppsV1().Deployments("default").Get(t.Context(), "many", metav1.GetOptions{})
	if err == nil && d.Status.ReadyReplicas != want {
		err = fmt.Errorf("%d of %d are ready", d.Status.ReadyReplicas, want)
	}
	return err
}
