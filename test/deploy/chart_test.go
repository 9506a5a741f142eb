package deploy

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"multus/internal/testutil/helm"
	"multus/internal/testutil/tool"
)

// chart is the directory of the Helm chart.
const chart = root + "/chart/multus"

// chartLimit bounds one call of helm.
const chartLimit = time.Minute

var update = flag.Bool("update", false, "write the chart's copies of manifests")

// copies are the files of the chart that are parts of the manifests: the name of the file, the manifest, and the kind
// of the objects, or "" for all.
var copies = []struct{ file, manifest, kind string }{
	{"crd", "base/crd.yaml", "CustomResourceDefinition"},
	{"policies", "base/policies.yaml", ""},
	{"role-multus", "base/rbac.yaml", "ClusterRole"},
	{"role-hotplug", "components/hotplug/rbac.yaml", "ClusterRole"},
	{"role-evict", "components/evict/rbac.yaml", "ClusterRole"},
	{"role-claim-status", "components/claim-status/rbac.yaml", "ClusterRole"},
	{"admission-rbac", "components/admission/rbac.yaml", ""},
	{"admission-secret", "components/admission/secret.yaml", ""},
	{"admission-deployment", "components/admission/deployment.yaml", ""},
	{"admission-webhooks", "components/admission/webhooks.yaml", ""},
	{"admission-certificate", "components/admission-cert-manager/certificate.yaml", ""},
	{"scc", "overlays/openshift/scc.yaml", ""},
	{"executor-account", "components/executor/daemonset.yaml", "ServiceAccount"},
	{"executor", "components/executor/daemonset.yaml", "DaemonSet"},
	{"definition-parameters", "components/definition-policy/parameters.yaml", ""},
	{"definition-policy", "components/definition-policy/policy.yaml", ""},
	{"uninstall", "uninstall/job.yaml", ""},
	{"role-metrics-auth", "components/metrics-auth/rbac.yaml", "ClusterRole"},
	{"metrics-reader", "components/metrics-auth/reader.yaml", ""},
	{"pod-monitor", "components/monitoring/podmonitor.yaml", ""},
	{"alerts", "components/monitoring/alerts.yaml", ""},
	{"definition-roles", "components/definition-roles/roles.yaml", ""},
}

// TestChartFiles checks that the chart's copies of manifests are those of the manifests. With -update it writes them.
func TestChartFiles(t *testing.T) {
	t.Parallel()
	for _, c := range copies {
		source, err := os.ReadFile(filepath.Join(root, c.manifest))
		if err != nil {
			t.Fatal(err)
		}
		var parts []string
		for part := range strings.SplitSeq(string(source), "\n---\n") {
			if c.kind == "" || strings.Contains("\n"+part, "\nkind: "+c.kind+"\n") {
				parts = append(parts, strings.TrimSpace(part))
			}
		}
		want := "# From deploy/" + c.manifest + ". go test ./test/deploy -run TestChartFiles -update writes it.\n" +
			strings.Join(parts, "\n---\n") + "\n"
		copied(t, c.file+".yaml", c.manifest, want)
	}
	dashboard, err := os.ReadFile(filepath.Join(root, "dashboards/multus.json"))
	if err != nil {
		t.Fatal(err)
	}
	copied(t, "dashboard.json", "dashboards/multus.json", string(dashboard)) // JSON has no comments
}

// copied checks a file of the chart, or writes it.
func copied(t *testing.T, file, source, want string) {
	t.Helper()
	path := filepath.Join(chart, "files", file)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s is not %s; run the test with -update (%v)", path, source, err)
	}
}

// runHelm runs helm, and returns what it prints. It skips the test if helm was not built.
func runHelm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	tool.Path(t, "helm")
	return helm.Run(t, chartLimit, args...)
}

// template renders the chart with values, as a release in kube-system.
func template(t *testing.T, values ...string) (manifest, error) {
	t.Helper()
	args := []string{"template", "multus", chart, "--namespace", "kube-system", "--skip-tests"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	text, err := runHelm(t, args...)
	if err != nil {
		return manifest{}, err
	}
	return parsed(t, text), nil
}

// parsed returns the objects that helm has rendered.
func parsed(t *testing.T, text string) manifest {
	t.Helper()
	m := manifest{text: []byte(text)}
	for part := range strings.SplitSeq("\n"+text, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(part), &u.Object); err != nil { // no key twice
			t.Fatalf("%v:\n%s", err, part)
		}
		if len(u.Object) > 0 {
			m.objects = append(m.objects, u)
		}
	}
	return m
}

