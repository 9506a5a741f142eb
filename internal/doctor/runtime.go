package doctor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// runtimeFiles are the configurations of container runtimes, as patterns.
var runtimeFiles = []string{
	"/etc/containerd/config.toml", "/etc/containerd/conf.d/*.toml",
	"/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
	"/var/lib/rancher/rke2/agent/etc/containerd/config.toml", "/var/snap/microk8s/current/args/containerd.toml",
	"/etc/k0s/containerd.toml",
	"/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*",
}

// directories matches the keys that name CNI directories: containerd's conf_dir, bin_dir and bin_dirs, and CRI-O's
// network_dir and plugin_dirs. A comment begins with # and does not match. A list may have several lines.
var directories = regexp.MustCompile(
	`(?m)^\s*(conf_dir|network_dir|bin_dirs?|plugin_dirs)\s*=\s*(\[[^\]]*\]|"[^"]*"|'[^']*')`)

// quoted matches the strings of a TOML value.
var quoted = regexp.MustCompile(`"([^"]*)"|'([^']*)'`)

var runtimeCheck = Check{
	Name: "runtime", About: "the container runtime looks where Multus puts its configuration and its plugins",
	Run: func(_ context.Context, n *Node) ([]Finding, error) {
		if n.InPod {
			return nil, errors.New("the runtime's configuration is not visible in a container: run it on the node, or give " +
				"--root")
		}
		files := n.runtimeFiles()
		if len(files) == 0 {
			return nil, errors.New("no configuration of containerd or CRI-O is on this node")
		}
		var out []Finding
		for _, file := range files {
			b, err := n.read(file)
			if err != nil {
				continue
			}
			for _, m := range directories.FindAllSubmatch(b, -1) {
				if f := wrongRuntimeDir(n, file, string(m[1]), texts(m[2])); f != nil {
					out = append(out, *f)
				}
			}
		}
		return out, nil
	},
}

// runtimeFiles returns the files that exist.
func (n *Node) runtimeFiles() []string {
	var out []string
	for _, pattern := range runtimeFiles {
		dir, base := filepath.Split(pattern)
		names, _ := n.list(dir) // a directory that cannot be listed counts as empty
		for _, name := range names {
			if ok, _ := filepath.Match(base, name); ok {
				out = append(out, filepath.Join(dir, name))
			}
		}
	}
	return out
}

func texts(value []byte) []string {
	var out []string
	for _, m := range quoted.FindAllSubmatch(value, -1) {
		out = append(out, string(m[1])+string(m[2]))
	}
	return out
}

// wrongRuntimeDir reports that none of the directories in which the runtime looks is that of Multus.
func wrongRuntimeDir(n *Node, file, key string, dirs []string) *Finding {
	what, want, ours := "CNI configuration", n.confDir(), "cniConfigDir"
	if strings.HasPrefix(key, "bin_") || key == "plugin_dirs" {
		what, want, ours = "plugins", n.binDir(), "binDir"
	}
	dirs = slices.DeleteFunc(dirs, func(d string) bool { return d == "" })
	if len(dirs) == 0 || slices.ContainsFunc(dirs, func(d string) bool { return n.real(d) == n.real(want) }) {
		return nil
	}
	return &Finding{
		Severity: Error, Message: fmt.Sprintf("the runtime looks for its %s in %s, and Multus puts it into %s", what,
			strings.Join(dirs, ", "), want),
		Evidence: fmt.Sprintf("%s: %s", file, key),
		Fix: fmt.Sprintf("set %s to %s in the daemon's configuration and in its mounts, or %s in %s", ours, dirs[0], key,
			file),
	}
}
