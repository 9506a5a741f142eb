// Package node has facts of the node that programs of Multus agree on: where the locks of sandboxes are, and which boot
// this is. It has no other state and decides nothing. The hosts and the tools import it.
package node

import (
	"os"
	"strings"
)

// LockFile has the locks of all sandboxes of the node. /run is writable on every system, and empty after a reboot. The
// file is not in the directory of the daemon's socket, because pods mount that directory, and any process that can open
// a file can lock it, even if it can only read it.
const LockFile = "/run/multus-lock/locks"

// Boot returns the kernel's ID of the current boot, or "" if it cannot be read.
func Boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
