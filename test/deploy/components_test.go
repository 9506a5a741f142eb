package deploy

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	daemonconfig "multus/internal/config"
	"multus/internal/host/entrypoint"
	"multus/internal/testutil/kubetest"
)

// with renders a directory with components, as docs/install.md shows it.
func with(tb testing.TB, dir string, components ...string) manifest {
	tb.Helper()
	abs, err := filepath.Abs(root)
	if err != nil {
		tb.Fatal(err)
	}
	at := filepath.Join(tb.TempDir(), "own")
	if err := os.Mkdir(at, 0o755); err != nil {
		tb.Fatal(err)
	}
	rel := func(p string) string {
		r, err := filepath.Rel(at, filepath.Join(abs, p))
		if err != nil {
			tb.Fatal(err)
		}
		return r
	}
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [" + rel(dir) +
		"]\ncomponents:\n"
	for _, c := range components {
		text += "  - " + rel("components/"+c) + "\n"
	}
	if err := os.WriteFile(filepath.Join(at, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return renderAt(tb, at)
}

func components(tb testing.TB) []string {
	tb.Helper()
	dirs, err := filepath.Glob(filepath.Join(root, "components", "*"))
	if err != nil || len(dirs) == 0 {
		tb.Fatalf("components: %v, %v", dirs, err)
	}
	for i := range dirs {
		dirs[i] = filepath.Base(dirs[i])
	}
	return dirs
}

// TestComponents checks that each component can be rendered with base and with every overlay, that a real API server
// accepts the result with base and with the thin overlay, and that deploy/README.md has a line for it.
func TestComponents(t *testing.T) {
	c := kubetest.Start(t)
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	monitoringTypes(t, client)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, component := range components(t) {
		if !strings.Contains(string(readme), "\n| `"+component+"` | ") {
			t.Errorf("README.md does not mention the component %s", component)
		}
		for _, dir := range all(t) {
			if !fits(component, dir) {
				continue
			}
			m := with(t, dir, withOthers(component)...)
			if dir != base && dir != thin {
				continue
			}
			for _, u := range m.objects {
				if u.GetKind() == "CustomResourceDefinition" || u.GroupVersionKind().Group == "cert-manager.io" {
					continue // it exists already, or its kind does not
				}
				if err := apply(t, client, u, true); err != nil {
					t.Errorf("%s: %s %s: %v", component, u.GetKind(), u.GetName(), err)
				}
			}
		}
	}
}

// withOthers returns a component with those that it needs.
func withOthers(component string) []string {
	if component == "admission-cert-manager" {
		return []string{"admission", component}
	}
	return []string{component}
}

// fits reports whether a component is for a directory: isolation-thin is for the thin plugin, and those that change the
// daemon are not.
func fits(component, dir string) bool {
	switch component {
	case "isolation", "hotplug", "executor", "evict", "claim-status", "monitoring", "metrics-auth":
		return dir != thin
	case "isolation-thin":
		return dir == thin
	}
	return true
}

// kinds counts the objects of each kind.
func kinds(m manifest) map[string]int {
	n := map[string]int{}
	for _, u := range m.objects {
		n[u.GetKind()]++
	}
	return n
}

// TestRuntimeAnnotations checks that only the permission to read pods is removed. TestTwoNodes of test/realnode shows
// that ADD and DEL do not need it if the runtime passes the annotations.
func TestRuntimeAnnotations(t *testing.T) {
	t.Parallel()
	for _, dir := range all(t) {
		before := get[rbacv1.ClusterRole](t, render(t, dir), "ClusterRole").Rules
		after := get[rbacv1.ClusterRole](t, with(t, dir, "runtime-annotations"), "ClusterRole").Rules
		want := slices.DeleteFunc(before,
			func(r rbacv1.PolicyRule) bool { return slices.Equal(r.Resources, []string{"pods"}) })
		if fmt.Sprint(after) != fmt.Sprint(want) {
			t.Errorf("%s: rules %v", dir, after)
		}
	}
}

// TestWithoutPolicies checks that only the policies are removed, for clusters without that kind.
func TestWithoutPolicies(t *testing.T) {
	t.Parallel()
	before, after := kinds(render(t, base)), kinds(with(t, base, "without-policies"))
	delete(before, "ValidatingAdmissionPolicy")
	delete(before, "ValidatingAdmissionPolicyBinding")
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("kinds %v, want %v", after, before)
	}
}

// TestIsolation checks that only the key changes, in every directory.
func TestIsolation(t *testing.T) {
	t.Parallel()
	for _, dir := range all(t) {
		if dir == thin {
			args := get[appsv1.DaemonSet](t, with(t, dir, "isolation-thin"), "DaemonSet").Spec.Template.Spec.Containers[0].Args
			cmd := entrypoint.Command(func(string) string { return "" }, io.Discard)
			if err := cmd.ParseFlags(args); err != nil || value(t, cmd, "namespace-isolation") != "true" {
				t.Errorf("%s: %q: %v", dir, args, err)
			}
			continue
		}
		before := render(t, dir)
		if dir == "overlays/openshift" { // has the key already
			if !parseConfig(t, daemonConfig(t, before)).NamespaceIsolation {
				t.Errorf("%s: no isolation", dir)
			}
			continue
		}
		m := with(t, dir, "isolation")
		if fmt.Sprint(kinds(before)) != fmt.Sprint(kinds(m)) {
			t.Errorf("%s: objects %v, want %v", dir, kinds(m), kinds(before))
		}
		got, want := parseConfig(t, daemonConfig(t, m)), parseConfig(t, daemonConfig(t, before))
		if want.NamespaceIsolation || !got.NamespaceIsolation {
			t.Errorf("%s: isolation %t, with the component %t", dir, want.NamespaceIsolation, got.NamespaceIsolation)
		}
		got.Raw, want.Raw, want.NamespaceIsolation = nil, nil, true
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", dir, d)
		}
	}
}

// TestDefinitionRoles checks that each role grants what its name says, on network definitions only, and that no role
// has a label with which the API server would aggregate it to another role.
func TestDefinitionRoles(t *testing.T) {
	t.Parallel()
	roles := addedRoles(t, with(t, base, "definition-roles"))
	view, edit := roles["multus-definitions-view"], roles["multus-definitions-edit"]
	if len(roles) != 2 || view == nil || edit == nil || len(view.Rules) != 1 || len(edit.Rules) != 1 ||
		len(view.Labels)+len(edit.Labels) != 0 {
		t.Fatalf("%+v", roles)
	}
	if !slices.Equal(view.Rules[0].Verbs, []string{"get", "list", "watch"}) {
		t.Errorf("view: %v", view.Rules)
	}
	if want := []string{
		"get", "list", "watch", "create", "update", "patch", "delete",
		"deletecollection",
	}; !slices.Equal(edit.Rules[0].Verbs, want) {
		t.Errorf("edit: %v", edit.Rules)
	}
	for _, r := range roles {
		if !slices.Equal(r.Rules[0].APIGroups, []string{"k8s.cni.cncf.io"}) ||
			!slices.Equal(r.Rules[0].Resources, []string{"network-attachment-definitions"}) {
			t.Errorf("%s: %v", r.Name, r.Rules)
		}
	}
}

// byName returns the objects of a kind by name.
func byName[T any](t *testing.T, m manifest, kind string) map[string]*T {
	t.Helper()
	all := map[string]*T{}
	for _, u := range m.objects {
		if u.GetKind() != kind {
			continue
		}
		o := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, o, true); err != nil {
			t.Fatal(err)
		}
		all[u.GetName()] = o
	}
	return all
}

