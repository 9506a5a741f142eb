package realnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/testutil/cluster"
)

// many is the number of pods of the Deployments.
const many = 20

// k3s has its own paths for most directories.
var k3s = cluster.Paths{
	Conf: "/var/lib/rancher/k3s/agent/etc/cni/net.d", Bin: "/var/lib/rancher/k3s/data/cni",
	Plugins:    "/var/lib/rancher/k3s/data/0123abcd/bin",
	Containerd: "/var/lib/rancher/k3s/agent/containerd", Run: "/run/k3s/containerd",
}

var (
	k0s      = cluster.Paths{Kubelet: "/var/lib/k0s/kubelet", Containerd: "/var/lib/k0s/containerd", Run: "/run/k0s"}
	microk8s = cluster.Paths{
		Current: "/var/snap/microk8s/current",
		Conf:    "/var/snap/microk8s/current/args/cni-network", Bin: "/var/snap/microk8s/current/opt/cni/bin",
		Kubelet: "/var/snap/microk8s/common/var/lib/kubelet", Containerd: "/var/snap/microk8s/common/var/lib/containerd",
		Run: "/var/snap/microk8s/common/run",
	}
)

// rootCase is one kind of node that TestRoots starts.
type rootCase struct {
	name    string
	options cluster.Options
	// overlay is the directory of deploy that is applied.
	overlay string
	// paths reports whether the node has only the directories of the distribution of the overlay, and nothing else of it.
	paths bool
}

// roots are the root file systems and the directories of distributions. states_test.go derives the text of the
// documentation from them.
var roots = []rootCase{
	{"shared", cluster.Options{Shared: true}, "base", false},
	{"read-only", cluster.Options{ReadOnly: true}, "base", false},
	{
		"read-only, plugins below var",
		cluster.Options{ReadOnly: true, Paths: cluster.Paths{Bin: "/var/lib/cni/bin"}},
		"overlays/readonly-fs", false,
	},
	{"read-only, var-run a directory", cluster.Options{ReadOnly: true, VarRunDir: true}, "base", false},
	{"MicroK8s", cluster.Options{Paths: microk8s}, "overlays/microk8s", true},
	{"k3s", cluster.Options{Paths: k3s}, "overlays/k3s", true},
	{"k0s", cluster.Options{Paths: k0s}, "overlays/k0s", true},
}

// nodeBase and nodeThin are the directories of deploy that TestNode applies.
const (
	nodeBase = "base"
	nodeThin = "overlays/thin"
)

// TestRoots checks that no root file system requires a change other than the overlay that is applied. TestNode covers a
// private root.
func TestRoots(t *testing.T) {
	for _, tt := range roots {
		t.Run(tt.name, func(t *testing.T) {
			n := start(t, tt.options)
			if err := os.WriteFile(n.Path("/try"), nil, 0o600); (err == nil) == tt.options.ReadOnly {
				t.Fatalf("unexpected root: %v", err)
			}
			n.install(t, tt.overlay)
			n.twoNetworks(t)
		})
	}
}

// TestNode runs the life of one node whose root is private. Nothing is shared, and the manifests do not require it. In
// most scenarios a pod that was there before must keep what it has.
func TestNode(t *testing.T) {
	n := start(t, cluster.Options{})
	inOrder(t, []scenario{
		{"before Multus", n.before},
		{"install", func(t *testing.T) { n.install(t, nodeBase); n.twoNetworks(t) }},
		{"deployment", n.deployment},
		{"time to Ready", n.timeToReady},
		{"missing definition", n.missingDefinition},
		{"StatefulSet", n.statefulSet},
		{"static pod", n.staticPod},
		{"daemon killed", func(t *testing.T) { n.meanwhile(t, n.killDaemon) }},
		{"daemon rolled", func(t *testing.T) { n.meanwhile(t, n.rollDaemon) }},
		{"daemon upgraded", func(t *testing.T) { n.meanwhile(t, n.upgradeDaemon) }},
		{"configuration conflict", n.configurationConflict},
		{"reboot", func(t *testing.T) { n.reboot(t, n.nothingLost, n.nothingNew) }},
		{"reboot, CNI configuration in memory", func(t *testing.T) { n.reboot(t, n.confLost, n.primaryComesLate) }},
		{"reboot, exclusive directory", func(t *testing.T) {
			n.exclusiveDirectory(t)
			n.reboot(t, n.primaryFirst, n.nothingNew)
		}},
		{"uninstall", n.uninstall},
		{"thin", n.thin},
	})
}

