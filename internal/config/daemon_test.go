package config

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multus/internal/fault"
)

func daemon(tb testing.TB, s string) *Daemon {
	tb.Helper()
	d, err := ParseDaemon([]byte(s))
	if err != nil {
		tb.Fatalf("ParseDaemon(%s): %v", s, err)
	}
	return d
}

func TestParseDaemon(t *testing.T) {
	t.Parallel()
	none := func(change func(*Daemon)) *Daemon {
		d := &Daemon{SocketDir: "/run/multus/", CNIConfigDir: "/etc/cni/net.d", Type: "multus-shim", MultusConfigFile: "auto"}
		change(d)
		return d
	}
	tests := []struct {
		rule, file string
		want       *Daemon
	}{
		{"A61 A70 defaults", `{}`, none(func(*Daemon) {})},
		{
			"A60-A66 keys of the server", `{"chrootDir":"/hostroot","socketDir":"/s","logFile":"/l","logLevel":"verbose","logToStderr":true,"connectionLimit":5,"metricsPort":9091,"metricsAddress":"::1","metricsAuth":"kubernetes","enablePprof":true}`,
			none(func(d *Daemon) {
				d.ChrootDir, d.SocketDir, d.LogFile, d.LogLevel, d.LogToStderr, d.ConnectionLimit, d.MetricsPort,
					d.EnablePprof = "/hostroot", "/s", "/l", "verbose", new(true), new(5), new(9091), true
				d.MetricsAddress, d.MetricsAuth = "::1", AuthKubernetes
			}),
		},
		{
			"A70 keys of the generator", `{"binDir":"/b","capabilities":{"mac":true},"cniVersion":"0.3.1","logOptions":{"maxAge":3},"namespaceIsolation":true,"globalNamespaces":"g","readinessindicatorfile":"/r","type":"multus",
			"cniDir":"/c","cniConfigDir":"/n","auxiliaryCNIChainName":"aux","daemonSocketDir":"/host/run","multusConfigFile":"/f","multusMasterCNI":"10-x.conf","multusAutoconfigDir":"/a","forceCNIVersion":true,"overrideNetworkName":true}`,
			none(func(d *Daemon) {
				d.BinDir, d.Capabilities, d.CNIVersion, d.LogOptions, d.NamespaceIsolation, d.GlobalNamespaces,
					d.ReadinessIndicatorFile, d.Type = "/b", map[string]bool{"mac": true}, "0.3.1", &LogOptions{MaxAge: new(3)}, true,
					"g", "/r", "multus"
				d.CNIDir, d.CNIConfigDir, d.AuxiliaryChain, d.DaemonSocketDir, d.MultusConfigFile, d.MultusMasterCNI,
					d.MultusAutoconfigDir, d.OverrideNetworkName = "/c", "/n", "aux", "/host/run", "/f", "10-x.conf", "/a", true
				d.ForceCNIVersion = true
			}),
		},
		{
			"A72 keys that are copied into requests", `{"confDir":"/c","defaultNetworks":["d"],"systemNamespaces":[],"multusNamespace":"m","clusterNetwork":"x","kubeconfig":"/k","networksDir":"/n","kubeletRoot":"/kl"}`,
			none(func(d *Daemon) {
				d.ConfDir, d.DefaultNetworks, d.SystemNamespaces, d.MultusNamespace, d.ClusterNetwork, d.Kubeconfig, d.NetworksDir,
					d.KubeletRoot = "/c", []string{"d"}, []string{}, "m", "x", "/k", "/n", "/kl"
			}),
		},
		{"A1 A71 unknown keys, name", `{"name":"x","unknown":1,"nope":{"enabled":true}}`, none(func(*Daemon) {})},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			tc.want.Raw = []byte(tc.file)
			if diff := cmp.Diff(tc.want, daemon(t, tc.file)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for file, want := range map[string]string{
		``: "failed to unmarshall the daemon configuration: ", `{"metricsPort":"x"}`: "failed to unmarshall the daemon configuration: ", // A67
		`{"hotPlug":true,"statusResync":"soon"}`: `: statusResync: want a duration such as "30s"`,
		`{"connectionLimit":0}`:                  "connection limit must be greater than 0, got 0", `{"connectionLimit":-1}`: "greater than 0, got -1", // A64
	} {
		if _, err := ParseDaemon([]byte(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestSocket checks A61.
func TestRepairAge(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]time.Duration{
		`{}`: DefaultRepairAfter, `{"repairAfter":"-1h"}`: DefaultRepairAfter, `{"repairAfter":"5m"}`: 5 * time.Minute,
	} {
		d, err := ParseDaemon([]byte(file))
		if err != nil {
			t.Fatal(err)
		}
		if got := d.RepairAge(); got != want {
			t.Errorf("%s: %v, want %v", file, got, want)
		}
	}
}

// TestResyncInterval checks that an interval that is too short is replaced by the shortest one, and that network
// statuses are not compared by default.
func TestResyncInterval(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]time.Duration{
		`{}`: 0, `{"statusResync":"0s"}`: 0, `{"statusResync":"-1m"}`: 0, `{"statusResync":"1m"}`: time.Minute,
		`{"statusResync":"1ms"}`: MinStatusResync,
	} {
		if got := daemon(t, file).ResyncInterval(); got != want {
			t.Errorf("%s: %v, want %v", file, got, want)
		}
	}
}

func TestSocket(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		`{}`:                           "/run/multus/multus.sock",
		`{"socketDir":"/host/run/x/"}`: "/host/run/x/multus.sock",
	} {
		if got := daemon(t, file).Socket(); got != want {
			t.Errorf("%s: %s", file, got)
		}
	}
}

// TestHostPath checks how paths of a file for the manifests of today's Multus are converted to paths of the host
// (behaviour F60).
func TestHostPath(t *testing.T) {
	t.Parallel()
	tests := []struct{ chroot, path, want string }{
		{"", "", ""},
		{"", "/etc/cni/net.d", "/etc/cni/net.d"},
		{"", "/host/etc/cni/net.d", "/etc/cni/net.d"},
		{"", "/hostile/x", "/hostile/x"},
		{"", "/x/host/y", "/x/host/y"},
		{"/hostroot", "/hostroot/opt/cni/bin", "/opt/cni/bin"},
		{"/hostroot/", "/hostroot/opt", "/opt"},
		{"/hostroot", "/host/etc", "/etc"},
		{"/hostroot", "/hostroots/x", "/hostroots/x"},
		{"/", "/opt/cni/bin", "/opt/cni/bin"},
		{"", "name-without-slash", "name-without-slash"},
	}
	for _, tc := range tests {
		if got := (&Daemon{ChrootDir: tc.chroot}).HostPath(tc.path); got != tc.want {
			t.Errorf("chroot %q: %q becomes %q, want %q", tc.chroot, tc.path, got, tc.want)
		}
	}
}

// TestForRequest checks what the daemon's file changes in a request (behaviour A90, A91) and what it leaves alone: what
// belongs to the runtime, to the server, or to the plugin's side of the socket.
func TestForRequest(t *testing.T) {
	t.Parallel()
	request := `{"type":"multus-shim","name":"multus-cni-network","cniVersion":"1.0.0","logLevel":"error","clusterNetwork":"/etc/x","runtimeConfig":{"mac":"m"},"prevResult":{"a":1},"readinessindicatorfile":"/mine","plainPods":"local"}`
	file := `{"type":"x","name":"x","cniVersion":"0.3.1","logLevel":"debug","defaultNetworks":["d"],"binDir":"/b","runtimeConfig":{},"prevResult":{},"readinessindicatorfile":"/theirs","plainPods":"no","kubeconfig":"/k","networksDir":"/n","daemonTimeout":"1h"}`
	for mode, ready := range map[string]string{"auto": "/mine", "/etc/cni/x.conf": "/theirs"} {
		merged := strings.TrimSuffix(file, "}") + `,"multusConfigFile":"` + mode + `"}`
		b, err := daemon(t, merged).ForRequest([]byte(request))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]any{}
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"type": "multus-shim", "name": "multus-cni-network", "cniVersion": "0.3.1", "logLevel": "debug",
			"clusterNetwork": "/etc/x", "runtimeConfig": map[string]any{"mac": "m"},
			"prevResult": map[string]any{"a": 1.0}, "readinessindicatorfile": ready, "plainPods": "local",
			"defaultNetworks": []any{"d"}, "binDir": "/b", "multusConfigFile": mode,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", mode, diff)
		}
	}
	if _, err := daemon(t, `{}`).ForRequest([]byte(`[]`)); err == nil {
		t.Error("a request that is not an object")
	}
}

// TestForRequestAutoVersion checks that an automatic version is that of the request, and that a value that is not a
// version never gets to a plugin.
func TestForRequestAutoVersion(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		`{}`: "1.1.0", `{"cniVersion":"auto"}`: "1.1.0", `{"cniVersion":""}`: "1.1.0", `{"CNIVERSION":"auto"}`: "1.1.0",
		`{"cniVersion":"0.4.0"}`: "0.4.0",
	} {
		b, err := daemon(t, file).ForRequest(
			[]byte(`{"type":"multus-shim","name":"n","cniVersion":"1.1.0","clusterNetwork":"/etc/x"}`))
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePlugin(b)
		if err != nil || p.CNIVersion != want {
			t.Errorf("%s: %+v, %v", file, p, err)
		}
	}
}

