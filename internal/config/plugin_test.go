package config

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"multus/internal/fault"
)

func plugin(tb testing.TB, s string) *Plugin {
	tb.Helper()
	p, err := ParsePlugin([]byte(s))
	if err != nil {
		tb.Fatalf("ParsePlugin(%s): %v", s, err)
	}
	return p
}

// defaults returns the defaults of A15-A32.
func defaults(change func(*Plugin)) *Plugin {
	p := &Plugin{
		ConfDir: "/etc/cni/multus/net.d", CNIDir: "/var/lib/cni/multus", BinDir: "/opt/cni/bin",
		MultusNamespace: "kube-system", SystemNamespaces: []string{"kube-system"},
	}
	change(p)
	return p
}

func TestParsePlugin(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, conf string
		want       *Plugin
	}{
		{"A15-A32 defaults", `{}`, defaults(func(*Plugin) {})},
		{"A1 unknown keys", `{"unknown":{"x":[1]},"ipam":{"type":"x"},"dns":{},"allowTryDeleteOnErr":true,"prevResult":{"ips":5}}`, defaults(func(*Plugin) {})},
		{
			"A2 without regard to case", `{"LogFile":"/x","CONFDIR":"/c","readinessIndicatorFile":"/r"}`,
			defaults(func(p *Plugin) { p.LogFile, p.ConfDir, p.ReadinessIndicatorFile = "/x", "/c", "/r" }),
		},
		{"A2 the last of equal keys", `{"logFile":"a","logFile":"b","LOGFILE":"c"}`, defaults(func(p *Plugin) { p.LogFile = "c" })},
		{
			"A3 empty replaces a default", `{"confDir":"","cniDir":"","binDir":"","multusNamespace":"","systemNamespaces":[]}`,
			&Plugin{SystemNamespaces: []string{}},
		},
		{
			"A3 null leaves strings and booleans unchanged",
			`{"confDir":null,"cniDir":null,"binDir":null,"multusNamespace":null,"namespaceIsolation":null,"logToStderr":null}`,
			defaults(func(*Plugin) {}),
		},
		{"A3 null empties a list", `{"systemNamespaces":null}`, defaults(func(p *Plugin) { p.SystemNamespaces = nil })},
		{"A9-A32 every key", `{"cniVersion":"1.0.0","name":"n","type":"multus","confDir":"/c","cniDir":"/s","binDir":"/b","delegates":[{"type":"a"}],"clusterNetwork":"/x",
			"defaultNetworks":["d"],"systemNamespaces":["s"],"multusNamespace":"m","kubeconfig":"/k","namespaceIsolation":true,"globalNamespaces":"g","readinessindicatorfile":"/r",
			"auxiliaryCNIChainName":"aux","retryDeleteOnError":true,"logToStderr":false,"logLevel":"debug","logFile":"/l","logOptions":{"maxAge":1,"maxSize":2,"maxBackups":3,"compress":false},
			"daemonSocketDir":"/run/x","daemonTimeout":"5s","plainPods":"local","networksDir":"/n","statusWait":true}`, &Plugin{
			CNIVersion: "1.0.0", Name: "n", Type: "multus", ConfDir: "/c", CNIDir: "/s", BinDir: "/b",
			Delegates: []json.RawMessage{json.RawMessage(`{"type":"a"}`)}, ClusterNetwork: "/x",
			DefaultNetworks: []string{"d"}, SystemNamespaces: []string{"s"}, MultusNamespace: "m", Kubeconfig: "/k",
			NamespaceIsolation: true, GlobalNamespaces: "g", ReadinessIndicatorFile: "/r",
			AuxiliaryChain: "aux", RetryDeleteOnError: true, LogToStderr: new(false), LogLevel: "debug", LogFile: "/l",
			LogOptions:      &LogOptions{new(1), new(2), new(3), new(false)},
			DaemonSocketDir: "/run/x", DaemonTimeout: Duration{5 * time.Second}, PlainPods: PlainLocal, NetworksDir: "/n",
			StatusWait: true,
		}},
		{"A33 members in their order", `{"runtimeConfig":{"portMappings":[{"hostPort":1,"x":9007199254740993}],"unknown":{"a": 1}}}`, defaults(func(p *Plugin) {
			p.RuntimeConfig = map[string]json.RawMessage{
				"portMappings": json.RawMessage(`[{"hostPort":1,"x":9007199254740993}]`), "unknown": json.RawMessage(`{"a": 1}`),
			}
		})},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, plugin(t, tc.conf), cmpopts.IgnoreUnexported(Plugin{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestParsePluginErrors checks A6: the error is one fault with code 6 that quotes what is wrong.
func TestParsePluginErrors(t *testing.T) {
	t.Parallel()
	known := map[string]string{
		`{"name":"n"} x`: "a decoder stops at the end of the object",
		`{}{}`:           "a decoder stops at the end of the object",
	}
	for _, conf := range []string{
		``, `{`, `[]`, `"x"`, `{"confDir":5}`, `{"delegates":{}}`, `{"systemNamespaces":"kube-system"}`,
		`{"namespaceIsolation":"true"}`, `{"logOptions":{"maxAge":"5"}}`, `{"runtimeConfig":[]}`,
		`{"daemonTimeout":30}`, `{"daemonTimeout":"soon"}`, `{"cni.dev/valid-attachments":{}}`, `{"name":"n"} x`, `{}{}`,
	} {
		t.Run(conf, func(t *testing.T) {
			t.Parallel()
			p, err := ParsePlugin([]byte(conf))
			if why, ok := known[conf]; ok && err == nil {
				t.Error("the known difference is gone: " + why)
			}
			var f *fault.Error
			if !errors.As(err, &f) || p != nil || f.Code != fault.Decoding || f.Next == "" ||
				!strings.Contains(err.Error(), "failed to load netconf: ") {
				t.Errorf("%v, %v", p, err)
			}
		})
	}
}

// TestHasNetwork checks A7 and M23.
func TestHasNetwork(t *testing.T) {
	t.Parallel()
	for conf, ok := range map[string]bool{
		`{"clusterNetwork":"x"}`: true, `{"delegates":[{}]}`: true,
		`{"delegates":[],"clusterNetwork":""}`: false, `{"defaultNetworks":["x"]}`: false,
	} {
		err := plugin(t, conf).HasNetwork()
		if (err == nil) != ok || err != nil &&
			!strings.Contains(err.Error(), "at least one delegate/clusterNetwork must be specified") {
			t.Errorf("%s: %v", conf, err)
		}
	}
}

// TestExceptions checks A25 and C41.
func TestExceptions(t *testing.T) {
	t.Parallel()
	for global, want := range map[string][]string{
		"": {"default"}, "a": {"a"}, " a , b\t": {"a", "b"},
		"default,": {"default", ""},
	} {
		if diff := cmp.Diff(want, (&Plugin{GlobalNamespaces: global}).Exceptions()); diff != "" {
			t.Errorf("%q: %s", global, diff)
		}
	}
}

func TestRuntimeAnnotations(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, conf string
		want       map[string]string
		known, bad bool
	}{
		{"no runtimeConfig", `{}`, nil, false, false},
		{"not passed", `{"runtimeConfig":{"mac":"x"}}`, nil, false, false},
		{"null", `{"runtimeConfig":{"io.kubernetes.cri.pod-annotations": null }}`, nil, false, false},
		{"none", `{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{}}}`, map[string]string{}, true, false},
		{
			"some", `{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"b","c":""}}}`,
			map[string]string{"a": "b", "c": ""},
			true, false,
		},
		{"a list", `{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":[]}}`, nil, false, true},
		{"a number", `{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":1}}}`, nil, false, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, known, err := plugin(t, tc.conf).RuntimeAnnotations()
			if known != tc.known || (err != nil) != tc.bad || !cmp.Equal(got, tc.want) {
				t.Errorf("%v %t %v", got, known, err)
			}
		})
	}
}

// TestValid checks the runtime's list at GC (CNI SPEC 1.1 §GC). libcni writes an empty list as null, under both keys.
// Only a missing key means that there is no list (behaviour D102).
func TestValid(t *testing.T) {
	t.Parallel()
	one := []Attachment{{"c", "eth0"}}
	tests := []struct {
		conf  string
		want  []Attachment
		given bool
	}{
		{`{}`, nil, false},
		{`{"cni.dev/valid-attachments":null}`, nil, true},
		{`{"cni.dev/attachments":null}`, nil, true},
		{`{"CNI.dev/attachments":null}`, nil, true},
		{`{"cni.dev/valid-attachments":[]}`, nil, true},
		{`{"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}`, one, true},
		{`{"cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]}`, one, true},
		{`{"cni.dev/valid-attachments":[],"cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]}`, one, true},
	}
	for _, tc := range tests {
		got, given := plugin(t, tc.conf).Valid()
		if given != tc.given || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %v %t", tc.conf, got, given)
		}
	}
}