// before runs a pod without Multus.
func (n *node) before(t *testing.T) {
	n.runningPlain(t, "plain")
	n.untilHeld(t, 0)
}

// thin installs the deployment without a daemon. Its configuration has the version that the container runtime supports,
// too.
func (n *node) thin(t *testing.T) {
	n.install(t, nodeThin)
	n.twoNetworks(t)
	b, err := os.ReadFile(n.Path(n.paths.Conf + "/00-multus.conflist"))
	if err != nil || !strings.Contains(string(b), `"cniVersion":"1.1.0","name":"multus-cni-network"`) ||
		!strings.Contains(string(b), `"nodeAddresses":[`) {
		t.Errorf("the configuration has neither CNI 1.1 nor the addresses of the node: %v, %s", err, b)
	}
}

// deployment creates a Deployment whose pods reach each other over every network, and removes it. Nothing of it stays.
func (n *node) deployment(t *testing.T) {
	n.scale(t, controller("Deployment", "many", many, extra, ""), "many", many)
	n.traffic(t, n.complete(t, "many"))
	// Check what exists before, so that its absence afterwards means something: a record for each pod, an address on each
	// network.
	for pattern, want := range map[string]int{
		ledger: many, fmt.Sprintf(reserved, "net-a"): many,
		fmt.Sprintf(reserved, "net-b"): many, results: 3 * many,
	} {
		files, err := filepath.Glob(n.Path(pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = slices.DeleteFunc(files, func(f string) bool {
			return filepath.Base(f) == "results" || filepath.Base(f) == "lock" || strings.HasPrefix(filepath.Base(f), "last_")
		})
		if len(files) != want {
			t.Errorf("%s: %d files, want %d", pattern, len(files), want)
		}
	}
	n.scale(t, controller("Deployment", "many", 0, extra, ""), "many", 0)
	n.untilHeld(t, 0)
	if left, _ := filepath.Glob(n.Path(results)); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// timeToReady compares the Deployment with one without additional networks and without Multus, in turns.
func (n *node) timeToReady(t *testing.T) {
	const rounds, limit = 3, 1.6
	n.apply(t, plainClass)
	var with, without []time.Duration
	for range rounds {
		without = append(without, n.scale(t,
			controller("Deployment", "plain", many, "{}", "runtimeClassName: "+cluster.PlainRuntime), "plain", many))
		if held, err := filepath.Glob(n.Path(results)); err != nil || len(held) != 0 {
			t.Errorf("Multus attached pods that must not use it: %v %v", held, err)
		}
		n.scale(t, controller("Deployment", "plain", 0, "{}", "runtimeClassName: "+cluster.PlainRuntime), "plain", 0)
		with = append(with, n.scale(t, controller("Deployment", "many", many, extra, ""), "many", many))
		n.scale(t, controller("Deployment", "many", 0, extra, ""), "many", 0)
	}
	slices.Sort(with)
	slices.Sort(without)
	ratio := with[rounds/2].Seconds() / without[rounds/2].Seconds()
	t.Attr("note", fmt.Sprintf("%d pods Ready, 2 extra networks: %.2f s; without Multus: %.2f s (medians of %d); ratio "+
		"%.2f, limit %.1f",
		many, with[rounds/2].Seconds(), without[rounds/2].Seconds(), rounds, ratio, limit))
	t.Logf("with %v, without %v", with, without)
	if ratio > limit {
		t.Errorf("ratio %.2f, limit %.1f", ratio, limit)
	}
	n.untilHeld(t, 0)
}

// missingDefinition checks that the event of the pod names what is missing, that other pods are not affected, and that
// the pod starts when the definition exists.
func (n *node) missingDefinition(t *testing.T) {
	n.apply(t, pod("waits", `{k8s.v1.cni.cncf.io/networks: "net-a,net-none"}`))
	n.twoNetworks(t) // another pod in the meantime
	until(t, "event", func() error {
		events, err := n.Client.CoreV1().Events("default").List(t.Context(),
			metav1.ListOptions{FieldSelector: "involvedObject.name=waits"})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range events.Items {
			seen = append(seen, e.Source.Component+": "+e.Reason+": "+e.Message)
			if e.Source.Component == "multus" && strings.Contains(e.Message, "net-none") &&
				strings.Contains(e.Message, "default") {
				t.Logf("event: %s %s", e.Reason, e.Message)
				return nil
			}
		}
		return fmt.Errorf("no event of multus names the definition: %q", seen)
	})
	n.apply(t, network("net-none", 3))
	until(t, "the pod starts", func() error {
		p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), "waits", metav1.GetOptions{})
		if err == nil && !ready(p) {
			err = fmt.Errorf("pod is %s", p.Status.Phase)
		}
		return err
	})
	n.remove(t, "waits")
	n.untilHeld(t, 0)
}

// statefulSet checks that the successor of a pod, which has the same name, gets networks of its own.
func (n *node) statefulSet(t *testing.T) {
	n.apply(t, controller("StatefulSet", "set", 2, extra, ""))
	n.untilReady(t, "set", 2)
	n.untilAttached(t, "set-0", "set-1")
	first, err := n.Client.CoreV1().Pods("default").Get(t.Context(), "set-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Client.CoreV1().Pods("default").Delete(t.Context(), "set-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the successor has its networks", func() error {
		p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), "set-0", metav1.GetOptions{})
		if err == nil && p.UID == first.UID {
			err = fmt.Errorf("it is still the first")
		}
		if err != nil {
			return err
		}
		return n.attached(t, "set-0")
	})
	n.untilHeld(t, 2*4)
	n.traffic(t, n.complete(t, "set"))
	n.scale(t, controller("StatefulSet", "set", 0, extra, ""), "set", 0)
	n.untilHeld(t, 0)
}