// TestForRequestPaths checks that cniDir and binDir are paths of the host: the plugin uses those of the plan, and the
// generated configuration has them without the prefix (behaviour F60). ADD and DEL must use the same
// directories.
func TestForRequestPaths(t *testing.T) {
	t.Parallel()
	d := daemon(t, `{"cniDir":"/host/var/lib/cni/multus","binDir":"/host/opt/cni/bin"}`)
	b, err := d.ForRequest([]byte(`{"cniDir":"/var/lib/cni/multus","binDir":"/opt/cni/bin"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := plugin(t, string(b)); got.CNIDir != "/var/lib/cni/multus" || got.BinDir != "/opt/cni/bin" {
		t.Errorf("the known difference is gone: the plan sends the plugin to %s and %s", got.CNIDir, got.BinDir)
	}
}

func FuzzParseDaemon(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{"chrootDir":"/hostroot","cniVersion":"0.3.1","logLevel":"verbose","cniConfigDir":"/host/etc/cni/net.d","multusAutoconfigDir":"/host/etc/cni/net.d","multusConfigFile":"auto","socketDir":"/host/run/multus/"}`,
		`{"connectionLimit":0}`, `{"metricsPort":1e3}`, `{"capabilities":{"a":null}}`, `{"logOptions":{"maxAge":null}}`,
		`{"multusConfigFile":null}`,
	} {
		f.Add([]byte(seed), "/host/x")
	}
	f.Fuzz(func(t *testing.T, b []byte, path string) {
		d, err := ParseDaemon(b)
		if err != nil {
			if d != nil || fault.ToCNI(err).Code == fault.Internal {
				t.Errorf("%v", err)
			}
			return
		}
		if d.ConnectionLimit != nil && *d.ConnectionLimit <= 0 {
			t.Error("connectionLimit")
		}
		if got := d.HostPath(path); !strings.HasSuffix(path, got) || strings.HasPrefix(path, "/") &&
			!strings.HasPrefix(got, "/") {
			t.Errorf("HostPath(%q) = %q", path, got)
		}
		if out, err := d.ForRequest([]byte(`{"name":"n"}`)); err == nil {
			if _, err := ParsePlugin(out); err == nil && !json.Valid(out) {
				t.Errorf("%s", out)
			}
		}
	})
}