// TestSocketPath checks A51.
func TestSocketPath(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]string{
		"": "/run/multus/multus.sock", "/x": "/x/multus.sock",
		"/x//": "/x/multus.sock",
	} {
		if got := (&Plugin{DaemonSocketDir: dir}).SocketPath(); got != want {
			t.Errorf("%q: %s", dir, got)
		}
	}
}

func TestDaemonWait(t *testing.T) {
	t.Parallel()
	for conf, want := range map[string]time.Duration{
		`{}`: DefaultDaemonWait, `{"daemonTimeout":"0s"}`: DefaultDaemonWait,
		`{"daemonTimeout":"-1s"}`: DefaultDaemonWait, `{"daemonTimeout":"1m30s"}`: 90 * time.Second,
	} {
		p := plugin(t, conf)
		if got := p.DaemonWait(); got != want {
			t.Errorf("%s: %s", conf, got)
		}
		b, err := json.Marshal(p.DaemonTimeout)
		var again Duration
		if err == nil {
			err = json.Unmarshal(b, &again)
		}
		if err != nil || again != p.DaemonTimeout {
			t.Errorf("%s becomes %s: %v", b, again, err)
		}
	}
}

// TestOverlay checks A90 and A92: the overlay is shallow, the daemon's file wins, and the keys are sorted.
func TestOverlay(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, conf, over string
		skip             []string
		want             string
	}{
		{
			"A90 the daemon's values have priority, keys are sorted", `{"z":1,"logLevel":"x","a":{"b":1}}`, `{"logLevel":"y","a":{"c":2}}`, nil,
			`{"a":{"c":2},"logLevel":"y","z":1}`,
		},
		{"A90 null, too", `{"a":1}`, `{"a":null}`, nil, `{"a":null}`},
		{"A90 numbers are not changed", `{"a":9007199254740993}`, `{"b":1e400}`, nil, `{"a":9007199254740993,"b":1e400}`},
		{"A91 keys that are left out", `{"a":1}`, `{"a":2,"b":3}`, []string{"a"}, `{"a":1,"b":3}`},
		{"no keys of the daemon", `{"a":1}`, `{}`, nil, `{"a":1}`},
		{"A92 no configuration", `[]`, `{}`, nil, "!CNI config: "},
		{"A92 no file", `{}`, ``, nil, "!CNI override config: "},
		{
			"A90 A2 without regard to case", `{"clusterNetwork":"request"}`, `{"ClusterNetwork":"daemon"}`, nil,
			`{"ClusterNetwork":"daemon"}`,
		},
		{"A91 A2 left out without regard to case", `{"a":1}`, `{"A":2}`, []string{"a"}, `{"a":1}`},
	}
	known := map[string]string{
		"A90 A2 without regard to case": "keys of another case are not the same: the request's wins, for it is " +
			"the last in the result",
		"A91 A2 left out without regard to case": "keys in another letter case are not left out",
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			got, err := Overlay([]byte(tc.conf), []byte(tc.over), tc.skip...)
			if want, bad := strings.CutPrefix(tc.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s, %v", got, err)
				}
				return
			}
			if why, ok := known[tc.rule]; ok && string(got) != tc.want {
				t.Error("the known difference is gone: " + why)
			}
			if err != nil || string(got) != tc.want {
				t.Errorf("%s, %v, want %s", got, err, tc.want)
			}
		})
	}
}

