package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// TestChartRefuses checks that values that cannot work are refused when the chart is rendered, with the name of the
// value.
func TestChartRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ values, want string }{
		{"distribution=talis", "distribution"},
		{"mode=thik", "mode"},
		{"hotplug.enabled=true", "hotplug"},
		{"hotPlug.enabled=maybe", "hotPlug"},
		{"healthPort=70000", "healthPort"},
		{"image.digest=latest", "digest"},
		{"image.tags=v1", "tags"},
		{"paths.cniBin=opt/cni/bin", "cniBin"},
		{"podLabels.a=1", "podLabels"},
		{"podLabels.name=mine", "podLabels must not have name"},
		{"podLabels.app=mine", "podLabels must not have app"},
		{"commonLabels.tier=mine", "commonLabels must not have tier"},
		{"hotPlug=null", "'hotPlug'"},
		{"metrics.podMonitor=null", "'podMonitor'"},
		{"config.cniConfigDir=/x", "config.cniConfigDir: set paths.cniConf"},
		{"config.binDir=/x", "config.binDir: set paths.cniBin"},
		{"config.kubeletRoot=/x", "config.kubeletRoot: set paths.kubelet"},
		{"config.hotPlug=true", "config.hotPlug: set hotPlug.enabled"},
		{"hotPlug.enabled=true,config.repair=evict", "config.repair: set repair.mode"},
		{"config.claimStatus=true", "config.claimStatus: set dra.claimStatusDrivers"},
		{"config.claimStatusDrivers[0]=d", "config.claimStatusDrivers: set dra.claimStatusDrivers"},
		{"repair.mode=evict", "repair needs hotPlug.enabled"},
		{"repair.mode=delete", "mode"},
		{"executor.enabled=true", "executor is the runner of hotPlug"},
		{"mode=thin,hotPlug.enabled=true", "hotPlug needs mode thick"},
		{"mode=thin,dra.claimStatusDrivers[0]=d", "needs mode thick"},
		{"tracing.endpoint=collector:4318", "endpoint"},
		{"tracing.endpoint=http://c:4318,tracing.sampleRatio=1.1", "sampleRatio"},
		{"tracing.endpoint=http://c:4318,tracing.sampleRatio=all", "sampleRatio"},
		{"tracing.sampleRatio=1", "tracing.sampleRatio needs tracing.endpoint"},
		{"mode=thin,tracing.endpoint=http://c:4318", "tracing needs mode thick"},
		{"mode=thin,metrics.enabled=true", "metrics need mode thick"},
		{"metrics.auth=kubernetes", "metrics.auth needs metrics.enabled"},
		{"metrics.enabled=true,metrics.auth=basic", "auth"},
		{"metrics.address=127.0.0.1", "metrics.address needs metrics.enabled"},
		{"metrics.enabled=true,healthPort=9091", "healthPort and metrics.port are both 9091"},
		{"metrics.podMonitor.enabled=true", "podMonitor needs metrics.enabled"},
		{"metrics.prometheusRule.enabled=true", "prometheusRule needs metrics.enabled"},
		{"metrics.enabled=true,metrics.prometheusRule.disabled[0]=MultusDown", "disabled"},
		{"mode=thin,distribution=k3s", "not available for a distribution"},
		{"mode=thin,config.logLevel=debug", "which mode thin does not have"},
	} {
		if _, err := template(t, tc.values); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with %q", tc.values, err, tc.want)
		}
	}
}

// TestChartOldKubernetes checks that what Kubernetes does not have yet is refused with the value that leaves it out.
func TestChartOldKubernetes(t *testing.T) {
	t.Parallel()
	render := func(values string) (string, error) {
		return runHelm(t, "template", "multus", chart, "--kube-version", "v1.29.4+k3s1", "--set", values)
	}
	for values, want := range map[string]string{
		"distribution=k3s": "nodeIdentity needs Kubernetes 1.30",
		"nodeIdentity.enabled=false,admission.enabled=true":        "admission needs Kubernetes 1.30",
		"nodeIdentity.enabled=false,definitionPolicy.enabled=true": "definitionPolicy needs Kubernetes 1.30",
	} {
		if _, err := render(values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", values, err, want)
		}
	}
	if text, err := render("nodeIdentity.enabled=false"); err != nil || strings.Contains(text, "AdmissionPolicy") {
		t.Errorf("without policies: %v\n%s", err, text)
	}
}