// addedRoles returns the ClusterRoles beside that of the base, by name.
func addedRoles(t *testing.T, m manifest) map[string]*rbacv1.ClusterRole {
	t.Helper()
	roles := byName[rbacv1.ClusterRole](t, m, "ClusterRole")
	delete(roles, "multus")
	return roles
}

// watchPods are the permissions that hotplug adds.
var watchPods = []rbacv1.PolicyRule{
	{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}},
	{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get"}},
}

// withResults returns a DaemonSet of the daemon with the directory that hotplug mounts, which is read only.
func withResults(ds *appsv1.DaemonSet) *appsv1.DaemonSet {
	const name, path = "cni-results", "/var/lib/cni/results"
	out := ds.DeepCopy()
	spec := &out.Spec.Template.Spec
	mounts := &spec.Containers[0].VolumeMounts
	*mounts = append([]corev1.VolumeMount{{Name: name, MountPath: path, ReadOnly: true}}, *mounts...)
	spec.Volumes = append([]corev1.Volume{{Name: name, VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: path},
	}}}, spec.Volumes...)
	return out
}

// TestHotPlug checks, in every directory with a daemon, that hotplug sets two keys of the daemon's file and adds one
// role, also together with isolation, and that the daemon's pods stay without privilege.
func TestHotPlug(t *testing.T) {
	t.Parallel()
	for _, dir := range all(t) {
		if !fits("hotplug", dir) {
			continue
		}
		for _, components := range [][]string{{"hotplug"}, {"hotplug", "isolation"}, {"isolation", "hotplug"}} {
			if dir == "overlays/openshift" && len(components) > 1 {
				continue // it has isolation already
			}
			t.Run(dir+" "+strings.Join(components, " and "), func(t *testing.T) {
				t.Parallel()
				before, m := render(t, dir), with(t, dir, components...)
				want := parseConfig(t, daemonConfig(t, before))
				want.HotPlug, want.NamespaceIsolation = true, want.NamespaceIsolation || len(components) > 1
				want.StatusResync.Duration = time.Minute
				got := parseConfig(t, daemonConfig(t, m))
				got.Raw, want.Raw = nil, nil
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("daemon's file (-want +got):\n%s", d)
				}
				checkUnprivileged(t, m)
				ds := withResults(get[appsv1.DaemonSet](t, before, "DaemonSet"))
				if d := cmp.Diff(ds, get[appsv1.DaemonSet](t, m, "DaemonSet")); d != "" {
					t.Errorf("DaemonSet (-want +got):\n%s", d)
				}
				roles := addedRoles(t, m)
				if role := roles["multus-hotplug"]; role == nil || len(roles) != 1 ||
					!cmp.Equal(role.Rules, watchPods) {
					t.Errorf("roles %+v", roles)
				}
			})
		}
	}
}