// FuzzParsePlugin checks that everything that the runtime can pass results in an error or in a configuration whose
// methods do not panic.
func FuzzParsePlugin(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"name":"multus-cni-network","type":"multus","clusterNetwork":"/host/etc/cni/net.d/10-flannel.conflist","logToStderr":true}`,
		`{"delegates":[null,5,{}],"systemNamespaces":null,"logOptions":null,"daemonTimeout":"1h"}`,
		`{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"b"},"x":null}}`,
		`{"capabilities":{"portMappings":true},"cniVersion":"0.3.1"}`,
		`{"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"},null]}`, `{"LOGFILE":"x","logfile":"y"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePlugin(b)
		if err != nil {
			if fault.ToCNI(err).Code != fault.Decoding || p != nil {
				t.Errorf("%v", err)
			}
			return
		}
		_ = p.HasNetwork()
		if len(p.Exceptions()) == 0 || !strings.HasSuffix(p.SocketPath(), "/multus.sock") || p.DaemonWait() <= 0 {
			t.Errorf("%+v", p)
		}
		if _, known, err := p.RuntimeAnnotations(); known && err != nil {
			t.Error("both valid and an error")
		}
		if v, given := p.Valid(); given != (v != nil) {
			t.Errorf("%v %t", v, given)
		}
	})
}

