package config

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestKeys checks that keys has every key of Plugin: decode must leave keys that it does not handle to encoding/json.
func TestKeys(t *testing.T) {
	t.Parallel()
	var want []string
	for field := range reflect.TypeFor[Plugin]().Fields() {
		if field.IsExported() {
			want = append(want, field.Tag.Get("json"))
		}
	}
	if d := cmp.Diff(want, keys); d != "" {
		t.Errorf("keys of Plugin (-struct +list):\n%s", d)
	}
}

// FuzzDecode checks that encoding/json decodes what decode decodes to the same value.
func FuzzDecode(f *testing.F) {
	values := []string{
		`"x"`, `""`, `true`, `false`, `null`, `1`, `[]`, `{}`, `["a","b"]`, `[1]`, `[null]`, `{"a":1}`, `[{"a":[]}]`, `"30s"`,
		`"\u00e9\ud800"`, `"` + "\xff" + `"`, `[{"containerID":"c","ifname":"i"}]`,
	}
	for _, key := range append(slices.Clone(keys), "CniVersion", "capabilities", "NAME", "ſystemNamespaces", "loglevel",
		"\\u006eame") {
		for _, v := range values {
			f.Add([]byte(`{"` + key + `":` + v + `}`))
		}
	}
	f.Add([]byte(`{"name":"a","name":"b","runtimeConfig":{"a":1},"runtimeConfig":{"b": {"c" : 2}},"systemNamespaces":["a"],"systemNamespaces":[]}`))
	f.Add([]byte(`{"name":"a","NAME":"b"}`))
	f.Add([]byte(` { "name" : "a" } x`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := newPlugin()
		if !got.decode(b) {
			return
		}
		want := newPlugin()
		if err := json.Unmarshal(b, want); err != nil {
			t.Fatalf("%q is read, and encoding/json returns %v", b, err)
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Plugin{})); d != "" {
			t.Errorf("%q (-encoding/json +decode):\n%s", b, d)
		}
	})
}

// usual is a configuration as the daemon writes it, with the additions of a runtime.
const usual = `{"cniVersion":"1.0.0","name":"multus-cni-network","type":"multus-shim","clusterNetwork":"/etc/cni/net.d/10-x.conflist","plainPods":"local","failureEvents":true,"logToStderr":false,
		"capabilities":{"io.kubernetes.cri.pod-annotations":true,"portMappings":true},"nodeAddresses":["192.0.2.7"],"namespaceIsolation":true,"defaultNetworks":["a"],
		"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"k8s.v1.cni.cncf.io/networks":"a"},"portMappings":[{"hostPort":80}]}}`

// TestDecodeIsUsed checks that the usual configuration does not need encoding/json.
func TestDecodeIsUsed(t *testing.T) {
	t.Parallel()
	if !newPlugin().decode([]byte(usual)) {
		t.Error("encoding/json decodes it")
	}
}
