package doctor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/engine/plan"
	"multus/internal/link"
)

// faults are faults of a node. Each is planted by a function. check and says identify the finding, which must be the
// only one.
var faults = []struct {
	name, check, says string
	plant             func(f *fake)
}{
	{"no configuration at all (multus-cni#1387)", "slot", "no CNI configuration", func(f *fake) {
		f.remove(f.confPath())
		f.remove(filepath.Join(f.dist.ConfDir, "10-cluster.conflist"))
	}},
	{"Multus is not called (multus-cni#1387)", "slot", "does not call Multus", func(f *fake) { f.remove(f.confPath()) }},
	{"another file comes first (multus-cni#1387)", "slot", "00-aaa.conflist and not", func(f *fake) {
		f.write(filepath.Join(f.dist.ConfDir, "00-aaa.conflist"),
			`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge"}]}`)
	}},
	{
		"the runtime has another configuration directory (multus-cni#927)",
		"runtime", "the runtime looks for its CNI configuration in /etc/cni/other",
		func(f *fake) {
			f.write("/etc/containerd/conf.d/50-cni.toml",
				"[plugins.cri.cni]\n  # conf_dir = \"/etc/cni/net.d\"\n  conf_dir = '/etc/cni/other'\n")
		},
	},
	{
		"the runtime has another plugin directory (multus-cni#927)", "runtime",
		"the runtime looks for its plugins in /usr/libexec/cni, /opt/other", func(f *fake) {
			f.write("/etc/crio/crio.conf.d/10-cni", "plugin_dirs = [\n\t\"/usr/libexec/cni\",\n\t\"/opt/other\",\n]\n")
		},
	},
	{
		"half-written configuration", "slot", "is not a valid CNI configuration",
		func(f *fake) { f.write(f.confPath(), `{"cniVersion": "1.0`) },
	},
	{"empty configuration", "slot", "is not a valid CNI configuration", func(f *fake) { f.write(f.confPath(), "") }},
	{
		"Cilium renames the file (multus-cni#972)", "slot", "Cilium renames",
		func(f *fake) { f.write(f.confPath()+".cilium_bak", "{}") },
	},
	{
		"a list with another program's plugin is shadowed", "slot",
		"plugins of another program are chained to Multus, and not called: istio-cni", func(f *fake) {
			f.write(f.confPath()+"list", `{"cniVersion":"0.3.1","name":"k8s-pod-network","plugins":[{"type":"multus-shim"},{"type":"istio-cni"}]}`)
		},
	},
	{"two configurations of Multus (multus-cni#1130)", "slot", "more than one configuration", func(f *fake) {
		f.write(filepath.Join(f.dist.ConfDir, "70-multus.conf"), `{"cniVersion":"0.3.1","name":"old","type":"multus"}`)
	}},
	{
		"a key with a typo (A1)", "configuration", "Multus ignores the key clusterNetworks",
		func(f *fake) { f.change(f.confPath(), "clusterNetworks", "x") },
	},
	{"the cluster network's file is gone (B32)", "configuration", "cluster network cannot be read", func(f *fake) {
		f.remove(filepath.Join(f.dist.ConfDir, "10-cluster.conflist"))
	}},
	{
		"Multus delegates to itself (multus-cni#1130)",
		"configuration", "the cluster network is Multus itself", func(f *fake) {
			f.write("/opt/loop.conf", `{"name":"x","type":"multus"}`)
			f.change(f.confPath(), "clusterNetwork", "/opt/loop.conf")
		},
	},
	{"the daemon's file is broken (F1)", "configuration", "daemon's configuration cannot be read", func(f *fake) {
		f.change(daemonFiles[0], "connectionLimit", -1)
	}},
	{
		"the kubeconfig is gone (multus-cni#461, multus-cni#852)",
		"configuration", "kubeconfig of the plugin cannot be used", func(f *fake) {
			f.change(f.confPath(), "kubeconfig", "/etc/cni/net.d/multus.d/multus.kubeconfig")
		},
	},
	{"the plugin is missing (multus-cni#1221)", "plugins", "multus-shim, which ", func(f *fake) {
		f.remove(f.dist.BinDir + "/multus-shim")
	}},
	{
		"a delegate is missing", "plugins",
		"plugin vlan, which network-attachment-definition a/vlan5 needs, is missing", func(f *fake) {
			f.remove(f.dist.BinDir + "/vlan")
		},
	},
	{
		"an IPAM plugin is missing", "plugins",
		"plugin static, which network-attachment-definition a/vlan5 needs, is missing", func(f *fake) {
			f.remove(f.dist.BinDir + "/static")
		},
	},
	{
		"a plugin is not executable (multus-cni#1221)", "plugins",
		"macvlan, which network-attachment-definition a/storage needs, cannot be executed", func(f *fake) {
			f.chmod(f.dist.BinDir+"/macvlan", 0o644)
		},
	},
	{"a plugin of another architecture (multus-cni#1251)", "plugins", "is for another architecture", func(f *fake) {
		f.write(f.dist.BinDir+"/macvlan", elfHeader(183))
	}},
	{
		"a truncated plugin (multus-cni#1221)", "plugins", "is not a program",
		func(f *fake) { f.write(f.dist.BinDir+"/macvlan", "") },
	},
	{
		"the plugin directory is read-only (multus-cni#927)", "writable", "the plugin directory",
		func(f *fake) { f.mount(f.dist.BinDir, "ro,relatime") },
	},
	{
		"the configuration directory is read-only (multus-cni#927)", "writable", "the CNI configuration directory",
		func(f *fake) { f.mount(f.dist.ConfDir, "ro,relatime") },
	},
	{
		"plugins cannot be started (multus-cni#927)", "writable", "plugins cannot be started",
		func(f *fake) { f.mount(f.dist.BinDir, "rw,noexec") },
	},
	{"the state directory is a file (D80)", "writable", "the state directory is not a directory", func(f *fake) {
		f.remove("/var/lib/cni/multus")
		f.remove("/var/lib/cni/networks/storage")
		f.definitions = slices.DeleteFunc(f.definitions, func(d plan.Definition) bool { return d.Name == "nic" })
		f.write("/var/lib/cni/multus", "")
	}},
	{"/var/run is a directory (multus-cni#1260)", "netns", "two directories", func(f *fake) {
		f.remove("/var/lib/cni/multus")
		f.remove("/var/lib/cni/networks/storage")
		f.check(os.Remove(filepath.Join(f.Root, "var/run")))
		f.mkdir("/var/run/netns")
		f.recordSandbox("c1", "/var/run/netns/cni-1")
	}},
	{
		"network namespaces are in another directory (multus-cni#1260)",
		"netns", "keeps network namespaces in /run/containerd/netns", func(f *fake) {
			f.namespaces["/run/containerd/netns/cni-2"] = true
			f.recordSandbox("c2", "/run/containerd/netns/cni-2")
		},
	},
	{
		"a configuration of upstream Multus, and a private root (multus-cni#1248)",
		"mounts", "needs / to be a shared mount", func(f *fake) {
			f.change(daemonFiles[0], "chrootDir", "/hostroot")
			f.write("/proc/1/mountinfo", "22 1 0:20 / / rw,relatime - ext4 /dev/vda1 rw\n")
		},
	},
	{
		"no daemon (multus-cni#1165)", "daemon", "the daemon has no socket",
		func(f *fake) { f.remove("/run/multus/multus.sock") },
	},
	{"a socket without a daemon (multus-cni#1165)", "daemon", "the daemon does not answer", func(f *fake) {
		f.remove("/run/multus/multus.sock")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.path("/run/multus/multus.sock"), Net: "unix"})
		f.check(err)
		l.SetUnlinkOnClose(false)
		f.check(l.Close())
	}},
	{"a daemon that is not ready (E40)", "daemon", "the daemon is not ready", func(f *fake) { f.notReady.Store(true) }},
	{"pods without their networks (R14)", "daemon", "1 pods run without the networks", func(f *fake) {
		f.missing.Store(true)
	}},
	{"a controller for hot-plug (R20)", "daemon", "multus-dynamic-networks-controller runs on this node", func(f *fake) {
		f.write("/proc/4242/cmdline", "/usr/bin/dynamic-networks-controller\x00-config=/etc/x.json\x00")
	}},
	{"no runner for hot-plug (R12)", "hotplug", "no runner runs", func(f *fake) {
		f.change(daemonFiles[0], "hotPlug", true)
	}},
	{"another version (multus-cni#1221)", "daemon", "different versions", func(f *fake) { f.versions["daemon"] = "v2" }},
	{"the API server is unavailable (multus-cni#1361)", "api", "the API server cannot be reached", func(f *fake) {
		f.cluster.err = fmt.Errorf("%w: connection refused", plan.ErrUnavailable)
	}},
	{"the credentials are refused (multus-cni#852)", "api", "refuses the credentials", func(f *fake) {
		f.cluster.err = fmt.Errorf("%w: the API server does not accept the credentials (expired?)", plan.ErrUnavailable)
	}},
	{
		"the token has expired (multus-cni#852)", "api", "the token has expired",
		func(f *fake) { f.cluster.expires = f.Now.Add(-time.Minute) },
	},
	{"no CRD (B8)", "api", "has no CustomResourceDefinition", func(f *fake) { f.cluster.crd = false }},
	{
		"the role lacks a verb (k8snetworkplumbingwg/helm-charts#2)", "api", "does not allow: patch pods/status",
		func(f *fake) { f.cluster.denied = "patch pods/status" },
	},
	{
		"the role lacks what claims need (H11)", "api", "watch resourceslices.resource.k8s.io; networks get no devices",
		func(f *fake) { f.cluster.denied = "watch resourceslices.resource.k8s.io" },
	},
	{
		"the role lacks the status of claims (H18)", "api",
		"patch resourceclaims/status.resource.k8s.io; the status of ResourceClaims is not written", func(f *fake) {
			f.cluster.denied = "patch resourceclaims/status.resource.k8s.io"
			f.change(daemonFiles[0], "claimStatus", true)
			f.change(daemonFiles[0], "claimStatusDrivers", []string{"nic.example.com"})
		},
	},
	{
		"the role lacks a driver (H18)", "api",
		"associated-node:patch resourceclaims/driver.resource.k8s.io nic.example.com; the status", func(f *fake) {
			f.cluster.denied = "associated-node:patch resourceclaims/driver.resource.k8s.io nic.example.com"
			f.change(daemonFiles[0], "claimStatus", true)
			f.change(daemonFiles[0], "claimStatusDrivers", []string{"nic.example.com"})
		},
	},
	{
		"a driver of claimStatusDrivers publishes nothing", "claims", "the driver nic.example.com publishes no devices",
		func(f *fake) {
			f.cluster.unpublished = "nic.example.com"
			f.change(daemonFiles[0], "claimStatus", true)
			f.change(daemonFiles[0], "claimStatusDrivers", []string{"nic.example.com"})
		},
	},
	{
		"a driver of a claim publishes nothing (H10)", "claims", "the driver gpu.example.com publishes no devices",
		func(f *fake) {
			f.cluster.unpublished = "gpu.example.com"
			f.claimed = []plan.ClaimedDevice{
				{Claim: "a", Driver: "nic.example.com", Pool: "p", Device: "vf0"},
				{Claim: "b", Driver: "gpu.example.com", Pool: "p", Device: "gpu0"},
			}
		},
	},
	{
		"no driver is listed for the status of claims", "claims", "claimStatus has no effect",
		func(f *fake) { f.change(daemonFiles[0], "claimStatus", true) },
	},
	{
		"the role lacks what hot-plug needs (R12)", "api", "watch pods; the networks of running pods do not change",
		func(f *fake) {
			f.cluster.denied = "watch pods"
			f.change(daemonFiles[0], "hotPlug", true)
			f.write("/proc/4243/cmdline", "/opt/cni/bin/multus-shim\x00runner\x00")
		},
	},
	{"no permission to read pods, and an old runtime", "api", "does not allow: get pods", func(f *fake) {
		f.cluster.denied, f.cluster.runtime = "get pods", "containerd://1.7.29"
	}},
	{"no permission to read pods, and no capability", "api", "does not allow: get pods", func(f *fake) {
		f.cluster.denied, f.cluster.runtime = "get pods", "containerd://2.1.4"
		f.change(f.confPath(), "capabilities", map[string]bool{})
	}},
	{
		"no policy for the status", "policies", "multus-node-identity is missing",
		func(f *fake) { f.cluster.missing = "multus-node-identity" },
	},
	{
		"no policy for events", "policies", "multus-events is missing",
		func(f *fake) { f.cluster.missing = "multus-events" },
	},
	{
		"a policy that is not bound", "policies", "multus-node-identity denies nothing",
		func(f *fake) { f.cluster.unbound = "multus-node-identity" },
	},
	{"a policy for another account", "policies", "selects another service account", func(f *fake) {
		f.cluster.account = "system:serviceaccount:network:multus"
	}},
	{
		"no isolation of several namespaces", "policies", "namespaceIsolation is off",
		func(f *fake) { f.definitions[1].Namespace = "b" },
	},
	{
		"the kubelet has another directory (multus-cni#1546)", "kubelet", "the kubelet's directory is /var/",
		func(f *fake) { f.change(daemonFiles[0], "kubeletRoot", "/somewhere") },
	},
	{
		"no podresources for a device (multus-cni#1546)", "kubelet", "podresources cannot be found",
		func(f *fake) { f.remove(f.dist.KubeletRoot) },
	},
	{"a master that does not exist (multus-cni#871)", "interfaces", "a/storage names the master eth7", func(f *fake) {
		f.definitions[0].Config = `{"type":"macvlan","master":"eth7"}`
	}},
	{"a device that does not exist (multus-cni#871)", "interfaces", "a/nic names the device eth3", func(f *fake) {
		f.definitions[2].Config = `{"type":"host-device","device":"eth3"}`
	}},
	{"a master that is down (multus-cni#871)", "interfaces", "is down", func(f *fake) {
		f.definitions = f.definitions[:1]
		f.interfaces[2].Up = false
	}},
	{"MTU too large (multus-cni#871)", "interfaces", "requests MTU 9001 on eth1, which has 9000", func(f *fake) {
		f.definitions[0].Config = `{"type":"macvlan","master":"eth1","mtu":9001}`
	}},
	{"macvlan and ipvlan on one master (multus-cni#871)", "interfaces", "macvlan and ipvlan", func(f *fake) {
		f.programs("ipvlan")
		f.write("/sys/module/ipvlan/refcnt", "0")
		f.definitions[1].Config = `{"type":"ipvlan","master":"eth1"}`
	}},
	{
		"a bridge that is not a bridge (multus-cni#871)",
		"interfaces", "names the bridge br-local, which is not a bridge", func(f *fake) {
			f.interfaces[3] = link.Interface{Name: "br-local", Type: "vlan", Up: true}
		},
	},
	{"a kernel without the module", "kernel", "the kernel has no 8021q", func(f *fake) {
		f.write("/lib/modules/6.12.1/modules.dep", "kernel/drivers/net/macvlan.ko.zst:\n")
	}},
	{
		"a record of a sandbox that is gone (multus-cni#1449)", "ledger", "1 record of sandboxes that are gone",
		func(f *fake) { f.recordSandbox("c2", "/run/netns/gone") },
	},
	{
		"a damaged record (multus-cni#1449)", "ledger", "the record of container c2 is damaged",
		func(f *fake) { f.write("/var/lib/cni/multus/c2", "[{") },
	},
	{"a damaged record that was put aside (multus-cni#1449)", "ledger", "1 damaged record was put aside", func(f *fake) {
		f.write("/var/lib/cni/multus/damaged/c3.17", "[{")
	}},
	{
		"an address that no pod has (multus-cni#1449)",
		"reservations", "1 address of network storage reserved", func(f *fake) {
			f.reserve("/var/lib/cni/networks/storage/192.0.2.6", "c9")
		},
	},
}