// FuzzOverlay checks that the result has every key of the file that is not skipped, and that every other key is
// unchanged (behaviour A90).
func FuzzOverlay(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":9007199254740993}`), []byte(`{"a":{"x":[]},"skip":1}`))
	f.Add([]byte(`null`), []byte(`null`))
	f.Add([]byte(`{"":1,"<":2,"\u0000":3}`), []byte(`{"a":1e999}`))
	f.Add([]byte(`{"a":1,"a":2}`), []byte(`{"b":1,"b":"\ud800"}`))
	f.Fuzz(func(t *testing.T, conf, over []byte) {
		got, err := Overlay(conf, over, "skip")
		if err != nil {
			return
		}
		var base, top, out map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(conf, &base), json.Unmarshal(over, &top),
			json.Unmarshal(got, &out)); err != nil {
			t.Fatalf("%v in %s", err, got)
		}
		maps.DeleteFunc(top, func(k string, _ json.RawMessage) bool { return strings.EqualFold(k, "skip") })
		// Keys match without regard to case (behaviour A2): a key of the file replaces every spelling of it.
		for k := range top {
			maps.DeleteFunc(base, func(old string, _ json.RawMessage) bool { return strings.EqualFold(old, k) })
		}
		for k, v := range out {
			want, ok := top[k]
			if !ok {
				want = base[k]
			}
			var a, b any
			if err := errors.Join(json.Unmarshal(v, &a), json.Unmarshal(want, &b)); err == nil && !reflect.DeepEqual(a, b) {
				t.Errorf("%q: %s, want %s", k, v, want)
			}
			delete(base, k)
			delete(top, k)
		}
		if len(base)+len(top) > 0 {
			t.Errorf("lost: %v %v", base, top)
		}
	})
}

// TestAnnotationsOfCopy checks that a copy with another runtimeConfig does not return the annotations of the original.
func TestAnnotationsOfCopy(t *testing.T) {
	t.Parallel()
	original := plugin(t, `{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"b"}}}`)
	if got, known, err := original.RuntimeAnnotations(); !known || err != nil || got["a"] != "b" {
		t.Fatalf("%v %t %v", got, known, err)
	}
	other := *original
	other.RuntimeConfig = nil
	if got, known, err := other.RuntimeAnnotations(); known || err != nil {
		t.Errorf("none: %v %t %v", got, known, err)
	}
	other.RuntimeConfig = map[string]json.RawMessage{PodAnnotations: json.RawMessage(`{"c":"d"}`)}
	if got, known, err := other.RuntimeAnnotations(); !known || err != nil || got["c"] != "d" {
		t.Errorf("others: %v %t %v", got, known, err)
	}
}
