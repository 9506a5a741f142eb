package doctor

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// inPod reduces a node to what the manifests mount into the daemon's pod. The state directory, the plugin directory and
// the root of the container are read-only there.
func inPod(f *fake) {
	f.InPod, f.NetnsExists = true, nil
	for _, p := range []string{
		"/etc/os-release", "/etc/containerd", "/run/netns", "/var/lib/cni/networks", "/lib/modules", "/var/lib/rancher/rke2",
		"/kind", "/var/lib/k0s/worker",
	} {
		f.remove(p)
	}
	f.write("/proc/1/mountinfo", `22 1 0:20 / / ro,relatime - overlay overlay rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
24 22 8:1 /x `+f.dist.ConfDir+` rw,relatime - ext4 /dev/vda1 rw
25 22 8:1 /x `+f.dist.BinDir+` ro,relatime - ext4 /dev/vda1 rw
26 22 0:22 /x /run/multus rw,nosuid - tmpfs tmpfs rw
27 22 8:1 /x /var/lib/cni/multus ro,relatime - ext4 /dev/vda1 rw
`)
}

// TestInPod checks `doctor --node`, which runs in the daemon's pod: it finds nothing on a healthy node, marks what is
// not visible as unchecked, and finds faults that are visible.
func TestInPod(t *testing.T) {
	t.Parallel()
	for dist := range releases {
		t.Run(dist, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, dist)
			inPod(f)
			r := Run(t.Context(), f.Node)
			if len(r.Findings) > 0 {
				t.Errorf("%+v", r.Findings)
			}
			var unchecked []string
			for _, c := range r.Checks {
				if c.State == StateUnchecked {
					unchecked = append(unchecked, c.Name)
				}
			}
			if want := []string{"distribution", "runtime", "netns", "kernel", "ledger", "reservations"}; !slices.Equal(unchecked,
				want) {
				t.Errorf("unchecked %q, want %q", unchecked, want)
			}
		})
	}
}

// TestFaultsInPod plants faults that are visible in the daemon's pod.
func TestFaultsInPod(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		check, says string
		plant       func(f *fake)
	}{
		"another writer":      {"slot", "Cilium renames", func(f *fake) { f.write(f.confPath()+".cilium_bak", "{}") }},
		"a plugin is missing": {"plugins", "plugin vlan", func(f *fake) { f.remove(f.dist.BinDir + "/vlan") }},
		"a key with a typo": {
			"configuration", "Multus ignores the key binDirs",
			func(f *fake) { f.change(daemonFiles[0], "binDirs", "x") },
		},
		"the state's disk is read-only": {
			"writable", "the state directory",
			func(f *fake) { f.addMount("/var/lib/cni/multus", "ro,relatime", "ro") },
		},
		"the plugins' disk is read-only": {
			"writable", "the plugin directory",
			func(f *fake) { f.addMount(f.dist.BinDir, "ro,relatime", "ro") },
		},
		"the configuration directory is read-only": {
			"writable", "the CNI configuration directory",
			func(f *fake) { f.mount(f.dist.ConfDir, "ro,relatime") },
		},
		"the master is not on this node": {
			"interfaces", "a/storage names the master eth7",
			func(f *fake) { f.definitions[0].Config = `{"type":"macvlan","master":"eth7"}` },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, "k3s")
			inPod(f)
			tc.plant(f)
			r := Run(t.Context(), f.Node)
			if len(r.Findings) != 1 || r.Findings[0].Check != tc.check || !strings.Contains(r.Findings[0].Message, tc.says) {
				t.Errorf("%+v", r.Findings)
			}
		})
	}
}

