package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	root   = "../../deploy"
	base   = "base"
	thin   = "overlays/thin"
	config = "multus-daemon-config"
)

// all returns the directories that can be applied.
func all(tb testing.TB) []string {
	tb.Helper()
	dirs, err := filepath.Glob(filepath.Join(root, "overlays", "*"))
	if err != nil || len(dirs) < 12 {
		tb.Fatalf("overlays: %v, %v", dirs, err)
	}
	out := []string{base}
	for _, dir := range dirs {
		out = append(out, filepath.Join("overlays", filepath.Base(dir)))
	}
	return out
}

// manifest is the result of rendering one directory.
type manifest struct {
	text    []byte
	objects []*unstructured.Unstructured
}

func render(tb testing.TB, dir string) manifest {
	tb.Helper()
	return renderAt(tb, filepath.Join(root, dir))
}

func renderAt(tb testing.TB, dir string) manifest {
	tb.Helper()
	rm, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		tb.Fatal(err)
	}
	var m manifest
	if m.text, err = rm.AsYaml(); err != nil {
		tb.Fatal(err)
	}
	for _, r := range rm.Resources() {
		b, err := r.MarshalJSON()
		if err != nil {
			tb.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(b); err != nil {
			tb.Fatal(err)
		}
		m.objects = append(m.objects, u)
	}
	return m
}

// get returns the only object of a kind as its type. It rejects unknown keys.
func get[T any](tb testing.TB, m manifest, kind string) *T {
	tb.Helper()
	var found *T
	for _, u := range m.objects {
		if u.GetKind() != kind {
			continue
		}
		if found != nil {
			tb.Fatalf("more than one %s", kind)
		}
		found = new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, found, true); err != nil {
			tb.Fatal(err)
		}
	}
	if found == nil {
		tb.Fatalf("no %s", kind)
	}
	return found
}

// TestNames checks that the objects have the names of today's, so that applying the manifests replaces them
// (behaviour J1-J12).
func TestNames(t *testing.T) {
	t.Parallel()
	want := []string{
		"ClusterRole /multus", "ClusterRoleBinding /multus", "ConfigMap kube-system/" + config,
		"CustomResourceDefinition /network-attachment-definitions.k8s.cni.cncf.io", "DaemonSet kube-system/kube-multus-ds",
		"ServiceAccount kube-system/multus",
		"ValidatingAdmissionPolicy /multus-events", "ValidatingAdmissionPolicy /multus-node-identity",
		"ValidatingAdmissionPolicyBinding /multus-events", "ValidatingAdmissionPolicyBinding /multus-node-identity",
	}
	for _, dir := range all(t) {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			m := render(t, dir)
			var got []string
			for _, u := range m.objects {
				got = append(got, u.GetKind()+" "+u.GetNamespace()+"/"+u.GetName())
			}
			slices.Sort(got)
			want := slices.Clone(want)
			switch dir {
			case thin:
				want = slices.DeleteFunc(want, func(s string) bool { return strings.HasSuffix(s, config) })
			case "overlays/openshift":
				want = append(want, "SecurityContextConstraints /multus")
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				t.Errorf("objects %q, want %q", got, want)
			}
			ds := get[appsv1.DaemonSet](t, m, "DaemonSet")
			// The selector is immutable: with another one, today's DaemonSet could not be replaced.
			if s := ds.Spec.Selector; len(s.MatchExpressions) != 0 || len(s.MatchLabels) != 1 ||
				s.MatchLabels["name"] != "multus" {
				t.Errorf("selector %v", s)
			}
			for key, value := range map[string]string{"tier": "node", "app": "multus", "name": "multus"} {
				if ds.Labels[key] != value || ds.Spec.Template.Labels[key] != value {
					t.Errorf("label %s: %q, %q", key, ds.Labels[key], ds.Spec.Template.Labels[key])
				}
			}
		})
	}
}

// TestReadme checks that README.md has a line for every overlay.
func TestReadme(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range all(t)[1:] {
		if !strings.Contains(string(b), "\n| `"+filepath.Base(dir)+"` | ") {
			t.Errorf("README.md does not mention %s", dir)
		}
	}
}

// TestRoles checks for exactly these permissions (docs/security.md). TestApply checks them with an API server.
func TestRoles(t *testing.T) {
	t.Parallel()
	want := `[{"verbs":["get","list","watch"],"apiGroups":["k8s.cni.cncf.io"],"resources":["network-attachment-definitions"]},` +
		`{"verbs":["get"],"apiGroups":[""],"resources":["pods"]},` +
		`{"verbs":["get","list","watch"],"apiGroups":["resource.k8s.io"],"resources":["resourceslices"]},` +
		`{"verbs":["get"],"apiGroups":["resource.k8s.io"],"resources":["resourceclaims"]},` +
		`{"verbs":["patch"],"apiGroups":[""],"resources":["pods/status"]},` +
		`{"verbs":["create"],"apiGroups":[""],"resources":["events"]},` +
		`{"verbs":["get"],"apiGroups":[""],"resources":["nodes"]},` +
		`{"verbs":["get"],"apiGroups":["admissionregistration.k8s.io"],` +
		`"resources":["validatingadmissionpolicies","validatingadmissionpolicybindings"],` +
		`"resourceNames":["multus-node-identity","multus-events"]}]`
	for _, dir := range all(t) {
		m := render(t, dir)
		got, err := json.Marshal(get[rbacv1.ClusterRole](t, m, "ClusterRole").Rules)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s: rules %s", dir, got)
		}
	}
}

// daemonConfig returns the file in the ConfigMap.
func daemonConfig(tb testing.TB, m manifest) []byte {
	tb.Helper()
	data := get[corev1.ConfigMap](tb, m, "ConfigMap").Data
	if len(data) != 1 {
		tb.Fatalf("keys of the ConfigMap: %v", data)
	}
	b := []byte(data["daemon-config.json"])
	if _, err := yaml.YAMLToJSONStrict(b); err != nil {
		tb.Fatal(err)
	}
	return b
}
