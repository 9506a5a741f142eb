package cniconf

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"
)

// recorder is an invoke.Exec that records the standard input of plugins and returns an empty result.
type recorder struct {
	version.PluginDecoder
	stdin []string
}

func (r *recorder) ExecPlugin(_ context.Context, _ string, stdin []byte, _ []string) ([]byte, error) {
	r.stdin = append(r.stdin, string(stdin))
	return []byte(`{"cniVersion":"1.0.0"}`), nil
}

func (r *recorder) FindInPath(plugin string, _ []string) (string, error) { return plugin, nil }

// TestStdin checks that Stdin returns what libcni passes to plugins (behaviour B3, C63-C66).
func TestStdin(t *testing.T) {
	t.Parallel()
	offered := map[string]json.RawMessage{
		"ips": json.RawMessage(`["192.0.2.5/24"]`),
		"mac": json.RawMessage(`"02:00:00:00:00:01"`), "portMappings": json.RawMessage(`[]`),
	}
	for name, conf := range map[string]string{
		"single":            `{"cniVersion":"1.0.0","name":"n","type":"macvlan","capabilities":{"ips":true,"mac":false},"x":{"y":[1,null]}}`,
		"single, nothing":   `{"cniVersion":"0.3.1","name":"n","type":"macvlan"}`,
		"list":              `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a","capabilities":{"mac":true}},{"type":"b","name":"other","capabilities":{"ips":true,"bandwidth":true}},{"type":"c"}]}`,
		"own runtimeConfig": `{"cniVersion":"1.0.0","name":"n","type":"a","runtimeConfig":{"mac":"kept"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := Parse([]byte(conf))
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.Stdin(offered)
			if err != nil {
				t.Fatal(err)
			}
			list, err := l.Libcni()
			if err != nil {
				t.Fatal(err)
			}
			args := map[string]any{}
			for k, v := range offered {
				args[k] = v
			}
			r := &recorder{}
			rt := &libcni.RuntimeConf{ContainerID: "c", NetNS: "/n", IfName: "eth0", CapabilityArgs: args}
			if _, err := libcni.NewCNIConfigWithCacheDir(nil, t.TempDir(), r).AddNetworkList(t.Context(), list, rt); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(without(t, r.stdin), without(t, toStrings(got))); diff != "" {
				t.Errorf("(-libcni +Stdin):\n%s", diff)
			}
		})
	}
}

func toStrings(in []json.RawMessage) []string {
	out := make([]string, len(in))
	for i := range in {
		out[i] = string(in[i])
	}
	return out
}

// without removes prevResult.
func without(t *testing.T, in []string) []map[string]any {
	t.Helper()
	out := make([]map[string]any, len(in))
	for i := range in {
		if err := json.Unmarshal([]byte(in[i]), &out[i]); err != nil {
			t.Fatal(err)
		}
		delete(out[i], "prevResult")
	}
	return out
}
