package deploy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// configSum is the annotation of a pod template with the checksum of the file that its program reads once.
const configSum = "multus-cni.io/config-sha256"

// The workloads of the chart.
const (
	ofDaemon  = "kube-multus-ds"
	ofWebhook = "multus-admission"
	ofRunner  = "multus-executor"
	ofAll     = ofDaemon + " " + ofWebhook + " " + ofRunner
	ofFile    = ofDaemon + " " + ofWebhook
)

// restarts are changes of the values of a release with every workload, and the workloads that get new pods.
var restarts = []struct{ values, workloads string }{
	{"distribution=k3s", ofAll},
	{"mode=thin,hotPlug.enabled=false,executor.enabled=false,metrics.enabled=false,tracing.endpoint=", ofAll},
	{"namespaceOverride=multus-system", ""}, // other objects
	{"image.registry=registry.example", ofAll},
	{"image.repository=team/multus", ofAll},
	{"image.tag=v1", ofAll},
	{"image.digest=sha256:" + strings.Repeat("a", 64), ofAll},
	{"image.pullPolicy=Always", ofAll},
	{"imagePullSecrets[0].name=pull", ofAll},
	{"global.imageRegistry=registry.example", ofAll},
	{"global.systemDefaultRegistry=registry.example", ofAll},
	{"paths.cniConf=/var/net.d", ofAll},
	{"paths.cniBin=/var/cni", ofAll},
	{"paths.kubelet=/var/kubelet", ofFile},
	{"config.logLevel=debug", ofFile},
	{"config.admission.inUse=off", ofFile},
	{"referencePlugins.enabled=true", ofDaemon},
	{"hotPlug.enabled=false,executor.enabled=false", ofAll},
	{"repair.mode=off", ofFile},
	{"repair.mode=evict", ofFile},
	{"executor.enabled=false", ofRunner},
	{"dra.claimStatusDrivers[0]=d.example", ofFile},
	{"namespaceIsolation=true", ofFile},
	{"definitionPolicy.enabled=true", ""},
	{"definitionPolicy.types=bridge", ""},
	{"admission.enabled=false", ofWebhook},
	{"admission.replicas=3", ""},
	{"admission.certManager=true", ofWebhook},
	{"definitionRoles.enabled=true", ""},
	{"nodeIdentity.enabled=false", ""},
	{"runtimeAnnotations=true", ""},
	{"rbac.create=false", ""},
	{"serviceAccount.create=false", ""},
	{"serviceAccount.name=own", ofDaemon},
	{"serviceAccount.annotations.a=b", ""},
	{"crds.install=false", ""},
	{"crds.keep=false", ""},
	{"healthPort=9999", ofDaemon},
	{"metrics.enabled=false", ofDaemon},
	{"metrics.port=9999", ofDaemon},
	{"metrics.address=127.0.0.1", ofFile},
	{"metrics.auth=kubernetes", ofDaemon},
	{"metrics.podMonitor.enabled=true", ""},
	{"metrics.podMonitor.interval=1m", ""},
	{"metrics.podMonitor.labels.a=b", ""},
	{"metrics.prometheusRule.enabled=true", ""},
	{"metrics.prometheusRule.labels.a=b", ""},
	{"metrics.prometheusRule.disabled[0]=MultusSlotLost", ""},
	{"metrics.prometheusRule.runbooks=https://runbooks.example", ""},
	{"grafanaDashboard.enabled=true", ""},
	{"grafanaDashboard.labels.grafana_dashboard=yes", ""},
	{"grafanaDashboard.annotations.a=b", ""},
	{"tracing.endpoint=http://other.example:4318", ofFile},
	{"tracing.sampleRatio=1", ofFile},
	{"resources.limits.memory=512Mi", ofDaemon},
	{"priorityClassName=own", ofDaemon},
	{"updateStrategy.rollingUpdate.maxUnavailable=1", ""},
	{"nodeSelector.a=b", ofDaemon},
	{"tolerations[0].key=a", ofDaemon},
	{"affinity.podAffinity.a=b", ofDaemon},
	{"podLabels.a=b", ofDaemon},
	{"podAnnotations.a=b", ofDaemon},
	{"extraEnv[0].name=E", ofDaemon},
	{"extraArgs[0]=--x", ofDaemon},
	{"uninstall.enabled=false", ""},
	{"uninstall.wait=1m", ""},
	{"commonLabels.a=b", ""},
	{"extraObjects[0]=kind: ConfigMap", ""},
}

