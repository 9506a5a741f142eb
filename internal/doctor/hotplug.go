package doctor

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/version"

	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

// maxCommandLine limits how much of a command line is read.
const maxCommandLine = 4 << 10

// hotPlugCheck checks, with hotPlug in the daemon's file, that something starts a runner.
var hotPlugCheck = Check{
	Name: "hotplug", About: "the networks of running pods can be changed (hotPlug)",
	Run: func(_ context.Context, n *Node) ([]Finding, error) {
		s := n.setup()
		if s.daemon == nil || !s.daemon.HotPlug || s.file == "" {
			return nil, nil
		}
		if callsStatus, err := version.GreaterThanOrEqualTo(s.conf.CNIVersion, "1.1.0"); err != nil || callsStatus {
			return nil, nil //nolint:nilerr // the configuration check reports the version
		}
		if runs, visible := runnerRuns(n); runs || !visible {
			return nil, nil
		}
		return []Finding{{
			Severity: Warning,
			Message: "hotPlug is set, and changes of running pods wait for the ADD of another pod: the container runtime does " +
				"not call STATUS, and no runner runs",
			Evidence: fmt.Sprintf("%s has cniVersion %s", s.file, s.conf.CNIVersion),
			Fix: "leave cniVersion out of the daemon's configuration file, if the container runtime supports 1.1.0; otherwise " +
				"run the runner as a service, see docs/hot-plug.md",
		}}, nil
	},
}

// runnerRuns reports whether a runner runs on the node, and whether the processes of the node are visible.
func runnerRuns(n *Node) (runs, visible bool) {
	if n.InPod {
		return false, false
	}
	files, err := filepath.Glob(n.path("/proc/[0-9]*/cmdline"))
	if err != nil {
		return false, false
	}
	for _, file := range files {
		if words := commandOf(file); len(words) > 1 && path.Base(words[0]) == shim && words[1] == "runner" {
			return true, true
		}
	}
	return false, true
}

// controller is the program of multus-dynamic-networks-controller.
const controller = "dynamic-networks-controller"

// hotPlugController reports the controller that attaches networks to running pods through the daemon of today's Multus.
// Without hotPlug this daemon does not serve it: it fails, and writes an event about each failure. With hotPlug it
// works, and does what the daemon does.
func hotPlugController(n *Node) []Finding {
	s := n.setup()
	if n.InPod || s.daemon != nil && s.daemon.HotPlug {
		return nil // the processes of the node are not visible, or the controller is served
	}
	files, err := filepath.Glob(n.path("/proc/[0-9]*/cmdline"))
	if err != nil {
		return nil
	}
	for _, file := range files {
		words := commandOf(file)
		if len(words) == 0 {
			continue
		}
		if name := path.Base(words[0]); strings.HasSuffix(name, controller) {
			return []Finding{{
				Severity: Warning,
				Message: "multus-dynamic-networks-controller runs on this node: it fails for every pod, since the daemon serves " +
					"/delegate only with hotPlug",
				Evidence: fmt.Sprintf("process %s is %s", filepath.Base(filepath.Dir(file)), name),
				Fix: "set hotPlug in the daemon's configuration file (deploy/components/hotplug); the daemon then changes " +
					"running pods itself, too, and the controller's DaemonSet can be removed; see docs/hot-plug.md",
			}}
		}
	}
	return nil
}

// maxMissing limits how many pods a finding names.
const maxMissing = 5

// missingNetworks reports the pods that run without the networks that they request, as the daemon has found them.
func missingNetworks(ctx context.Context, c *client.Client, node string) []Finding {
	var found wirev1.MissingPods
	if c.Call(ctx, "GET", wirev1.PathMissing, nil, &found) != nil || len(found.Pods) == 0 {
		return nil // a daemon without hotPlug does not look for them
	}
	var names []string
	for i := range found.Pods[:min(len(found.Pods), maxMissing)] {
		m := &found.Pods[i]
		names = append(names, fmt.Sprintf("%s/%s (%s)", m.Pod.Namespace, m.Pod.Name, strings.Join(m.Networks, ", ")))
	}
	if more := len(found.Pods) - maxMissing; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return []Finding{{
		Severity: Error,
		Message:  fmt.Sprintf("%d pods run without the networks that they request", len(found.Pods)),
		Evidence: strings.Join(names, ", "),
		Fix: "kubectl multus status --node " + node + " lists all of them; delete them, or set repair in the daemon's " +
			"configuration file, see docs/repair.md",
	}}
}

// commandOf returns the command line of a process, or nil if the process has ended or is a kernel thread.
func commandOf(cmdline string) []string {
	f, err := os.Open(cmdline)
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, maxCommandLine)
	size, _ := f.Read(b)
	return strings.FieldsFunc(string(b[:size]), func(r rune) bool { return r == 0 })
}