// TestChartNothing checks that maps and lists may be null, as they are in a file of values whose lines below a key are
// all comments.
func TestChartNothing(t *testing.T) {
	t.Parallel()
	values := withEverything("metrics.podMonitor.enabled=true", "metrics.prometheusRule.enabled=true",
		"definitionPolicy.enabled=true", "grafanaDashboard.enabled=true", "grafanaDashboard.labels=null")
	before := len(values)
	for name, value := range leaves("", defaults(t)) {
		if value.Kind != yaml.ScalarNode {
			values = append(values, name+"=null")
		}
	}
	if len(values) < before+15 {
		t.Fatalf("%q", values[before:])
	}
	m, err := template(t, values...)
	if err != nil {
		t.Fatal(err)
	}
	for name, template := range templates(t, m) {
		if len(template.Spec.Containers) != 1 || name != webhookPods && len(template.Spec.NodeSelector) != 0 {
			t.Errorf("%s: %+v", name, template.Spec)
		}
	}
}

// TestChartNotes checks that the notes after an installation are for its namespace and its mode.
func TestChartNotes(t *testing.T) {
	t.Parallel()
	for mode, doctor := range map[string]bool{"thick": true, "thin": false} {
		text, err := runHelm(t, "install", "multus", chart, "--dry-run=client", "--namespace", "own", "--set", "mode="+mode)
		_, notes, found := strings.Cut(text, "NOTES:")
		if err != nil || !found {
			t.Fatalf("%v\n%s", err, text)
		}
		if !strings.Contains(notes, "kubectl -n own rollout status ds/kube-multus-ds") || !strings.Contains(notes, mode) ||
			strings.Contains(notes, "kubectl -n own exec ds/kube-multus-ds ") != doctor {
			t.Errorf("%s: %s", mode, notes)
		}
	}
}

// TestChartPlaces checks that every pod that belongs to a node runs on the nodes of the daemon, and the webhook on its
// own.
func TestChartPlaces(t *testing.T) {
	t.Parallel()
	const affinity = "%saffinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=%s"
	values := strings.Join(withEverything("nodeSelector.pool=edge", "tolerations[0].key=edge",
		"priorityClassName=own", "admission.nodeSelector.pool=control", "admission.tolerations[0].key=control",
		fmt.Sprintf(affinity, "", "edge"), fmt.Sprintf(affinity, "admission.", "control")), ",")
	text, err := runHelm(t, "template", "multus", chart, "--set", values)
	if err != nil {
		t.Fatal(err)
	}
	m := parsed(t, text)
	pods := templates(t, m)
	pods["multus-doctor"] = &corev1.PodTemplateSpec{Spec: get[corev1.Pod](t, m, "Pod").Spec}
	for name, pool := range map[string]string{
		daemonPods: "edge", runnerPods: "edge", "multus-doctor": "edge", webhookPods: "control",
	} {
		s := pods[name].Spec
		if s.NodeSelector["pool"] != pool || s.NodeSelector["kubernetes.io/os"] != "linux" || len(s.Tolerations) == 0 ||
			s.Tolerations[0].Key != pool || s.Affinity == nil ||
			s.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].TopologyKey != pool ||
			name == runnerPods && s.PriorityClassName != "own" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// TestChartSchema checks that the schema requires every value without which the templates would not work, so that
// `helm upgrade --reuse-values` with a newer chart names the value that is missing.
func TestChartSchema(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatal(err)
	}
	required(t, "", schema, defaults(t))
}

// required checks an object of the schema. Free maps and lists may be missing, and so may what is empty by default.
func required(t *testing.T, prefix string, schema map[string]any, values *yaml.Node) {
	t.Helper()
	properties, _ := schema["properties"].(map[string]any)
	list, _ := schema["required"].([]any)
	for i := 0; i < len(values.Content); i += 2 {
		name, value := values.Content[i].Value, values.Content[i+1]
		property, _ := properties[name].(map[string]any)
		_, fixed := property["properties"]
		want := fixed || value.Kind == yaml.ScalarNode && value.Value != "" && value.Tag != "!!null"
		if has := slices.Contains(list, any(name)); property == nil || has != want {
			t.Errorf("%s%s: in the schema %t, required %t, want %t", prefix, name, property != nil, has, want)
		}
		if fixed {
			required(t, prefix+name+".", property, value)
		}
	}
}

