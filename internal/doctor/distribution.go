package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// distribution is a Kubernetes distribution or an operating system, with its directories and its overlay in
// deploy/overlays.
type distribution struct {
	Name, Overlay                string
	ConfDir, BinDir, KubeletRoot string
	// ids are values of ID or VARIANT_ID in os-release. paths exist on this distribution only. One match suffices.
	ids, paths []string
}

// The default directories.
const (
	defaultConfDir     = "/etc/cni/net.d"
	defaultBinDir      = "/opt/cni/bin"
	defaultKubeletRoot = "/var/lib/kubelet"
)

// distributions are the known distributions. Kubernetes distributions come before operating systems, because k3s runs
// on any of them.
var distributions = []distribution{
	{
		"k3s", "k3s", "/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/lib/rancher/k3s/data/cni", defaultKubeletRoot, nil,
		[]string{"/var/lib/rancher/k3s"},
	},
	{"RKE2", "rke2", defaultConfDir, defaultBinDir, defaultKubeletRoot, nil, []string{"/var/lib/rancher/rke2"}},
	{
		"MicroK8s", "microk8s", "/var/snap/microk8s/current/args/cni-network", "/var/snap/microk8s/current/opt/cni/bin",
		"/var/snap/microk8s/common/var/lib/kubelet", nil,
		[]string{"/var/snap/microk8s"},
	},
	{"k0s", "k0s", defaultConfDir, defaultBinDir, "/var/lib/k0s/kubelet", nil, []string{"/var/lib/k0s"}},
	{"kind", "kind", defaultConfDir, defaultBinDir, defaultKubeletRoot, nil, []string{"/kind/version"}},
	{
		"OpenShift", "openshift", "/etc/kubernetes/cni/net.d", "/var/lib/cni/bin", defaultKubeletRoot,
		[]string{"rhcos"},
		[]string{"/etc/kubernetes/cni/net.d"},
	},
	{"Talos", "talos", defaultConfDir, defaultBinDir, defaultKubeletRoot, []string{"talos"}, nil},
	{"Bottlerocket", "bottlerocket", defaultConfDir, defaultBinDir, defaultKubeletRoot, []string{"bottlerocket"}, nil},
	{
		"Container-Optimized OS (GKE)", "gke", defaultConfDir, "/home/kubernetes/bin", defaultKubeletRoot,
		[]string{"cos"},
		nil,
	},
	{"Fedora CoreOS", "fcos", defaultConfDir, defaultBinDir, defaultKubeletRoot, []string{"coreos"}, nil},
}

// distribution identifies the distribution of the node. An unknown one has the default directories.
func (n *Node) distribution() distribution {
	ids := n.osRelease()
	for _, d := range distributions {
		if slices.ContainsFunc(d.paths, n.exists) || slices.Contains(d.ids, ids["ID"]) ||
			slices.Contains(d.ids, ids["VARIANT_ID"]) {
			return d
		}
	}
	name := ids["PRETTY_NAME"]
	if name == "" || n.InPod {
		name = "not recognised"
	}
	return distribution{
		Name: name, Overlay: "base", ConfDir: defaultConfDir, BinDir: defaultBinDir, KubeletRoot: defaultKubeletRoot,
	}
}

// osRelease reads os-release(5).
func (n *Node) osRelease() map[string]string {
	out := map[string]string{}
	b, err := n.read("/etc/os-release")
	if err != nil {
		b, _ = n.read("/usr/lib/os-release") // the file is optional
	}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(key, "#") {
			out[key] = strings.Trim(value, `"'`)
		}
	}
	return out
}

var distributionCheck = Check{
	Name: "distribution", About: "the directories that Multus uses are those of this distribution",
	Run: func(_ context.Context, n *Node) ([]Finding, error) {
		if n.InPod {
			return nil, errors.New("the node's distribution is not visible in a container: run it on the node, or give --root")
		}
		s := n.setup()
		if s.daemon == nil && s.file == "" {
			return nil, nil
		}
		d := n.distribution()
		var out []Finding
		for _, dir := range []struct{ what, key, is, want string }{
			{"CNI configuration directory", "cniConfigDir", n.confDir(), d.ConfDir},
			{"plugin directory", "binDir", n.binDir(), d.BinDir},
		} {
			if n.real(dir.is) != n.real(dir.want) && n.exists(dir.want) {
				out = append(out, Finding{
					Severity: Error, Message: fmt.Sprintf("the %s is %s, not %s", dir.what, dir.want, dir.is),
					Evidence: fmt.Sprintf("%s, and %s exists", d.Name, dir.want),
					Fix:      fmt.Sprintf("kubectl apply -k %s, or set %s to %s", manifests(d.Overlay), dir.key, dir.want),
				})
			}
		}
		return out, nil
	},
}

// manifests returns the directory of the manifests for an overlay.
func manifests(overlay string) string {
	if overlay == "base" {
		return "deploy/base"
	}
	return "deploy/overlays/" + overlay
}