// TestEvict checks, in every directory with a daemon, that evict adds one role with one permission, and leaves the
// daemon as it is. TestRepair of test/realnode uses it.
func TestEvict(t *testing.T) {
	t.Parallel()
	for _, dir := range all(t) {
		if !fits("evict", dir) {
			continue
		}
		before, m := with(t, dir, "hotplug"), with(t, dir, "hotplug", "evict")
		checkUnprivileged(t, m)
		if d := cmp.Diff(get[appsv1.DaemonSet](t, before, "DaemonSet"), get[appsv1.DaemonSet](t, m, "DaemonSet")); d != "" {
			t.Errorf("%s: DaemonSet (-want +got):\n%s", dir, d)
		}
		roles := addedRoles(t, m)
		want := []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods/eviction"}, Verbs: []string{"create"}},
		}
		if role := roles["multus-evict"]; role == nil || len(roles) != 2 || !cmp.Equal(role.Rules, want) {
			t.Errorf("%s: roles %+v", dir, roles)
		}
	}
}

// TestRepairExample checks that the example for repair installs the base with hotplug and its own keys.
func TestRepairExample(t *testing.T) {
	t.Parallel()
	m := renderAt(t, filepath.Join(root, "../examples/repair"))
	want := parseConfig(t, daemonConfig(t, with(t, base, "hotplug")))
	want.Repair, want.RepairAfter.Duration = daemonconfig.RepairAttach, 30*time.Second
	got := parseConfig(t, daemonConfig(t, m))
	got.Raw, want.Raw = nil, nil
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("daemon's file (-want +got):\n%s", d)
	}
	if err := got.Usable(); err != nil {
		t.Error(err)
	}
}

// TestExecutor checks, in every directory with a daemon, that executor adds one DaemonSet with the directories of the
// daemon, and leaves the daemon as it is. TestHotPlug of test/realnode runs it.
func TestExecutor(t *testing.T) {
	t.Parallel()
	for _, dir := range all(t) {
		if !fits("executor", dir) {
			continue
		}
		before, m := render(t, dir), with(t, dir, "hotplug", "executor")
		all := byName[appsv1.DaemonSet](t, m, "DaemonSet")
		daemon, executor := all["kube-multus-ds"], all["multus-executor"]
		if len(all) != 2 || daemon == nil || executor == nil {
			t.Fatalf("%s: DaemonSets %v", dir, all)
		}
		if d := cmp.Diff(withResults(get[appsv1.DaemonSet](t, before, "DaemonSet")), daemon); d != "" {
			t.Errorf("%s: daemon (-want +got):\n%s", dir, d)
		}
		conf := parseConfig(t, daemonConfig(t, m))
		c := executor.Spec.Template.Spec.Containers[0]
		want := []string{
			"runner", "--in-node", "--linger=0s", "--config=" + conf.CNIConfigDir, "--cni-path=" + conf.BinDir,
		}
		if !slices.Equal(c.Args, want) || c.Image != daemon.Spec.Template.Spec.Containers[0].Image {
			t.Errorf("%s: %s %q, want %q", dir, c.Image, c.Args, want)
		}
	}
}

