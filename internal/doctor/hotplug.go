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
// With this daemon it fails, and users see only its events.
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
				Message: "multus-dynamic-networks-controller runs on this node: hot-plug is not supported, and it fails for " +
					"every pod",
				Evidence: fmt.Sprintf("process %s is %s", filepath.Base(filepath.Dir(file)), name),
				Fix: "remove its DaemonSet (kubectl get ds -A | grep dynamic-networks); a pod gets other networks when it is " +
					"created again, see docs/upgrade.md",
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