// TestFaults plants each fault on a node of each distribution, and checks that only that fault is found, with evidence
// and a fix.
func TestFaults(t *testing.T) {
	t.Parallel()
	const least, distributions = 25, 8
	if len(faults) < least || len(releases) != distributions {
		t.Errorf("%d faults, %d distributions", len(faults), len(releases))
	}
	for dist := range releases {
		for _, tc := range faults {
			t.Run(dist+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				f := healthy(t, dist)
				tc.plant(f)
				r := Run(t.Context(), f.Node)
				found := false
				for _, x := range r.Findings {
					if x.Check == tc.check && strings.Contains(x.Message, tc.says) {
						found = true
					} else if !isConsequence(tc.check, x) {
						t.Errorf("also: %+v", x)
					}
					if x.Evidence == "" || x.Fix == "" || strings.Contains(x.Message+x.Evidence+x.Fix, f.Root) {
						t.Errorf("no evidence, no fix, or a path that is not the node's: %+v", x)
					}
				}
				if !found {
					t.Errorf("not found; findings: %+v", r.Findings)
				}
			})
		}
	}
}

// isConsequence reports whether a finding is a consequence of the planted fault, and no false alarm.
func isConsequence(check string, x Finding) bool {
	return check == "configuration" && x.Check == "slot"
}

