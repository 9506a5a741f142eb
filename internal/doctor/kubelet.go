package doctor

import (
	"context"
	"errors"
	"path/filepath"
)

var kubeletCheck = Check{
	Name: "kubelet", About: "the kubelet's podresources are where Multus looks for devices",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		root := n.kubeletRoot()
		if hasKubeletFiles(n, root) {
			return nil, nil
		}
		for _, other := range []string{
			defaultKubeletRoot, "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet",
		} {
			if hasKubeletFiles(n, other) {
				return []Finding{{
					Severity: Error, Message: "the kubelet's directory is " + other + ", and Multus looks into " + root +
						": pods with devices fail",
					Evidence: filepath.Join(other, "pod-resources/kubelet.sock") + " exists",
					Fix:      "set kubeletRoot to " + other + " in the daemon's configuration",
				}}, nil
			}
		}
		networks, err := n.networks(ctx)
		for _, w := range networks {
			if w.definition != nil && w.definition.ResourceName != "" {
				return []Finding{{
					Severity: Error, Message: w.owner + " needs devices of " + w.definition.ResourceName +
						", and the kubelet's podresources cannot be found",
					Evidence: filepath.Join(root, "pod-resources/kubelet.sock") + " does not exist",
					Fix:      "look for --root-dir of the kubelet (ps -C kubelet -o args), and set kubeletRoot to it",
				}}, nil
			}
		}
		if n.InPod && err == nil {
			err = errors.New("the kubelet's directory is not mounted here")
		}
		return nil, err
	},
}

// hasKubeletFiles reports whether a directory is the kubelet's: it has the socket or the checkpoint file.
func hasKubeletFiles(n *Node, root string) bool {
	return n.exists(filepath.Join(root, "pod-resources/kubelet.sock")) ||
		n.exists(filepath.Join(root, "device-plugins/kubelet_internal_checkpoint"))
}