// TestChartValues checks what values change.
func TestChartValues(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("a", 64)
	m, err := template(t,
		"global.imageRegistry=registry.example/", "image.repository=team/multus", "image.digest=sha256:"+digest,
		"imagePullSecrets[0].name=pull", "namespaceOverride=multus-system", "serviceAccount.name=own",
		"config.logLevel=debug", "metrics.enabled=true", "podLabels.team=a", "podAnnotations.note=b", "healthPort=9999",
		"paths.cniBin=/var/cni", "referencePlugins.enabled=true", "extraArgs[0]=--x", "extraEnv[0].name=E",
		"tracing.endpoint=http://c.example:4318", "tracing.sampleRatio=0.05", "config.kubeletRoot=/var/lib/kubelet",
		"commonLabels.c=d", `extraObjects[0]=kind: ConfigMap`, "affinity.nodeAffinity=null", "crds.keep=true")
	if err != nil {
		t.Fatal(err)
	}
	ds, text, has := get[appsv1.DaemonSet](t, m, "DaemonSet"), string(m.text), strings.Contains
	pod, daemon := ds.Spec.Template.Spec, ds.Spec.Template.Spec.Containers[0]
	for what, ok := range map[string]bool{
		"image":         daemon.Image == "registry.example/team/multus@sha256:"+digest,
		"pull secret":   len(pod.ImagePullSecrets) == 1 && pod.ImagePullSecrets[0].Name == "pull",
		"namespace":     ds.Namespace == "multus-system",
		"account":       pod.ServiceAccountName == "own",
		"label":         ds.Spec.Template.Labels["team"] == "a" && ds.Labels["c"] == "d",
		"annotation":    ds.Spec.Template.Annotations["note"] == "b",
		"restart":       len(ds.Spec.Template.Annotations[configSum]) == 64,
		"port":          has(fmt.Sprint(daemon.Args), "=9999") && daemon.LivenessProbe.HTTPGet.Port.IntVal == 9999,
		"directory":     mounted(daemon, "/var/cni") && mounted(pod.InitContainers[0], "/var/cni"),
		"plugins":       has(fmt.Sprint(pod.InitContainers[0].Args), "--reference-plugins"),
		"arguments":     daemon.Args[len(daemon.Args)-1] == "--x",
		"environment":   daemon.Env[len(daemon.Env)-1].Name == "E",
		"daemon.json":   has(text, `\"logLevel\": \"debug\"`) && has(fmt.Sprint(daemon.Args), "--metrics-port=9091"),
		"ratio":         has(text, `\"sampleRatio\": 0.05\n`),
		"policies":      !has(text, "kube-system:multus") && has(text, "serviceaccount:multus-system:own"),
		"CRD is kept":   has(text, "helm.sh/resource-policy: keep"),
		"own object":    has(text, "extra.yaml\nkind: ConfigMap\n"),
		"not elsewhere": !has(text, "namespace: kube-system"),
	} {
		if !ok {
			t.Errorf("%s:\n%s", what, m.text)
			break
		}
	}
}

func mounted(c corev1.Container, path string) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == path {
			return true
		}
	}
	return false
}

// defaults returns the content of values.yaml with its comments.
func defaults(t *testing.T) *yaml.Node {
	t.Helper()
	values, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(values, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Content[0]
}

// TestChartReadme checks that the table of values in the chart's README is that of values.yaml. With -update it writes
// the table.
func TestChartReadme(t *testing.T) {
	t.Parallel()
	table := "| value | default | meaning |\n|---|---|---|\n" + rows(t, "", "", defaults(t))
	path := filepath.Join(chart, "README.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- values: go test ./test/deploy -run TestChartReadme -update -->\n", "<!-- end of values -->\n"
	head, rest, found := strings.Cut(string(text), begin)
	got, tail, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no place for the values", path)
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+begin+table+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got != table {
		t.Error("the table of values is not that of values.yaml; run the test with -update")
	}
}

// rows returns the rows of the values below a key. A value whose own comment is missing has the one of its parent.
func rows(t *testing.T, prefix, inherited string, mapping *yaml.Node) string {
	t.Helper()
	out := ""
	for i := 0; i < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		comment := strings.Join(strings.Fields(strings.ReplaceAll(key.HeadComment, "#", "")), " ")
		if comment == "" {
			comment = inherited
		}
		if value.Kind == yaml.MappingNode && len(value.Content) > 0 && !whole[prefix+key.Value] {
			out += rows(t, prefix+key.Value+".", comment, value)
			continue
		}
		if comment == "" {
			t.Errorf("%s%s has no comment", prefix, key.Value)
		}
		flow(value)
		b, err := yaml.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("| `%s%s` | `%s` | %s |\n", prefix, key.Value, strings.TrimSpace(string(b)), comment)
	}
	return out
}

// whole are the values that are one value for Kubernetes.
var whole = map[string]bool{"resources": true, "updateStrategy": true, "nodeSelector": true}

// flow makes the node one line.
func flow(n *yaml.Node) {
	n.Style, n.HeadComment, n.LineComment, n.FootComment = yaml.FlowStyle, "", "", ""
	if n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		flow(c)
	}
}

// TestChartLabels checks that every object has the common labels, with all components.
func TestChartLabels(t *testing.T) {
	t.Parallel()
	m, err := template(t, "commonLabels.team=a", "distribution=openshift", "hotPlug.enabled=true", "executor.enabled=true",
		"repair.mode=evict", "definitionPolicy.enabled=true", "definitionRoles.enabled=true")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range m.objects {
		if u.GetLabels()["team"] != "a" {
			t.Errorf("%s %s: labels %v", u.GetKind(), u.GetName(), u.GetLabels())
		}
	}
	if len(m.objects) < 20 {
		t.Errorf("%d objects", len(m.objects))
	}
}