// comparable returns the objects by kind and name, in a form in which two manifests can be compared: the daemon's file
// is decoded, because the order of its keys has no meaning.
func (m manifest) comparable(t *testing.T) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, u := range m.objects {
		key := fmt.Sprintf("%s %s/%s", u.GetKind(), u.GetNamespace(), u.GetName())
		if _, twice := out[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		b, err := json.Marshal(u.Object)
		if err != nil {
			t.Fatal(err)
		}
		var object map[string]any // numbers of one type, whichever parser made them
		if err := json.Unmarshal(b, &object); err != nil {
			t.Fatal(err)
		}
		if text, found, _ := unstructured.NestedString(object, "data", "daemon-config.json"); found {
			var decoded any
			if err := json.Unmarshal([]byte(text), &decoded); err != nil {
				t.Fatal(err)
			}
			object["data"] = decoded
		}
		initContainers := []string{"spec", "template", "spec", "initContainers"}
		if list, _, _ := unstructured.NestedFieldNoCopy(object, initContainers...); fmt.Sprint(list) == "[]" {
			unstructured.RemoveNestedField(object, initContainers...) // of the thin deployment
		}
		out[key] = object
	}
	return out
}

// TestChartEqualsManifests checks that the chart has the same objects as the manifests: for each distribution, for the
// thin deployment, and with each component.
func TestChartEqualsManifests(t *testing.T) {
	t.Parallel()
	cases := map[string][]string{base: nil, thin: {"mode=thin"}}
	for _, dir := range all(t) {
		if dir != base && dir != thin {
			cases[dir] = []string{"distribution=" + filepath.Base(dir)}
		}
	}
	for name, values := range map[string][]string{
		"hotplug":             {"hotPlug.enabled=true"},
		"hotplug evict":       {"hotPlug.enabled=true", "repair.mode=evict"},
		"hotplug executor":    {"hotPlug.enabled=true", "executor.enabled=true"},
		"claim-status":        {"dra.claimStatusDrivers[0]=sriovnetwork.k8snetworkplumbingwg.io"},
		"isolation":           {"namespaceIsolation=true"},
		"definition-policy":   {"definitionPolicy.enabled=true"},
		"definition-roles":    {"definitionRoles.enabled=true"},
		"runtime-annotations": {"runtimeAnnotations=true"},
		"without-policies":    {"nodeIdentity.enabled=false"},
		"monitoring": {
			"metrics.enabled=true", "metrics.podMonitor.enabled=true", "metrics.prometheusRule.enabled=true",
		},
		"monitoring metrics-auth": {
			"metrics.enabled=true", "metrics.podMonitor.enabled=true", "metrics.prometheusRule.enabled=true",
			"metrics.auth=kubernetes",
		},
		"admission":                        {"admission.enabled=true"},
		"admission admission-cert-manager": {"admission.enabled=true", "admission.certManager=true"},
	} {
		cases["components "+name] = values
	}
	cases["components isolation-thin"] = []string{"mode=thin", "namespaceIsolation=true"}
	for _, component := range components(t) {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(cases)), func(name string) bool {
			return slices.Contains(strings.Fields(name), component)
		}) {
			t.Errorf("the chart is not compared with component %s", component)
		}
	}
	for name, values := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := template(t, append(slices.Clone(values), "crds.keep=false", "uninstall.enabled=false")...)
			if err != nil {
				t.Fatal(err)
			}
			w := manifests(t, name).comparable(t)
			if strings.Contains(name, "evict") { // the component has the permission only, the value also the key
				set(t, w, "repair", "evict")
			}
			g := got.withoutSums(t).comparable(t)
			for _, object := range slices.Sorted(maps.Keys(w)) {
				if d := cmp.Diff(w[object], g[object]); d != "" {
					t.Errorf("%s (-manifests +chart):\n%s", object, d)
				}
				delete(g, object)
			}
			if len(g) > 0 {
				t.Errorf("only in the chart: %v", slices.Sorted(maps.Keys(g)))
			}
		})
	}
}

// withoutSums removes the annotation that only the chart has: applying a manifest again does not restart pods.
func (m manifest) withoutSums(t *testing.T) manifest {
	t.Helper()
	annotations := []string{"spec", "template", "metadata", "annotations"}
	for _, u := range m.objects {
		unstructured.RemoveNestedField(u.Object, append(annotations, configSum)...)
		if left, found, err := unstructured.NestedMap(u.Object, annotations...); err != nil {
			t.Fatal(err)
		} else if found && len(left) == 0 {
			unstructured.RemoveNestedField(u.Object, annotations...)
		}
	}
	return m
}

// manifests renders a directory, or a list of components with base or thin.
func manifests(t *testing.T, name string) manifest {
	t.Helper()
	components, ok := strings.CutPrefix(name, "components ")
	switch {
	case !ok:
		return render(t, name)
	case strings.HasSuffix(components, "-thin"):
		return with(t, thin, components)
	}
	return with(t, base, strings.Fields(components)...)
}

// set sets a key of the daemon's file.
func set(t *testing.T, objects map[string]any, key string, value any) {
	t.Helper()
	object, ok := objects["ConfigMap kube-system/"+config].(map[string]any)
	if !ok {
		t.Fatalf("no %s in %v", config, slices.Sorted(maps.Keys(objects)))
	}
	data, ok := object["data"].(map[string]any)
	if !ok {
		t.Fatalf("%v", object)
	}
	data[key] = value
}