// TestChartRestarts checks for each value which workloads get new pods when an upgrade changes it. The daemon and the
// webhook read their file once, so that a change of a ConfigMap that a pod mounts must change its template, too; any
// other value must not restart what does not use it.
func TestChartRestarts(t *testing.T) {
	t.Parallel()
	before, err := template(t, withEverything()...)
	if err != nil {
		t.Fatal(err)
	}
	had := templates(t, before)
	if len(had) != len(strings.Fields(ofAll)) {
		t.Fatalf("workloads %v", had)
	}
	for _, tc := range restarts {
		t.Run(tc.values, func(t *testing.T) {
			t.Parallel()
			after, err := template(t, withEverything(tc.values)...)
			if err != nil {
				t.Fatal(err)
			}
			has := templates(t, after)
			var changed []string
			for name := range strings.FieldsSeq(ofAll) {
				if !cmp.Equal(had[name], has[name]) {
					changed = append(changed, name)
				}
			}
			if want := strings.Fields(tc.workloads); !slices.Equal(changed, want) {
				t.Errorf("new pods of %q, want %q", changed, want)
			}
			for name := range configMaps(t, before, after) {
				for workload, template := range has {
					if mountsMap(template, name) && cmp.Equal(had[workload], template) {
						t.Errorf("ConfigMap %s changes, and the pods of %s stay", name, workload)
					}
				}
			}
		})
	}
}

// TestChartRestartsAll checks that TestChartRestarts has every value of the chart.
func TestChartRestartsAll(t *testing.T) {
	t.Parallel()
	for _, value := range leaves("", defaults(t)) {
		covered := false
		for _, tc := range restarts {
			rest, found := strings.CutPrefix(tc.values, value)
			covered = covered || found && strings.ContainsAny(rest[:1], "=.[")
		}
		if !covered {
			t.Errorf("no case changes %s", value)
		}
	}
}

// leaves returns the names of values, as the README has them.
func leaves(prefix string, node *yaml.Node) (out []string) {
	for i := 0; i < len(node.Content); i += 2 {
		name, value := prefix+node.Content[i].Value, node.Content[i+1]
		if value.Kind == yaml.MappingNode && len(value.Content) > 0 && !whole[name] {
			out = append(out, leaves(name+".", value)...)
			continue
		}
		out = append(out, name)
	}
	return out
}

// withEverything returns the values of a release with every workload, and more.
func withEverything(more ...string) []string {
	return append([]string{
		"hotPlug.enabled=true", "executor.enabled=true", "admission.enabled=true", "metrics.enabled=true",
		"tracing.endpoint=http://collector.example:4318",
	}, more...)
}

// templates returns the pod templates of the workloads by name.
func templates(t *testing.T, m manifest) map[string]*corev1.PodTemplateSpec {
	t.Helper()
	out := map[string]*corev1.PodTemplateSpec{}
	for _, u := range m.objects {
		object, found, err := unstructured.NestedMap(u.Object, "spec", "template")
		if err != nil {
			t.Fatal(err)
		}
		if !found || u.GetKind() == "Job" {
			continue
		}
		template := &corev1.PodTemplateSpec{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, template); err != nil {
			t.Fatal(err)
		}
		out[u.GetName()] = template
	}
	return out
}

// configMaps returns the names of the ConfigMaps that are in both manifests with different data.
func configMaps(t *testing.T, before, after manifest) map[string]bool {
	t.Helper()
	had, out := byName[corev1.ConfigMap](t, before, "ConfigMap"), map[string]bool{}
	for name, has := range byName[corev1.ConfigMap](t, after, "ConfigMap") {
		if old := had[name]; old != nil && !cmp.Equal(old.Data, has.Data) {
			out[name] = true
		}
	}
	return out
}

// mountsMap reports whether pods have a volume with a ConfigMap.
func mountsMap(template *corev1.PodTemplateSpec, configMap string) bool {
	return slices.ContainsFunc(template.Spec.Volumes, func(v corev1.Volume) bool {
		return v.ConfigMap != nil && v.ConfigMap.Name == configMap
	})
}