// TestHealthy checks that nothing is found on healthy nodes, that each distribution is recognised, and that every check
// runs.
func TestHealthy(t *testing.T) {
	t.Parallel()
	for dist := range releases {
		t.Run(dist, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, dist)
			r := Run(t.Context(), f.Node)
			if len(r.Findings) > 0 {
				t.Errorf("%+v", r.Findings)
			}
			want := dist
			if dist == "kubeadm" {
				want = "base"
			}
			if r.Overlay != want || r.Distribution == "" {
				t.Errorf("taken for %s, overlay %s", r.Distribution, r.Overlay)
			}
			for _, c := range r.Checks {
				if c.State != StateOK {
					t.Errorf("%+v", c)
				}
			}
		})
	}
}

// TestServedControllerIsNotReported checks that multus-dynamic-networks-controller is not reported with hotPlug, with
// which it works (behaviour R20).
func TestServedControllerIsNotReported(t *testing.T) {
	t.Parallel()
	f := healthy(t, "kubeadm")
	f.write("/proc/4242/cmdline", "/usr/bin/dynamic-networks-controller\x00")
	f.change(daemonFiles[0], "hotPlug", true)
	for _, x := range Run(t.Context(), f.Node).Findings {
		if x.Check == "daemon" {
			t.Errorf("%+v", x)
		}
	}
}

