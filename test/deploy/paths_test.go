package deploy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	daemonconfig "multus/internal/config"
	"multus/internal/host/daemon"
	"multus/internal/host/entrypoint"
)

// TestPaths checks the directories of each distribution wherever a manifest names them.
func TestPaths(t *testing.T) {
	t.Parallel()
	const conf, bin, kubelet = "/etc/cni/net.d", "/opt/cni/bin", "/var/lib/kubelet"
	want := map[string]struct {
		conf, bin, kubelet string
		reference          bool
		selinux            string
	}{
		base:                    {conf, bin, kubelet, false, ""},
		"overlays/readonly-fs":  {conf, "/var/lib/cni/bin", kubelet, false, ""},
		"overlays/talos":        {conf, bin, kubelet, true, ""},
		"overlays/bottlerocket": {conf, bin, kubelet, false, "control_t"},
		"overlays/fcos":         {conf, bin, kubelet, false, "spc_t"},
		"overlays/microk8s": {
			"/var/snap/microk8s/current/args/cni-network", "/var/snap/microk8s/current/opt/cni/bin",
			"/var/snap/microk8s/common/var/lib/kubelet", true, "",
		},
		"overlays/k3s": {
			"/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/lib/rancher/k3s/data/cni", kubelet, true,
			"",
		},
		"overlays/rke2":      {conf, bin, kubelet, false, ""},
		"overlays/k0s":       {conf, bin, "/var/lib/k0s/kubelet", true, ""},
		"overlays/kind":      {conf, bin, kubelet, true, ""},
		"overlays/openshift": {"/etc/kubernetes/cni/net.d", "/var/lib/cni/bin", kubelet, false, "spc_t"},
		"overlays/gke":       {conf, "/home/kubernetes/bin", kubelet, true, ""},
	}
	for _, dir := range all(t) {
		if dir == thin {
			continue
		}
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			w, ok := want[dir]
			if !ok {
				t.Fatal("an overlay that is not in this test")
			}
			m := render(t, dir)
			pod := get[appsv1.DaemonSet](t, m, "DaemonSet").Spec.Template.Spec
			c := pod.Containers[0]
			paths := mounts(&pod)
			for name, want := range map[string]string{
				"cni-conf": w.conf, "cni-bin": w.bin, "pod-resources": w.kubelet + "/pod-resources",
				"device-plugins": w.kubelet + "/device-plugins",
			} {
				if paths[name] != want {
					t.Errorf("volume %s is %q, want %q", name, paths[name], want)
				}
			}
			d := parseConfig(t, daemonConfig(t, m))
			if d.CNIConfigDir != w.conf || d.BinDir != w.bin || d.SocketDir != paths["run"] {
				t.Errorf("configuration: conf %q, bin %q, socket %q", d.CNIConfigDir, d.BinDir, d.SocketDir)
			}
			if root := cmp.Or(d.KubeletRoot, kubelet); root != w.kubelet {
				t.Errorf("configuration: kubelet %q", root)
			}
			if !strings.HasPrefix(d.MultusAutoconfigDir, w.conf) && !strings.HasPrefix(d.MultusAutoconfigDir, paths["run"]+"/") {
				t.Errorf("multusAutoconfigDir %q is not mounted", d.MultusAutoconfigDir)
			}
			checkFlags(t, &c)
			if len(pod.InitContainers) != 1 {
				t.Fatalf("%d init containers", len(pod.InitContainers))
			}
			checkInstall(t, &pod.InitContainers[0], paths, w.reference)
			for _, c := range []corev1.Container{c, pod.InitContainers[0]} {
				selinux := ""
				if o := c.SecurityContext.SELinuxOptions; o != nil {
					selinux = o.Type
				}
				if selinux != w.selinux {
					t.Errorf("%s: SELinux type %q, want %q", c.Name, selinux, w.selinux)
				}
			}
		})
	}
}

// mounts maps each volume to its path on the node.
func mounts(pod *corev1.PodSpec) map[string]string {
	paths := map[string]string{}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			paths[v.Name] = v.HostPath.Path
		}
	}
	return paths
}