// TestDefinitionPolicy checks that a real API server rejects each definition that affects more than its plugins.
func TestDefinitionPolicy(t *testing.T) {
	c := kubetest.Start(t)
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	nads := client.Resource(schema.GroupVersionResource{
		Group: "k8s.cni.cncf.io", Version: "v1",
		Resource: "network-attachment-definitions",
	})
	c.CreateNetwork(t, "default", "old", `{"cniVersion":"1.0.0","name":"x","type":"host-device","device":"eth1"}`, nil)
	for _, u := range with(t, base, "definition-policy").objects {
		if err := apply(t, client, u, false); err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
	create := func(namespace, config string) error {
		u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"config": config}}}
		u.SetAPIVersion("k8s.cni.cncf.io/v1")
		u.SetKind("NetworkAttachmentDefinition")
		u.SetGenerateName("n-")
		_, err := nads.Namespace(namespace).Create(t.Context(), u, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	wait(t, "the policy", func() error {
		if err := create("default", "x\\"); !isPolicy(err) {
			return fmt.Errorf("answer: %v", err) //nolint:errorlint // it may be nil
		}
		return create("default", `{"type":"macvlan"}`)
	})
	for name, config := range refusedDefinitions {
		if err := create("default", config); !isPolicy(err) {
			t.Errorf("%s: answer: %v", name, err)
		}
	}
	for _, config := range []string{
		`{"cniVersion":"1.0.0","name":"a","type":"macvlan","master":"eth1","mode":"bridge","ipam":{"type":"host-local","ranges":[[{"subnet":"192.0.2.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`,
		"{\n  \"cniVersion\": \"1.0.0\",\n  \"plugins\": [\n {\"type\" : \"bridge\", \"bridge\": " +
			"\"br1\"},\n\t{\"type\":\t\"tuning\", \"sysctl\": {\"net.core.somaxconn\": \"500\"}}]}",
		`{"cniVersion":"1.0.0","name":"a","type":"ipvlan","ipam":{"type":"whereabouts","range":"2001:db8::/64"}}`,
	} {
		if err := create("default", config); err != nil {
			t.Errorf("refused: %s: %v", config, err)
		}
	}
	// The labels of an older definition can be changed, but not its configuration.
	if _, err := nads.Namespace("default").Patch(t.Context(), "old", types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("label of an old definition: %v", err)
	}
	_, err = nads.Namespace("default").Patch(t.Context(), "old", types.MergePatchType,
		[]byte(`{"spec":{"config":"{\"type\":\"host-device\",\"device\":\"eth0\"}"}}`), metav1.PatchOptions{})
	if !isPolicy(err) {
		t.Errorf("change of an old definition: %v", err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name:   "infra",
		Labels: map[string]string{"multus-cni.io/definition-policy": "off"},
	}}
	if _, err := c.Client().CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wait(t, "an excluded namespace", func() error { return create("infra", refusedDefinitions["type"]) })
}

var refusedDefinitions = map[string]string{
	"empty":                "",
	"blank":                " \n",
	"type":                 `{"cniVersion":"1.0.0","name":"a","type":"host-device","device":"eth1"}`,
	"type in a chain":      `{"plugins":[{"type":"macvlan"},{"type":"portmap"}]}`,
	"IPAM type":            `{"type":"macvlan","ipam":{"type":"calico-ipam"}}`,
	"key case":             `{"type":"bridge","Type":"host-device"}`,
	"key case alone":       `{"tYpE":"bridge"}`,
	"twice":                `{"type":"bridge","type":"host-device"}`,
	"escaped key":          `{"type":"bridge","\u0074ype":"host-device"}`,
	"escaped value":        `{"type":"host\u002ddevice"}`,
	"spaces":               "{\"type\" \n:\t \"host-device\"}",
	"type is not a string": `{"type":["bridge"]}`,
	"part of a name":       `{"type":"bridge macvlan"}`,
	"no name":              `{"type":""}`,
	"directory":            `{"type":"macvlan","ipam":{"type":"host-local","dataDir":"/var/lib/cni"}}`,
	"directory, relative":  `{"type":"macvlan","ipam":{"type":"host-local","dataDir":"x"}}`,
	"directory, case":      `{"type":"macvlan","ipam":{"type":"host-local","DATADIR" : "x"}}`,
	"path":                 `{"type":"macvlan","kubeconfig":"/etc/kubernetes/admin.conf"}`,
	"path in a list":       `{"type":"macvlan","files":["a", "/etc/shadow"]}`,
	"path upwards":         `{"type":"macvlan","file":"../x"}`,
	"socket":               `{"type":"macvlan","socket":"unix:///run/x"}`,
	"allowInUse":           `{"type":"macvlan","allowInUse":true}`,
	"allowInUse, case":     `{"type":"macvlan","ALLOWINUSE":true}`,
}