// TestCorrectPoliciesAreNotReported checks that policies which are correct, or disabled on purpose, are not reported.
func TestCorrectPoliciesAreNotReported(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(f *fake){
		"runtime that passes annotations": func(f *fake) {
			f.cluster.denied, f.cluster.runtime = "get pods",
				"containerd://2.1.4"
		},
		"namespaceIsolation": func(f *fake) {
			f.definitions[1].Namespace = "b"
			f.change(daemonFiles[0], "namespaceIsolation", true)
		},
		"no namespaceIsolation, as the daemon's configuration requests": func(f *fake) {
			f.definitions[1].Namespace = "b"
			f.change(daemonFiles[0], "namespaceIsolation", false)
		},
		"no namespaceIsolation, as the CNI configuration requests": func(f *fake) {
			f.definitions[1].Namespace = "b"
			f.change(f.confPath(), "namespaceIsolation", false)
		},
		"a global namespace": func(f *fake) { f.definitions[1].Namespace = "default" },
		"an API server that does not check drivers": func(f *fake) {
			f.cluster.version = "v1.35.2"
			f.cluster.denied = "associated-node:patch resourceclaims/driver.resource.k8s.io nic.example.com"
			f.change(daemonFiles[0], "claimStatus", true)
			f.change(daemonFiles[0], "claimStatusDrivers", []string{"nic.example.com"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, "kubeadm")
			plant(f)
			if r := Run(t.Context(), f.Node); len(r.Findings) > 0 {
				t.Errorf("%+v", r.Findings)
			}
		})
	}
}

