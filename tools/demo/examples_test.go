package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
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
			var have []string
			for _, a := range p.Attachments {
				have = append(have, a.IfName+"="+a.Name)
			}
			if got := strings.Join(have, " "); got != tc.want {
				t.Errorf("plan %s, want %s", got, tc.want)
			}
		})
	}
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
	for _, pattern := range []string{"*.yaml", "node/*"} {
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
