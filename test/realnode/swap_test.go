package realnode

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"multus/internal/testutil/cluster"
)

// swap is a manifest of another project that runs this project's image. Only the name of the image is changed.
type swap struct {
	// name is the name of the file in testdata/swap. The file names its version and says which parts of the manifest it
	// has.
	name string
	// patches reports whether the role may patch pods/status. If not, network statuses are written by GET and PUT.
	patches bool
	// cleans reports whether the manifest requires that the CNI configuration is removed when the container stops.
	cleans bool
}

var swaps = []swap{
	{name: "multus-thick"},
	{name: "multus-thin"},
	{name: "rke2-thick"},
	{name: "rke2-thin"},
	{name: "cnao-thick"},
	{name: "cnao-thin"},
	{name: "nvidia", cleans: true},
	{name: "nvidia-24"},
	{name: "spiderpool", patches: true},
	{name: "spiderpool-0.7"},
}

// TestImageSwap checks docs/upgrade.md, "Our image under another project's manifest". One node runs all of them, one
// after another, each with pods that get their networks and their network status, and with the uninstallation of that
// page.
func TestImageSwap(t *testing.T) {
	n := start(t, cluster.Options{Shared: true}) // these mounts use propagation
	n.importImage(t)
	b, err := os.ReadFile(filepath.Join(root, "deploy", "base", "crd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	n.apply(t, string(b))
	n.applyNetworks(t)
	for _, s := range swaps {
		if !t.Run(s.name, func(t *testing.T) { n.swapped(t, s) }) {
			return // the node is not in the state that the next one requires
		}
	}
}

// swapped runs one manifest from installation to removal on a node without Multus.
func (n *node) swapped(t *testing.T, s swap) {
	const pods = 2
	all := objects(t, filepath.Join("testdata", "swap", s.name+".yaml"))
	var role rbacv1.ClusterRole
	var ds appsv1.DaemonSet
	find(t, all, "ClusterRole", &role)
	find(t, all, "DaemonSet", &ds)
	if may := verbs(&role, "pods/status"); !slices.Contains(may, "update") || slices.Contains(may, "patch") != s.patches {
		t.Fatalf("the role may %q pods/status", may)
	}
	n.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+ds.Namespace+"}")
	for _, u := range all {
		if err := n.ApplyClientSide(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "DaemonSet rolled out", func() error { return n.daemonSetReady(t, ds.Namespace, ds.Name) })
	n.untilConfigured(t)

	n.scale(t, controller("Deployment", "swap", pods, extra, ""), "swap", pods)
	n.traffic(t, n.complete(t, "swap"))
	n.neverWithout(t, "swap")
	n.scale(t, controller("Deployment", "swap", 0, extra, ""), "swap", 0)
	n.untilHeld(t, 0)

	for _, u := range slices.Backward(all) {
		if err := n.Delete(t.Context(), u); err != nil {
			t.Fatalf("delete %s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
	n.untilNoPods(t, ds.Namespace, metav1.FormatLabelSelector(ds.Spec.Selector))
	n.wantStopped(t, ds.Namespace, s.cleans)
	n.untilComplete(t, n.createJob(t))
	n.wantUninstalled(t)
}

// wantStopped checks that the hook of a stopped container did not fail, and that the CNI configuration was removed if
// and only if cleans is set. A manifest that removes it only by a hook does not count as cleaning.
func (n *node) wantStopped(t *testing.T, namespace string, cleans bool) {
	t.Helper()
	events, err := n.Client.CoreV1().Events(namespace).List(t.Context(),
		metav1.ListOptions{FieldSelector: "reason=FailedPreStopHook"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		t.Errorf("hook of %s: %s", e.InvolvedObject.Name, e.Message)
	}
	files, err := filepath.Glob(n.Path(n.paths.Conf + "/00-multus.conf*"))
	if err != nil || len(files) == 0 != cleans {
		t.Errorf("CNI configuration after the stop: %q, %v; removed: want %v", files, err, cleans)
	}
}

// find converts the first object of a kind.
func find(t *testing.T, all []*unstructured.Unstructured, kind string, to any) {
	t.Helper()
	i := slices.IndexFunc(all, func(u *unstructured.Unstructured) bool { return u.GetKind() == kind })
	if i < 0 {
		t.Fatalf("no %s", kind)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(all[i].Object, to); err != nil {
		t.Fatalf("convert %s: %v", kind, err)
	}
}

// verbs returns what a role allows for a resource of the core group.
func verbs(role *rbacv1.ClusterRole, resource string) []string {
	var may []string
	for _, r := range role.Rules {
		if slices.Contains(r.APIGroups, "") && slices.Contains(r.Resources, resource) {
			may = append(may, r.Verbs...)
		}
	}
	return may
}