// TestPolicyHidden checks that a policy which may not be read is unchecked, and no finding.
func TestPolicyHidden(t *testing.T) {
	t.Parallel()
	f := healthy(t, "kubeadm")
	f.cluster.hidden = "multus-events"
	r := Run(t.Context(), f.Node)
	i := slices.IndexFunc(r.Checks, func(c Result) bool { return c.Name == "policies" })
	if len(r.Findings) > 0 || r.Checks[i].State != StateUnchecked || !strings.Contains(r.Checks[i].Why, "forbidden") {
		t.Errorf("%+v, %+v", r.Checks[i], r.Findings)
	}
}

// TestHealthyWithoutDaemonFile checks a node on which the daemon's configuration does not exist, because it is a
// ConfigMap of the pod, and with a configuration directory that the user names.
func TestHealthyWithoutDaemonFile(t *testing.T) {
	t.Parallel()
	for dist := range releases {
		t.Run(dist, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, dist)
			f.remove(daemonFiles[0])
			if r := Run(t.Context(), f.Node); len(r.Findings) > 0 {
				t.Errorf("%+v", r.Findings)
			}
			f.mkdir("/etc/own")
			f.rename(f.confPath(), "/etc/own/00-multus.conf")
			f.remove("/etc/containerd")
			f.ConfDir = "/etc/own"
			for _, x := range Run(t.Context(), f.Node).Findings {
				if x.Check != "distribution" {
					t.Errorf("%+v", x)
				}
			}
		})
	}
}

