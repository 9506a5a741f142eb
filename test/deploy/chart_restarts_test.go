package deploy

import (
	"maps"
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
	daemonPods  = "kube-multus-ds"
	webhookPods = "multus-admission"
	runnerPods  = "multus-executor"
	allPods     = daemonPods + " " + webhookPods + " " + runnerPods
	readerPods  = daemonPods + " " + webhookPods // of the daemon's file
	nodePods    = daemonPods + " " + runnerPods
)

// restarts are changes of the values of a release with every workload, and the workloads that get new pods.
var restarts = []struct{ values, workloads string }{
	{"distribution=k3s", allPods},
	{"mode=thin,hotPlug.enabled=false,executor.enabled=false,metrics.enabled=false,tracing.endpoint=", allPods},
	{"namespaceOverride=multus-system", ""}, // other objects
	{"image.registry=registry.example", allPods},
	{"image.repository=team/multus", allPods},
	{"image.tag=v1", allPods},
	{"image.digest=sha256:" + strings.Repeat("a", 64), allPods},
	{"image.pullPolicy=Always", allPods},
	{"imagePullSecrets[0].name=pull", allPods},
	{"global.imageRegistry=registry.example", allPods},
	{"global.systemDefaultRegistry=registry.example", allPods},
	{"paths.cniConf=/var/net.d", allPods},
	{"paths.cniBin=/var/cni", allPods},
	{"paths.kubelet=/var/kubelet", readerPods},
	{"config.logLevel=debug", readerPods},
	{"config.admission.inUse=off", readerPods},
	{"referencePlugins.enabled=true", daemonPods},
	{"hotPlug.enabled=false,executor.enabled=false", allPods},
	{"repair.mode=off", readerPods},
	{"repair.mode=evict", readerPods},
	{"executor.enabled=false", runnerPods},
	{"dra.claimStatusDrivers[0]=d.example", readerPods},
	{"namespaceIsolation=true", readerPods},
	{"definitionPolicy.enabled=true", ""},
	{"definitionPolicy.types=bridge", ""},
	{"admission.enabled=false", webhookPods},
	{"admission.replicas=3", ""},
	{"admission.certManager=true", webhookPods},
	{"admission.nodeSelector.a=b", webhookPods},
	{"admission.tolerations[0].key=a", webhookPods},
	{"admission.affinity.podAffinity.a=b", webhookPods},
	{"definitionRoles.enabled=true", ""},
	{"nodeIdentity.enabled=false", ""},
	{"runtimeAnnotations=true", ""},
	{"rbac.create=false", ""},
	{"serviceAccount.create=false", ""},
	{"serviceAccount.name=own", daemonPods},
	{"serviceAccount.annotations.a=b", ""},
	{"crds.install=false", ""},
	{"crds.keep=false", ""},
	{"healthPort=9999", daemonPods},
	{"metrics.enabled=false", daemonPods},
	{"metrics.port=9999", daemonPods},
	{"metrics.address=127.0.0.1", readerPods},
	{"metrics.auth=kubernetes", daemonPods},
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
	{"tracing.endpoint=http://other.example:4318", readerPods},
	{"tracing.sampleRatio=0.5", readerPods},
	{"resources.limits.memory=512Mi", daemonPods},
	{"priorityClassName=own", nodePods},
	{"updateStrategy.rollingUpdate.maxUnavailable=1", ""},
	{"nodeSelector.a=b", nodePods},
	{"tolerations[0].key=a", nodePods},
	{"affinity.podAffinity.a=b", nodePods},
	{"podLabels.a=b", daemonPods},
	{"podAnnotations.a=b", daemonPods},
	{"extraEnv[0].name=E", daemonPods},
	{"extraArgs[0]=--x", daemonPods},
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
	if len(had) != len(strings.Fields(allPods)) {
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
			for name := range strings.FieldsSeq(allPods) {
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
	for value := range leaves("", defaults(t)) {
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

// leaves returns the values by name, as the README has them.
func leaves(prefix string, node *yaml.Node) map[string]*yaml.Node {
	out := map[string]*yaml.Node{}
	for i := 0; i < len(node.Content); i += 2 {
		name, value := prefix+node.Content[i].Value, node.Content[i+1]
		if value.Kind == yaml.MappingNode && len(value.Content) > 0 && !whole[name] {
			maps.Copy(out, leaves(name+".", value))
			continue
		}
		out[name] = value
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
