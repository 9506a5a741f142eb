package cniconfig

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
)

// directory makes a directory of files: name, content, name, content. A name that ends in a slash is a subdirectory.
func directory(tb testing.TB, files ...string) string {
	tb.Helper()
	dir := tb.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		var err error
		if strings.HasSuffix(files[i], "/") {
			err = os.Mkdir(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(files[i+1]), 0o644)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

const (
	flannel = `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel","delegate":{"hairpinMode":true}},{"type":"portmap","capabilities":{"portMappings":true,"ips":false}}]}`
	calico  = `{"name":"k8s-pod-network","cniVersion":"1.0.0","type":"calico"}`
	ours    = `{"name":"multus-cni-network","cniVersion":"1.0.0","type":"multus-shim","clusterNetwork":"/etc/cni/net.d/10-x.conf"}`
)

// TestChoose checks that the first file by name that can be the cluster network is chosen, by its content (F20,
// multus-cni#1130).
func TestChoose(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule  string
		files []string
		named string
		want  string // file, or "!" and the error
	}{
		{"F20 the first by name", []string{"20-b.conf", calico, "10-a.conflist", flannel}, "", "10-a.conflist"},
		{
			"F20 byte by byte",
			[]string{"b.conf", calico, "B.conf", calico, "100.conf", calico, "20.conf", calico},
			"",
			"100.conf",
		},
		{"F20 .json too", []string{"10.json", calico}, "", "10.json"},
		{
			"F20 other extensions, directories, editors' files",
			[]string{"00.txt", calico, "01.conf.bak", calico, "02.conf/", "", "03.conf~", calico, "10.conf", calico},
			"",
			"10.conf",
		},
		{
			"our own file under any name (multus-cni#1130)",
			[]string{
				"00-multus.conf", ours, "05-x.conf", ours, "06-y.conflist",
				`{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"tuning"},{"type":"multus"}]}`, "10-a.conf", calico,
			},
			"",
			"10-a.conf",
		},
		{
			"nested (multus-cni#1130)",
			[]string{
				"05.conf",
				`{"name":"x","type":"y","delegates":[{"name":"z","plugins":[{"type":"multus-shim"}]}]}`, "10.conf", calico,
			},
			"",
			"10.conf",
		},
		{
			"F35 our own configuration, by name",
			[]string{"70-multus.conf", ours},
			"70-multus.conf",
			"!it is a configuration of multus itself",
		},
		{"half written", []string{
			"05.conf", `{"name":"x","ty`, "06.conflist", "", "07.conf", "\x00\x00", "10.conf",
			calico,
		}, "", "10.conf"},
		{
			"no name, no type, no plugins",
			[]string{
				"05.conf", `{"type":"x"}`, "06.conf", `{"name":"x"}`, "07.conflist", `{"name":"x","plugins":[]}`, "10.conf",
				calico,
			},
			"", "10.conf",
		},
		{
			"bridges of podman and CRI-O (rancher/rke2#10360)",
			[]string{
				"05.conflist", strings.Replace(flannel, "cbr0", "podman", 1), "06.conf",
				strings.Replace(calico, "k8s-pod-network", "crio", 1), "10.conf", calico,
			},
			"", "10.conf",
		},
		{
			"such a bridge, if the configuration names it",
			[]string{"05.conflist", strings.Replace(flannel, "cbr0", "podman", 1), "10.conf", calico},
			"05.conflist", "05.conflist",
		},
		{"F20 named", []string{"10.conf", calico, "20.conflist", flannel}, "20.conflist", "20.conflist"},
		{"F20 named, missing", []string{"10.conf", calico}, "20.conflist", "!no such file"},
		{"F21 M25 none", []string{"00-multus.conf", ours}, "", "!could not find a plugin configuration in "},
		{
			"B34 a list in a .conf, which neither the runtime nor the planner accepts",
			[]string{"05.conf", flannel, "10.conf", calico},
			"", "10.conf",
		},
		{"B35 a single configuration in a .conflist", []string{"05.conflist", calico, "10.conf", calico}, "", "10.conf"},
		{
			"B35 a list whose plugins are in its sub-directory",
			[]string{
				"05.conflist", `{"name":"sub","cniVersion":"1.0.0"}`, "sub/", "", "sub/10.conf", `{"type":"bridge"}`,
				"10.conf", calico,
			},
			"", "05.conflist",
		},
	}
	known := map[string]string{
		"B34 a list in a .conf, which neither the runtime nor the planner accepts": "" +
			"it is chosen, and every pod of the node fails",
		"B35 a single configuration in a .conflist": "" +
			"it is chosen, and every pod of the node fails",
		"B35 a list whose plugins are in its sub-directory": "it is skipped",
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			dir := directory(t, tc.files...)
			p, err := Choose(dir, tc.named)
			if want, bad := strings.CutPrefix(tc.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrNoPrimary) != (tc.named == "") {
					t.Errorf("%+v, %v", p, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := filepath.Base(p.File); got != tc.want {
				if why, ok := known[tc.rule]; ok {
					t.Error("the known difference is gone: " + why)
				}
				t.Errorf("%s, want %s", got, tc.want)
			}
			conf, err := config.ParsePlugin([]byte(`{"name":"n","clusterNetwork":"` + p.File + `"}`))
			if err != nil {
				t.Fatal(err)
			}
			r := &plan.Resolver{Log: slog.New(slog.DiscardHandler)}
			if _, err := r.Plan(t.Context(), &request.Request{Command: request.Status}, conf); err != nil {
				t.Errorf("chosen, and the plan refuses it: %v", err)
			}
		})
	}
	if _, err := Choose(filepath.Join(t.TempDir(), "none"), ""); err == nil {
		t.Error("F21: the directory does not exist")
	}
}

// TestPipe checks that neither a named pipe in the configuration directory nor a huge file blocks the daemon or fills
// its memory, and that the cluster network is still found.
func TestPipe(t *testing.T) {
	t.Parallel()
	dir := directory(t, "10-b.conf", calico)
	large := filepath.Join(dir, "09-large.conf")
	f, err := os.Create(large)
	if err == nil {
		err = errors.Join(f.Truncate(cniconf.MaxFile+1), f.Close())
	}
	for _, name := range []string{"05-a.conf", FileName, FileName + "list", HoldName} {
		err = errors.Join(err, unix.Mkfifo(filepath.Join(dir, name), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p, err := Choose(dir, "")
		if err != nil || filepath.Base(p.File) != "10-b.conf" || !strings.Contains(errors.Join(p.Skipped...).Error(), large) {
			t.Errorf("%+v, %v", p, err)
		}
		s := controllerAt(t, dir, `{}`)
		s.sync()
		if s.InForce() != nil {
			t.Error(s.InForce())
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for a writer of the pipe")
	}
}

// TestGenerate checks the generated file (behaviour F24, F25, F27, A70, A71, Q2): one line of JSON, with today's
// keys in their order.
func TestGenerate(t *testing.T) {
	t.Parallel()
	tests := []struct{ rule, daemon, primary, want string }{
		{
			"F25 F27 A53 today's example",
			`{"cniVersion":"0.3.1","logLevel":"verbose","logToStderr":true,"capabilities":{"bandwidth":true}}`, flannel,
			`{"capabilities":{"bandwidth":true,"io.kubernetes.cri.pod-annotations":true,"portMappings":true},"cniVersion":"0.3.1","logLevel":"verbose","logToStderr":true,"name":"multus-cni-network","clusterNetwork":"$DIR/$FILE","type":"multus-shim","failureEvents":true,"plainPods":"local"}`,
		},
		{
			"A70 A53 F26 everything", `{"binDir":"/host/opt/cni/bin","capabilities":{"mac":true,"ips":false},"cniVersion":"1.0.0","logFile":"/host/var/log/multus.log","logLevel":"debug","logToStderr":false,"logOptions":{"maxAge":3,"compress":false},
			"namespaceIsolation":true,"globalNamespaces":"a,b","type":"multus","cniDir":"/host/var/lib/cni/multus","auxiliaryCNIChainName":"aux","daemonSocketDir":"/run/x","confDir":"/host/etc/cni/multus/net.d","defaultNetworks":["d"],
			"systemNamespaces":["s"],"multusNamespace":"m","readinessindicatorfile":"/host/run/ready","overrideNetworkName":true,"chrootDir":"/hostroot","name":"ignored","connectionLimit":5,"metricsPort":9091,"socketDir":"/s"}`, calico,
			`{"binDir":"/opt/cni/bin","capabilities":{"io.kubernetes.cri.pod-annotations":true,"mac":true},"cniVersion":"1.0.0","logFile":"/var/log/multus.log","logLevel":"debug","logOptions":{"maxAge":3,"compress":false},"name":"k8s-pod-network","clusterNetwork":"$DIR/$FILE","namespaceIsolation":true,"globalNamespaces":"a,b","type":"multus","cniDir":"/var/lib/cni/multus","auxiliaryCNIChainName":"aux","daemonSocketDir":"/run/x","confDir":"/etc/cni/multus/net.d","defaultNetworks":["d"],"systemNamespaces":["s"],"multusNamespace":"m","readinessindicatorfile":"/run/ready","failureEvents":true,"plainPods":"local"}`,
		},
		{
			"A86 the cluster network's version", `{}`, calico,
			`{"capabilities":{"io.kubernetes.cri.pod-annotations":true},"cniVersion":"1.0.0","name":"multus-cni-network","clusterNetwork":"$DIR/$FILE","type":"multus-shim","failureEvents":true,"plainPods":"local"}`,
		},
		{
			"O73 clusterNetwork of the file", `{"clusterNetwork":"/host/x<y>.conf"}`, calico,
			`{"capabilities":{"io.kubernetes.cri.pod-annotations":true},"cniVersion":"1.0.0","name":"multus-cni-network","clusterNetwork":"/x<y>.conf","type":"multus-shim","failureEvents":true,"plainPods":"local"}`,
		},
		{
			"A3 an empty list of system namespaces is not the default one", `{"systemNamespaces":[],"defaultNetworks":["d"]}`,
			calico,
			`{"capabilities":{"io.kubernetes.cri.pod-annotations":true},"cniVersion":"1.0.0","name":"multus-cni-network","clusterNetwork":"$DIR/$FILE","type":"multus-shim","defaultNetworks":["d"],"systemNamespaces":[],"failureEvents":true,"plainPods":"local"}`,
		},
		{
			"failureEvents", `{"failureEvents":false}`, calico,
			`{"capabilities":{"io.kubernetes.cri.pod-annotations":true},"cniVersion":"1.0.0","name":"multus-cni-network","clusterNetwork":"$DIR/$FILE","type":"multus-shim","failureEvents":false,"plainPods":"local"}`,
		},
		{
			"nodeAddresses", `{"nodeAddresses":["192.0.2.7"]}`, calico,
			`{"capabilities":{"io.kubernetes.cri.pod-annotations":true},"cniVersion":"1.0.0","name":"multus-cni-network","clusterNetwork":"$DIR/$FILE","type":"multus-shim","failureEvents":true,"plainPods":"local","nodeAddresses":["192.0.2.7"]}`,
		},
		{
			"F22 M20 a cluster network that is older than the configuration", `{"cniVersion":"1.0.0"}`, flannel,
			`{"capabilities":{"io.kubernetes.cri.pod-annotations":true,"portMappings":true},"cniVersion":"1.0.0","name":"multus-cni-network","clusterNetwork":"$DIR/$FILE","type":"multus-shim","failureEvents":true,"plainPods":"local"}`,
		},
		{
			"F23 the version of a cluster network that is forced", `{"cniVersion":"0.4.0","forceCNIVersion":true}`, flannel,
			`{"capabilities":{"io.kubernetes.cri.pod-annotations":true,"portMappings":true},"cniVersion":"0.4.0","name":"multus-cni-network","clusterNetwork":"$DIR/00-multus.forced","type":"multus-shim","failureEvents":true,"plainPods":"local"}`,
		},
		{
			"F23 forced, and the same", `{"cniVersion":"0.3.1","forceCNIVersion":true}`, flannel,
			`{"capabilities":{"io.kubernetes.cri.pod-annotations":true,"portMappings":true},"cniVersion":"0.3.1","name":"multus-cni-network","clusterNetwork":"$DIR/$FILE","type":"multus-shim","failureEvents":true,"plainPods":"local"}`,
		},
		{"F22 no version", `{"cniVersion":"one"}`, calico, `!cniVersion is "one"`},
		{
			"A70 no CNI version", `{"cniVersion":"1.2.0"}`, calico,
			`!daemon configuration: cniVersion is "1.2.0", not auto or one of 0.1.0, `,
		},
		{
			"A86 no CNI version of the cluster network", `{}`, `{"name":"n","cniVersion":"1.2.0","type":"x"}`,
			`!cniVersion is "1.2.0", not one of 0.1.0, `,
		},
		{
			"D46 an invalid value of checkNetworks", `{"checkNetworks":"al"}`, calico,
			`!daemon configuration: checkNetworks is "al"`,
		},
		{
			"F27 a capability that is not a boolean", `{}`,
			`{"name":"n","cniVersion":"1.0.0","type":"x","capabilities":{"mac":"yes"}}`, "!capabilities",
		},
	}
	known := map[string]string{"A3 an empty list of system namespaces is not the default one": "it is left out, so the " +
		"plugin takes pods of kube-system for plain ones"}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			d, err := config.ParseDaemon([]byte(tc.daemon))
			if err != nil {
				t.Fatal(err)
			}
			name := "10-flannel.conflist"
			if tc.primary != flannel {
				name = "10-calico.conf"
			}
			dir := directory(t, name, tc.primary)
			p, err := Choose(dir, "")
			if err != nil {
				t.Fatal(err)
			}
			b, err := Generate(d, p)
			if want, bad := strings.CutPrefix(tc.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s, %v", b, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := strings.NewReplacer(dir, "$DIR", name, "$FILE").Replace(string(b))
			if why, ok := known[tc.rule]; ok && got != tc.want+"\n" {
				t.Error("the known difference is gone: " + why)
			}
			if diff := cmp.Diff(tc.want+"\n", got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !cniconf.CallsMultus(b) {
				t.Error("the generated file is not recognised as ours")
			}
			if _, err := config.ParsePlugin(b); err != nil {
				t.Error(err)
			}
		})
	}
}