// TestNoConfiguration checks that the daemon is still looked for if the runtime loads no configuration of Multus but
// other files show that there should be a daemon. Otherwise the check is unchecked, and not ok.
func TestNoConfiguration(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		remove []string
		want   string
	}{
		{"it runs", nil, StateOK},
		{"it does not", []string{"/run/multus/multus.sock"}, StateFound},
		{"only the plugin is there", []string{"/run/multus/multus.sock", daemonFiles[0]}, StateFound},
		{"nothing is there", []string{"/run/multus/multus.sock", daemonFiles[0], "/opt/cni/bin/multus-shim"}, StateUnchecked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, "kubeadm")
			for _, file := range append(tc.remove, f.confPath()) {
				f.remove(file)
			}
			for _, c := range Run(t.Context(), f.Node).Checks {
				if c.Name == "daemon" && c.State != tc.want {
					t.Errorf("%+v, want %s", c, tc.want)
				}
			}
		})
	}
}

// TestWrongDirectories checks a base manifest on a distribution with other directories (multus-cni#927).
func TestWrongDirectories(t *testing.T) {
	t.Parallel()
	f := healthy(t, "microk8s")
	f.change(daemonFiles[0], "cniConfigDir", defaultConfDir)
	f.mkdir(defaultConfDir)
	f.rename(f.confPath(), defaultConfDir+"/00-multus.conf")
	r := Run(t.Context(), f.Node)
	if i := slices.IndexFunc(r.Findings, func(x Finding) bool { return x.Check == "distribution" }); i < 0 ||
		!strings.Contains(r.Findings[i].Fix, "deploy/overlays/microk8s") {
		t.Errorf("%+v", r.Findings)
	}
}

// TestInvisibleIsUnchecked checks that what is not visible, on a laptop or in a container, is unchecked and no finding.
func TestInvisibleIsUnchecked(t *testing.T) {
	t.Parallel()
	r := Run(t.Context(), &Node{Root: t.TempDir(), InPod: true, Arch: "amd64", Now: time.Now()})
	unchecked := 0
	for _, c := range r.Checks {
		if c.State == StateUnchecked {
			unchecked++
			if c.Why == "" {
				t.Errorf("%+v", c)
			}
		}
	}
	if unchecked < 8 {
		t.Errorf("%d unchecked: %+v", unchecked, r.Checks)
	}
	if len(r.Findings) != 1 || r.Findings[0].Check != "slot" {
		t.Errorf("%+v", r.Findings)
	}
}

// TestPath checks that links are resolved inside the root, including absolute and circular links and those without a
// target.
func TestPath(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	n := &Node{Root: root}
	for link, target := range map[string]string{
		"abs": "/there", "rel": "there/../there", "up": "../../../etc",
		"loop": "loop", "dangling": "/none/x",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "there"), 0o755); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"/abs/f": "/there/f", "/rel": "/there", "/up/passwd": "/etc/passwd", "/dangling": "/none/x",
		"/there/../abs": "/there", "/": "/",
	} {
		if got := n.real(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
		if got := n.path(in); !strings.HasPrefix(got, root) {
			t.Errorf("%s leads out of the root: %s", in, got)
		}
	}
	_ = n.path("/loop/x") // must return
}