// parseConfig parses the configuration as the daemon does, and rejects unknown keys.
func parseConfig(t *testing.T, b []byte) *daemonconfig.Daemon {
	t.Helper()
	d, err := daemonconfig.ParseDaemon(b)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&daemonconfig.Daemon{}); err != nil {
		t.Error(err)
	}
	return d
}

// checkInstall parses the arguments of the init container with the flags of the program itself.
func checkInstall(t *testing.T, c *corev1.Container, paths map[string]string, reference bool) {
	t.Helper()
	if want := []string{"/usr/src/multus-cni/bin/multus-daemon"}; !slices.Equal(c.Command, want) {
		t.Errorf("command %q", c.Command)
	}
	cmd, rest, err := daemon.Command(func(string) string { return "" }, io.Discard).Find(c.Args)
	if err != nil || cmd.Name() != "install" {
		t.Fatalf("arguments %q: %v", c.Args, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Fatal(err)
	}
	if got := value(t, cmd, "dest"); got != paths["cni-bin"] || c.VolumeMounts[0].MountPath != got ||
		c.VolumeMounts[0].ReadOnly {
		t.Errorf("--dest %q, but the mount is %+v", got, c.VolumeMounts[0])
	}
	if got := value(t, cmd, "reference-plugins"); got != strconv.FormatBool(reference) {
		t.Errorf("--reference-plugins %s", got)
	}
}

// checkFlags parses the arguments with the flags of the program itself.
func checkFlags(t *testing.T, c *corev1.Container) {
	t.Helper()
	if want := []string{"/usr/src/multus-cni/bin/multus-daemon"}; !slices.Equal(c.Command, want) {
		t.Errorf("command %q", c.Command)
	}
	cmd, rest, err := daemon.Command(func(string) string { return "" }, io.Discard).Find(c.Args)
	if err != nil || cmd.Name() != "run" {
		t.Fatalf("arguments %q: %v", c.Args, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Fatal(err)
	}
	if got := value(t, cmd, "install-dir"); got != "" {
		t.Errorf("--install-dir %q: the daemon must not write plugins", got)
	}
	file := value(t, cmd, "config")
	if !slices.ContainsFunc(c.VolumeMounts,
		func(m corev1.VolumeMount) bool { return m.Name == "config" && m.MountPath == path.Dir(file) }) {
		t.Errorf("--config %s is not mounted", file)
	}
	for name, p := range map[string]*corev1.Probe{
		"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe,
		"/healthz ": c.StartupProbe,
	} {
		if p == nil || p.HTTPGet == nil {
			t.Errorf("no probe %s", name)
			continue
		}
		if g := p.HTTPGet; g.Host != "127.0.0.1" || g.Port.String() != value(t, cmd, "health-port") ||
			g.Path != strings.TrimSpace(name) {
			t.Errorf("probe %+v", g)
		}
	}
}

func value(t *testing.T, cmd *cobra.Command, name string) string {
	t.Helper()
	f := cmd.Flags().Lookup(name)
	if f == nil {
		t.Fatalf("no flag %s", name)
	}
	return f.Value.String()
}

// TestThinArguments parses the arguments of the thin deployment with the flags of the program itself.
func TestThinArguments(t *testing.T) {
	t.Parallel()
	pod := get[appsv1.DaemonSet](t, render(t, thin), "DaemonSet").Spec.Template.Spec
	c := pod.Containers[0]
	if !slices.Equal(c.Command, []string{"/thin_entrypoint"}) {
		t.Errorf("command %q", c.Command)
	}
	cmd := entrypoint.Command(func(string) string { return "" }, io.Discard)
	if err := cmd.ParseFlags(c.Args); err != nil {
		t.Fatal(err)
	}
	paths := mounts(&pod)
	for name, want := range map[string]string{
		"cni-conf-dir": paths["cni-conf"], "multus-autoconfig-dir": paths["cni-conf"], "cni-bin-dir": paths["cni-bin"],
		"multus-cni-conf-dir":         paths["networks"],
		"multus-kubeconfig-file-host": paths["cni-conf"] + "/multus.d/multus.kubeconfig",
		"multus-conf-file":            "auto",
	} {
		if got := value(t, cmd, name); got != want {
			t.Errorf("--%s %q, want %q", name, got, want)
		}
	}
	if c.StartupProbe != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil {
		t.Error("it has probes, but serves nothing")
	}
}
