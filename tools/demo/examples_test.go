package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/netsel"
	"multus/internal/source/file"
)

// TestExamples resolves every pod of examples/ with the networks and the daemon's configuration there.
func TestExamples(t *testing.T) {
	source := file.New(file.Options{Dir: examplesDir, StateDir: t.TempDir()})
	resolver := &plan.Resolver{Networks: source, Pods: source, Log: slog.New(slog.DiscardHandler)}
	cluster, err := filepath.Abs(filepath.Join(examplesDir, clusterFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		pod     plan.Ref
		want    string // interfaces and networks
		refused string
	}{
		{
			pod:  plan.Ref{Namespace: "default", Name: "three-networks"},
			want: "eth0=cluster-net net1=default/macvlan net2=default/host-device",
		},
		{pod: plan.Ref{Namespace: "default", Name: "chosen-address"}, want: "eth0=cluster-net data0=default/chosen-address"},
		{pod: plan.Ref{Namespace: "default", Name: "microk8s-with-nic"}, want: "eth0=cluster-net lan0=default/microk8s-nic"},
		{pod: plan.Ref{Namespace: "default", Name: "ipvlan"}, want: "eth0=cluster-net net1=default/ipvlan"},
		{pod: plan.Ref{Namespace: "default", Name: "vlan"}, want: "eth0=cluster-net net1=default/vlan42"},
		{pod: plan.Ref{Namespace: "default", Name: "default-route"}, want: "eth0=cluster-net net1=default/way-out"},
		{
			pod:  plan.Ref{Namespace: "team-a", Name: "at-home"},
			want: "eth0=cluster-net store0=team-a/storage net2=default/backplane",
		},
		{pod: plan.Ref{Namespace: "default", Name: "sriov"}, refused: "example.com/fast-nic"},
		{pod: plan.Ref{Namespace: "team-b", Name: "stranger"}, refused: "namespace isolation"},
	} {
		t.Run(tc.pod.String(), func(t *testing.T) {
			conf := daemonSettings(t)
			conf.ClusterNetwork = cluster
			p, err := resolver.Plan(t.Context(), &request.Request{
				Command: request.Add, ContainerID: "id", Netns: "/run/netns/pod", IfName: clusterInterface,
				Args: request.Args{{request.PodNamespace, tc.pod.Namespace}, {request.PodName, tc.pod.Name}},
			}, conf)
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("error %v, want one of %q", err, tc.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := attachments(p); got != tc.want {
				t.Errorf("plan %s, want %s", got, tc.want)
			}
		})
	}
}

// annotated is a source of pods that have the annotations of a Deployment's template.
type annotated map[string]string

// Pod returns a pod with these annotations.
func (a annotated) Pod(_ context.Context, ref plan.Ref) (*plan.Pod, error) {
	return &plan.Pod{Ref: ref, UID: "u", Annotations: a}, nil
}

// TestDeployments resolves what the pods of the Deployments get, also with the annotation of the commands in
// hot-plug.yaml, and checks the readiness gate.
func TestDeployments(t *testing.T) {
	cluster, err := filepath.Abs(filepath.Join(examplesDir, clusterFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ file, networks, want, gate string }{
		{"readiness-gate.yaml", "", "eth0=cluster-net data0=default/backplane", publish.Gate},
		{"hot-plug.yaml", "", "eth0=cluster-net", ""},
		{"hot-plug.yaml", "plug-a@data0, plug-b", "eth0=cluster-net data0=default/plug-a net2=default/plug-b", ""},
	} {
		d := deployment(t, tc.file)
		annotations := annotated(d.Spec.Template.Annotations)
		if tc.networks != "" {
			annotations = annotated{netsel.Networks: tc.networks}
		}
		resolver := &plan.Resolver{
			Networks: file.New(file.Options{Dir: examplesDir}), Pods: annotations, Log: slog.New(slog.DiscardHandler),
		}
		conf := daemonSettings(t)
		conf.ClusterNetwork = cluster
		p, err := resolver.Plan(t.Context(), &request.Request{
			Command: request.Add, ContainerID: "id", Netns: "/run/netns/pod", IfName: clusterInterface,
			Args: request.Args{{request.PodNamespace, d.Namespace}, {request.PodName, "pod"}},
		}, conf)
		if err != nil {
			t.Fatal(err)
		}
		if got := attachments(p); got != tc.want {
			t.Errorf("%s: plan %s, want %s", tc.file, got, tc.want)
		}
		gate := ""
		for _, g := range d.Spec.Template.Spec.ReadinessGates {
			gate = string(g.ConditionType)
		}
		if gate != tc.gate {
			t.Errorf("%s: readiness gate %q", tc.file, gate)
		}
	}
}

// deployment returns the Deployment of an example.
func deployment(t *testing.T, name string) *appsv1.Deployment {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(examplesDir, name))
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(b), "\n---\n") {
		var d appsv1.Deployment
		if err := yaml.UnmarshalStrict([]byte(document), &d); err == nil && d.Kind == "Deployment" {
			return &d
		}
	}
	t.Fatalf("%s has no Deployment", name)
	return nil
}

// attachments lists the interfaces and networks of a plan.
func attachments(p *plan.Plan) string {
	var have []string
	for _, a := range p.Attachments {
		have = append(have, a.IfName+"="+a.Name)
	}
	return strings.Join(have, " ")
}

// daemonSettings returns the settings of the daemon's configuration file as the plugin uses them.
func daemonSettings(t *testing.T) *config.Plugin {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(examplesDir, daemonFile))
	if err != nil {
		t.Fatal(err)
	}
	d, err := config.ParseDaemon(b)
	if err != nil {
		t.Fatal(err)
	}
	if d.NetworksDir != networksDir || d.CNIConfigDir != confDir || d.Socket() != socket || d.CNIDir != ledgerDir {
		t.Errorf("%s and the demo's constants differ", daemonFile)
	}
	b, err = d.ForRequest([]byte(`{"cniVersion":"1.0.0","name":"multus-cni-network","type":"multus-shim"}`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := config.ParsePlugin(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestReadme checks that the README has every example in its table, and every key of the daemon's configuration.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(examplesDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pattern := range []string{"*.yaml", "node/*", "repair/*"} {
		found, err := filepath.Glob(filepath.Join(examplesDir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			name, err := filepath.Rel(examplesDir, path)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
	}
	b, err := os.ReadFile(filepath.Join(examplesDir, daemonFile))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]any{}
	if err := json.Unmarshal(b, &keys); err != nil {
		t.Fatal(err)
	}
	for key := range keys {
		names = append(names, key)
	}
	for _, name := range names {
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("examples/README.md does not mention `%s`", name)
		}
	}
}
