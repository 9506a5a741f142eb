package realnode

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/cluster"
)

// ledger, reserved and results are where the node keeps what is attached: the records of Multus, the addresses of
// host-local, and the results of libcni.
const (
	ledger   = "/var/lib/cni/multus/*"
	reserved = "/var/lib/cni/networks/%s/*"
	results  = "/var/lib/cni/multus/results/*"
)

func (n *node) apply(t *testing.T, text string) {
	t.Helper()
	if err := n.Apply(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

// install follows deploy/README.md.
func (n *node) install(t *testing.T, dir string) {
	t.Helper()
	n.installFrom(t, filepath.Join(root, "deploy", dir))
}

// installWith installs base with components.
func (n *node) installWith(t *testing.T, components ...string) {
	t.Helper()
	n.installFrom(t, n.baseWith(t, components...))
}

// baseWith returns a kustomization of base with components, as docs/install.md shows it.
func (n *node) baseWith(t *testing.T, components ...string) string {
	t.Helper()
	deploy, err := filepath.Abs(filepath.Join(root, "deploy"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	rel, err := filepath.Rel(dir, deploy)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("resources: [%s/base]\ncomponents:\n", rel)
	for _, c := range components {
		text += fmt.Sprintf("  - %s/components/%s\n", rel, c)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// installFrom installs from any kustomization.
func (n *node) installFrom(t *testing.T, dir string) {
	t.Helper()
	n.importImage(t)
	if err := n.Kustomize(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	until(t, "DaemonSet Ready", func() error { return n.rolledOut(t) })
	n.untilConfigured(t)
	n.applyNetworks(t)
}

// importImage imports the image on every node.
func (n *node) importImage(t *testing.T) {
	t.Helper()
	archive, err := cluster.MultusImage()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range append([]*cluster.Cluster{n.Cluster}, n.Others...) {
		if err := one.Import(t.Context(), archive); err != nil {
			t.Fatal(err)
		}
	}
}

// untilConfigured waits for the CNI configuration file. A deployment without a probe is Ready before the file is
// written.
func (n *node) untilConfigured(t *testing.T) {
	t.Helper()
	until(t, "CNI configuration", func() error {
		files, err := filepath.Glob(n.Path(n.paths.Conf + "/00-multus.conf*"))
		if err == nil && len(files) != 1 {
			err = fmt.Errorf("files: %q", files)
		}
		return err
	})
}

// applyNetworks applies the network definitions that the annotation extra names.
func (n *node) applyNetworks(t *testing.T) {
	t.Helper()
	n.apply(t, network("net-a", 1))
	n.apply(t, network("net-b", 2))
}

// rolledOut returns an error unless the DaemonSet is rolled out.
func (n *node) rolledOut(t *testing.T) error {
	t.Helper()
	return n.daemonSetReady(t, "kube-system", "kube-multus-ds")
}

func (n *node) daemonSetReady(t *testing.T, namespace, name string) error {
	t.Helper()
	ds, err := n.Client.AppsV1().DaemonSets(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	nodes := int32(1 + len(n.Others)) //nolint:gosec // a few
	s := ds.Status
	if s.ObservedGeneration != ds.Generation || s.DesiredNumberScheduled != nodes || s.UpdatedNumberScheduled != nodes ||
		s.NumberReady != nodes {
		return fmt.Errorf("generation %d: %+v", ds.Generation, s)
	}
	return nil
}

// twoNetworks runs a pod with two additional networks and removes it.
func (n *node) twoNetworks(t *testing.T) {
	t.Helper()
	before := n.held(t)
	n.apply(t, pod("two", extra))
	n.untilAttached(t, "two")
	n.wantHeld(t, len(before)+4) // the record and three addresses
	n.remove(t, "two")
	n.untilHeld(t, len(before))
}

func (n *node) remove(t *testing.T, name string) {
	t.Helper()
	if err := n.Client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, name+" is gone", func() error {
		_, err := n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err == nil {
			return fmt.Errorf("pod %s is there", name)
		}
		return nil
	})
}

// held returns the records of Multus and the reserved addresses.
func (n *node) held(t *testing.T) []string {
	t.Helper()
	var held []string
	for _, pattern := range []string{ledger, fmt.Sprintf(reserved, "*")} {
		files, err := filepath.Glob(n.Path(pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			info, err := os.Stat(f)
			name := filepath.Base(f)
			if err != nil || !info.Mode().IsRegular() || name == "lock" || strings.HasPrefix(name, "last_reserved_ip") ||
				strings.HasPrefix(name, ".") {
				continue
			}
			held = append(held, strings.TrimPrefix(f, n.Path("")))
		}
	}
	return held
}

func (n *node) wantHeld(t *testing.T, want int) {
	t.Helper()
	if held := n.held(t); len(held) != want {
		t.Errorf("%d records and addresses, want %d: %q", len(held), want, held)
	}
}

// untilHeld waits until there are exactly this many records and addresses.
func (n *node) untilHeld(t *testing.T, want int) {
	t.Helper()
	until(t, fmt.Sprintf("%d records and addresses", want), func() error {
		if held := n.held(t); len(held) != want {
			return fmt.Errorf("%d: %q", len(held), held)
		}
		return nil
	})
}

// untilAttached waits until pods have all their networks: the interfaces in the pod and the network status.
func (n *node) untilAttached(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		until(t, name+" has its networks", func() error { return n.attached(t, name) })
	}
}

// attached returns an error unless the networks of a pod that requests net-a and net-b are complete.
func (n *node) attached(t *testing.T, name string) error {
	t.Helper()
	p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !ready(p) {
		return fmt.Errorf("pod is %s, address %q", p.Status.Phase, p.Status.PodIP)
	}
	status, err := networkStatus(p)
	if err != nil {
		return err
	}
	has, err := n.interfaces(t, p)
	if err != nil {
		return err
	}
	for i, want := range []struct{ ifname, name, prefix string }{
		{"eth0", "primary", p.Status.PodIP}, {"net1", "default/net-a", "198.18.1."}, {"net2", "default/net-b", "198.18.2."},
	} {
		if len(status) != 3 {
			return fmt.Errorf("network-status has %d networks", len(status))
		}
		s := status[i]
		if s.Interface != want.ifname || s.Name != want.name || len(s.IPs) != 1 ||
			!strings.HasPrefix(s.IPs[0], want.prefix) || s.Default != (i == 0) {
			return fmt.Errorf("network-status: %+v, want %+v", s, want)
		}
		if !slices.ContainsFunc(has[want.ifname], func(a string) bool { return strings.HasPrefix(a, s.IPs[0]+"/") }) {
			return fmt.Errorf("%s in the pod: %v, want %s", want.ifname, has, s.IPs[0])
		}
	}
	return nil
}

func ready(p *corev1.Pod) bool {
	return p.Status.PodIP != "" && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func networkStatus(p *corev1.Pod) ([]nadv1.NetworkStatus, error) {
	var s []nadv1.NetworkStatus
	if err := json.Unmarshal([]byte(p.Annotations[nadv1.NetworkStatusAnnot]), &s); err != nil {
		return nil, fmt.Errorf("network-status %q: %w", p.Annotations[nadv1.NetworkStatusAnnot], err)
	}
	return s, nil
}

// interfaces returns the interfaces that the program in a pod reports.
func (n *node) interfaces(t *testing.T, p *corev1.Pod) (map[string][]string, error) {
	t.Helper()
	b, err := n.ask(t, p, "/interfaces")
	if err != nil {
		return nil, err
	}
	var has map[string][]string
	if err := json.Unmarshal(b, &has); err != nil {
		return nil, fmt.Errorf("%q: %w", b, err)
	}
	return has, nil
}

// ask sends a request from the node to the program in a pod.
func (n *node) ask(t *testing.T, p *corev1.Pod, path string) ([]byte, error) {
	t.Helper()
	const limit = 10 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(p.Status.PodIP, "8080")+path,
		nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, b)
	}
	return b, err
}

// traffic sends a request from each pod to the next one over each of its networks. The other pod must see the address
// of the first one on that network.
func (n *node) traffic(t *testing.T, pods []corev1.Pod) {
	t.Helper()
	for i := range pods {
		from, err := networkStatus(&pods[i])
		if err != nil {
			t.Fatal(err)
		}
		to, err := networkStatus(&pods[(i+1)%len(pods)])
		if err != nil {
			t.Fatal(err)
		}
		for j := range from {
			seen, err := n.ask(t, &pods[i], "/reach?to="+url.QueryEscape(to[j].IPs[0]))
			if err != nil {
				t.Fatalf("%s over %s: %v", pods[i].Name, from[j].Name, err)
			}
			if got, want := strings.TrimPrefix(string(seen), "::ffff:"), from[j].IPs[0]; got != want {
				t.Errorf("%s over %s comes from %s, want %s", pods[i].Name, from[j].Name, got, want)
			}
		}
	}
	t.Logf("traffic: %d pods, each over each of its networks", len(pods))
}

// pods returns the pods of a controller.
func (n *node) pods(t *testing.T, app string) []corev1.Pod {
	t.Helper()
	l, err := n.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		t.Fatal(err)
	}
	return l.Items
}

// scale applies the manifest of a controller and waits until it has this many pods and all of them are Ready.
func (n *node) scale(t *testing.T, manifest, app string, want int) time.Duration {
	t.Helper()
	began := time.Now()
	n.apply(t, manifest)
	n.untilReady(t, app, want)
	return time.Since(began)
}

func (n *node) untilReady(t *testing.T, app string, want int) {
	t.Helper()
	until(t, fmt.Sprintf("%d pods Ready", want), func() error {
		pods := n.pods(t, app)
		up := 0
		for i := range pods {
			if ready(&pods[i]) {
				up++
			}
		}
		if up != want || len(pods) != want {
			return fmt.Errorf("%d of %d pods are ready", up, len(pods))
		}
		return nil
	})
}

// complete waits until all pods of a controller have their networks, and returns the pods.
func (n *node) complete(t *testing.T, app string) []corev1.Pod {
	t.Helper()
	for _, p := range n.pods(t, app) {
		wait(t, p.Name+" has its networks", func() error { return n.attached(t, p.Name) })
	}
	return n.pods(t, app)
}

// neverWithout checks that no container of a controller ever ran without the additional networks. The first line of its
// log has the interfaces at its start.
func (n *node) neverWithout(t *testing.T, app string) {
	t.Helper()
	logs, err := filepath.Glob(n.Path("/var/log/pods/default_" + app + "-*/main/*.log"))
	if err != nil {
		t.Fatal(err)
	}
	if len(logs) == 0 {
		t.Errorf("no logs of %s: this shows nothing", app)
	}
	for _, log := range logs {
		b, err := os.ReadFile(log)
		if err != nil {
			continue // its pod was deleted
		}
		line, _, whole := strings.Cut(string(b), "\n")
		if whole && (!strings.Contains(line, `"net1"`) || !strings.Contains(line, `"net2"`)) {
			t.Errorf("%s started without its networks: %s", filepath.Base(filepath.Dir(filepath.Dir(log))), line)
		}
	}
}

// scenario is a part of a test that uses the node as the parts before it have left it.
type scenario struct {
	name string
	run  func(t *testing.T)
}

// inOrder runs scenarios until one fails, since the following ones would fail for the same reason. It returns whether
// none has failed.
func inOrder(t *testing.T, scenarios []scenario) bool {
	t.Helper()
	for _, s := range scenarios {
		if !t.Run(s.name, s.run) {
			return false
		}
	}
	return true
}