// staticPod checks a static pod of the kubelet, whose mirror pod in the API server has another UID.
func (n *node) staticPod(t *testing.T) {
	file := n.Path(n.paths.Kubelet + "/static/static.yaml")
	if err := os.WriteFile(file, []byte(pod("static", extra)), 0o600); err != nil {
		t.Fatal(err)
	}
	name := "static-" + cluster.NodeName
	n.untilAttached(t, name)
	n.wantHeld(t, 4)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	until(t, "static pod is gone", func() error {
		_, err := n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	n.untilHeld(t, 0)
}

// meanwhile calls act, which does something to the daemon, while pods start. No pod may start without its networks, all
// pods start, and a pod that was there before keeps what it has.
func (n *node) meanwhile(t *testing.T, act func(t *testing.T)) {
	n.throughout(t, act, func(*testing.T) {})
}

// throughout is like meanwhile and also calls ending while those pods are deleted.
func (n *node) throughout(t *testing.T, starting, ending func(t *testing.T)) {
	t.Helper()
	n.apply(t, pod("witness", extra))
	n.untilAttached(t, "witness")
	before, err := n.Client.CoreV1().Pods("default").Get(t.Context(), "witness", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	had, err := n.interfaces(t, before)
	if err != nil {
		t.Fatal(err)
	}
	n.apply(t, controller("Deployment", "many", many, extra, ""))
	starting(t)
	n.untilReady(t, "many", many)
	n.complete(t, "many")
	n.neverWithout(t, "many")
	after, err := n.Client.CoreV1().Pods("default").Get(t.Context(), "witness", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	has, err := n.interfaces(t, after)
	if err != nil {
		t.Fatal(err)
	}
	if after.Status.ContainerStatuses[0].RestartCount != 0 || fmt.Sprint(had) != fmt.Sprint(has) {
		t.Errorf("the running pod had %v, has %v, status %+v", had, has, after.Status.ContainerStatuses)
	}
	n.remove(t, "witness")
	n.apply(t, controller("Deployment", "many", 0, extra, ""))
	ending(t)
	n.untilReady(t, "many", 0)
	n.untilHeld(t, 0)
}

// killDaemon kills the daemon twice. After the second time the kubelet delays the restart by ten seconds.
func (n *node) killDaemon(t *testing.T) {
	for range 2 {
		until(t, "the daemon is killed", func() error {
			killed, err := n.Kill("multus-daemon")
			if err == nil && killed != 1 {
				err = fmt.Errorf("%d daemons", killed)
			}
			return err
		})
	}
}

// rollDaemon does what `kubectl rollout restart` does, and waits for the end.
func (n *node) rollDaemon(t *testing.T) {
	n.restartDaemon(t)
	until(t, "DaemonSet rolled out", func() error { return n.rolledOut(t) })
}

// restartDaemon does what `kubectl rollout restart` does.
func (n *node) restartDaemon(t *testing.T) {
	n.patchDaemonSet(t, `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"`+time.Now().Format(time.RFC3339)+`"}}}}}`)
}

// upgradeDaemon sets another image of the daemon, and waits for the end.
func (n *node) upgradeDaemon(t *testing.T) {
	const next = "localhost/multus:next"
	if _, err := n.Ctr(t.Context(), "images", "tag", "localhost/multus:latest", next); err != nil {
		t.Fatal(err)
	}
	n.setImage(t, next)
	until(t, "DaemonSet rolled out", func() error { return n.rolledOut(t) })
}

// setImage does what `kubectl set image` does.
func (n *node) setImage(t *testing.T, image string) {
	t.Helper()
	n.patchDaemonSet(t, `{"spec":{"template":{"spec":{"containers":[{"name":"kube-multus","image":"`+image+`"}]}}}}`)
}

func (n *node) patchDaemonSet(t *testing.T, patch string) {
	t.Helper()
	_, err := n.Client.AppsV1().DaemonSets("kube-system").Patch(t.Context(), "kube-multus-ds",
		types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// configurationConflict renames the CNI configuration file repeatedly, as Cilium does if it is exclusive
// (multus-cni#972). The node gets an event, the daemon stops writing the file and is not ready, until it is restarted.
func (n *node) configurationConflict(t *testing.T) {
	conf := n.Path(n.paths.Conf + "/00-multus.conf")
	until(t, "event of the node", func() error {
		if err := os.Rename(conf, conf+".cilium_bak"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		events, err := n.Client.CoreV1().Events("default").List(t.Context(),
			metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,reason=CNIConfigurationLost"})
		if err == nil && len(events.Items) == 0 {
			err = fmt.Errorf("no event")
		}
		if err == nil {
			e := events.Items[0]
			t.Logf("event of %s %s: %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Message)
			if e.InvolvedObject.Name != cluster.NodeName || !strings.Contains(e.Message, "cni.exclusive=false") {
				t.Errorf("event %+v", e)
			}
		}
		return err
	})
	until(t, "daemon is not Ready", func() error {
		if n.rolledOut(t) == nil {
			return fmt.Errorf("it is")
		}
		return nil
	})
	if err := os.Remove(conf + ".cilium_bak"); err != nil {
		t.Fatal(err)
	}
	n.rollDaemon(t)
	n.twoNetworks(t)
}

// reboot simulates a loss of power with pods that have networks. lose is called before the runtime and the kubelet
// start. agent then acts as the agent of the cluster network.
func (n *node) reboot(t *testing.T, lose func() error, agent func(t *testing.T)) {
	const replicas = 5
	n.scale(t, controller("Deployment", "many", replicas, extra, ""), "many", replicas)
	n.complete(t, "many")
	before := n.held(t)
	if len(before) != 4*replicas {
		t.Fatalf("held: %q", before)
	}
	if err := n.Reboot(t.Context(), lose); err != nil {
		t.Fatal(err)
	}
	agent(t)
	n.afterReboot(t, before, replicas)
}

func (n *node) nothingLost() error { return nil }

func (n *node) nothingNew(*testing.T) {}

// confLost empties the directory of CNI configurations, as if it had been in memory.
func (n *node) confLost() error {
	files, err := filepath.Glob(n.Path(n.paths.Conf + "/*"))
	for _, f := range files {
		err = errors.Join(err, os.RemoveAll(f))
	}
	return err
}

// primaryComesLate writes the configuration of the cluster network after the daemon has written its own. This order is
// required: with the cluster network's configuration alone, pods would start without their networks.
func (n *node) primaryComesLate(t *testing.T) {
	until(t, "our configuration, before the cluster network's", func() error {
		_, err := os.Stat(n.Path(n.paths.Conf + "/00-multus.conf"))
		return err
	})
	if err := n.writePrimary(n.paths.Conf); err != nil {
		t.Fatal(err)
	}
}

// exclusiveDir is where the agent of the cluster network writes if the runtime must see only the configuration of
// Multus.
const exclusiveDir = "/run/multus/cni/net.d"

// exclusiveDirectory moves the cluster network's configuration to a directory that the runtime does not read, as in
// docs/install.md. It stays there for the following scenarios: uninstall has to restore it.
func (n *node) exclusiveDirectory(t *testing.T) {
	if err := n.writePrimary(exclusiveDir); err != nil {
		t.Fatal(err)
	}
	n.configure(t, `"multusAutoconfigDir": "/etc/cni/net.d"`, `"multusAutoconfigDir": "`+exclusiveDir+`"`)
	until(t, "our configuration names the other directory", func() error {
		b, err := os.ReadFile(n.Path(n.paths.Conf + "/00-multus.conf"))
		if err == nil && !strings.Contains(string(b), exclusiveDir) {
			err = fmt.Errorf("%s", b)
		}
		return err
	})
	if err := os.Remove(n.Path(n.paths.Conf + "/" + cluster.PrimaryFile)); err != nil {
		t.Fatal(err)
	}
	n.twoNetworks(t)
}

// primaryFirst removes all configurations and writes that of the cluster network before anything else.
func (n *node) primaryFirst() error {
	return errors.Join(n.confLost(), n.writePrimary(exclusiveDir))
}

func (n *node) writePrimary(dir string) error {
	if err := os.MkdirAll(n.Path(dir), 0o755); err != nil {
		return err
	}
	return os.WriteFile(n.Path(dir+"/"+cluster.PrimaryFile), []byte(cluster.Primary), 0o600)
}

// afterReboot checks that all pods run again, with all their networks from the start, and that what they had before is
// free.
func (n *node) afterReboot(t *testing.T, before []string, replicas int) {
	t.Helper()
	until(t, "no record from before", func() error {
		for _, f := range before {
			if _, err := os.Stat(n.Path(f)); err == nil && strings.HasPrefix(f, filepath.Dir(ledger)+"/") {
				return fmt.Errorf("%s is there", f)
			}
		}
		return nil
	})
	n.untilReady(t, "many", replicas)
	n.traffic(t, n.complete(t, "many"))
	n.neverWithout(t, "many")
	n.untilHeld(t, 4*replicas)
	n.scale(t, controller("Deployment", "many", 0, extra, ""), "many", 0)
	n.untilHeld(t, 0)
}