// TestThinInPod checks that checks in the pod of the thin deployment, which has almost nothing of the node, are
// unchecked and not ok.
func TestThinInPod(t *testing.T) {
	t.Parallel()
	f := healthy(t, "kubeadm")
	inPod(f)
	f.remove(daemonFiles[0])
	f.remove("/var/lib/cni/multus")
	f.remove("/run/multus")
	f.write("/proc/1/mountinfo", "22 1 0:20 / / ro,relatime - overlay overlay rw\n24 22 8:1 /x /etc/cni/net.d rw - ext4 "+
		"/dev/vda1 rw\n25 22 8:1 /x /opt/cni/bin rw - ext4 /dev/vda1 rw\n")
	f.remove(f.confPath())
	f.write(f.confPath()+"list", `{"cniVersion":"1.0.0","name":"multus-cni-network","plugins":[{"type":"multus","delegates":[{"name":"c","type":"bridge"}]}]}`)
	f.write(filepath.Join(f.dist.BinDir, "multus"), elfHeader(62))
	f.chmod(f.dist.BinDir+"/multus", 0o755)
	r := Run(t.Context(), f.Node)
	if len(r.Findings) > 0 {
		t.Errorf("%+v", r.Findings)
	}
	for _, name := range []string{"writable", "ledger"} {
		i := slices.IndexFunc(r.Checks, func(c Result) bool { return c.Name == name })
		if r.Checks[i].State != StateUnchecked ||
			!strings.Contains(r.Checks[i].Why, "/var/lib/cni/multus is not mounted here") {
			t.Errorf("%+v", r.Checks[i])
		}
	}
}

// TestLinksInPod checks that plugins of k3s, which are links to a directory that no pod mounts, count neither as
// missing nor as checked.
func TestLinksInPod(t *testing.T) {
	t.Parallel()
	f := healthy(t, "k3s")
	inPod(f)
	f.remove(f.dist.BinDir + "/vlan")
	f.symlink("/var/lib/rancher/k3s/data/0123abcd/bin/cni", f.dist.BinDir+"/vlan")
	f.remove(f.dist.BinDir + "/macvlan")
	r := Run(t.Context(), f.Node)
	if len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Message, "plugin macvlan, which") {
		t.Errorf("%+v", r.Findings)
	}
	i := slices.IndexFunc(r.Checks, func(c Result) bool { return c.Name == "plugins" })
	if !strings.HasPrefix(r.Checks[i].Why, "vlan link to files that are not mounted here") {
		t.Errorf("%+v", r.Checks[i])
	}
	f.InPod = false
	if r = Run(t.Context(), f.Node); !slices.ContainsFunc(r.Findings,
		func(x Finding) bool { return strings.Contains(x.Message, "plugin vlan, which") }) {
		t.Errorf("on the node: %+v", r.Findings)
	}
}

// TestOtherCredentials checks that the role is unchecked with credentials of another account, such as the kubelet, an
// administrator or a pod for debugging (k8snetworkplumbingwg/helm-charts#2).
func TestOtherCredentials(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"system:node:node-1", "kubernetes-admin", "system:serviceaccount:default:default"} {
		f := healthy(t, "kubeadm")
		f.cluster.account, f.cluster.denied = who, "patch pods/status"
		r := Run(t.Context(), f.Node)
		i := slices.IndexFunc(r.Checks, func(c Result) bool { return c.Name == "api" })
		if len(r.Findings) > 0 || r.Checks[i].State != StateUnchecked || !strings.HasSuffix(r.Checks[i].Why, who) {
			t.Errorf("%+v %+v", r.Checks[i], r.Findings)
		}
	}
}

// TestConfiguration checks the input of `explain` on a node. Of the two paths of the daemon's configuration, that of
// our manifests takes precedence, and the thin plugin has no daemon.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	f := healthy(t, "k3s")
	f.write(daemonFiles[1], `{"binDir": "/today"}`)
	file, conf, daemon := f.Configuration()
	if file != f.confPath() || !strings.Contains(string(conf), "multus-shim") ||
		!strings.Contains(string(daemon), f.dist.ConfDir) {
		t.Errorf("%s %s %s", file, conf, daemon)
	}
	f.remove(daemonFiles[0])
	if _, _, daemon = f.Configuration(); !strings.Contains(string(daemon), "/today") {
		t.Errorf("%s", daemon)
	}
	f.change(daemonFiles[1], "cniConfigDir", f.dist.ConfDir)
	f.change(f.confPath(), "type", "multus")
	if _, _, daemon = f.Configuration(); daemon != nil {
		t.Errorf("thin: %s", daemon)
	}
	f.remove(f.confPath())
	if file, conf, _ = f.Configuration(); file != "" || conf != nil {
		t.Errorf("%s %s", file, conf)
	}
}
