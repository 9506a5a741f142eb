package doctor

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// maxCommandLine limits how much of a command line is read.
const maxCommandLine = 4 << 10

// controller is the program of multus-dynamic-networks-controller.
const controller = "dynamic-networks-controller"

// hotPlugController reports the controller that attaches networks to running pods through the daemon of today's Multus.
// With this daemon it fails, and writes an event about each failure.
func hotPlugController(n *Node) []Finding {
	if n.InPod {
		return nil // the processes of the node are not visible
	}
	files, err := filepath.Glob(n.path("/proc/[0-9]*/cmdline"))
	if err != nil {
		return nil
	}
	for _, file := range files {
		if name := programOf(file); strings.HasSuffix(name, controller) {
			return []Finding{{
				Severity: Warning,
				Message: "multus-dynamic-networks-controller runs on this node: it fails for every pod, since the daemon itself " +
					"changes the networks of running pods",
				Evidence: fmt.Sprintf("process %s is %s", filepath.Base(filepath.Dir(file)), name),
				Fix: "remove its DaemonSet (kubectl get ds -A | grep dynamic-networks), and set hotPlug in the daemon's " +
					"configuration file (deploy/components/hotplug), see docs/hot-plug.md",
			}}
		}
	}
	return nil
}

// programOf returns the base name of the program of a process, or "" if the process has ended.
func programOf(cmdline string) string {
	f, err := os.Open(cmdline)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, maxCommandLine)
	size, _ := f.Read(b) // a kernel thread has no command line
	name, _, _ := bytes.Cut(b[:size], []byte{0})
	return path.Base(string(name))
}
