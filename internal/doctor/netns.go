package doctor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"multus/internal/engine/ledger"
)

var netnsCheck = Check{
	Name: "netns", About: "/var/run/netns and /run/netns are one directory, which has the runtime's network namespaces",
	Run: func(_ context.Context, n *Node) ([]Finding, error) {
		if n.InPod {
			return nil, errors.New("the node's /run is not visible in a container: run it on the node, or give --root")
		}
		var out []Finding
		if n.real("/var/run/netns") != n.real("/run/netns") {
			out = append(out, Finding{
				Severity: Error, Message: "/var/run/netns and /run/netns are two directories: a program that uses the other one " +
					"finds no network namespace",
				Evidence: fmt.Sprintf("/var/run leads to %s, not to /run", n.real("/var/run")),
				Fix:      "on a drained node: rm -rf /var/run && ln -s /run /var/run, and reboot",
			})
		}
		if table, err := n.mountTable(); err == nil && mountOf(table, n.real("/run/netns")).has("ro") {
			out = append(out, Finding{
				Severity: Error, Message: "network namespaces cannot be created in /run/netns",
				Evidence: "it is on a read-only mount",
				Fix:      "mount -o remount,rw " + mountOf(table, n.real("/run/netns")).point,
			})
		}
		return append(out, unusualNetnsDir(n)...), nil
	},
}

// unusualNetnsDir reports network namespaces in unusual directories. The records of the ledger have their paths.
func unusualNetnsDir(n *Node) []Finding {
	store := n.ledger()
	ids, err := store.Containers()
	if err != nil {
		return nil // the ledger check reports the error
	}
	usual := []string{n.real("/run/netns"), n.real("/var/run/netns")}
	for _, id := range ids {
		r, _ := store.Inspect(id, ledger.DefaultIfName) // the ledger check reports damaged records
		if r == nil || r.Netns == "" || filepath.Dir(r.Netns) == "/" {
			continue
		}
		dir := n.real(filepath.Dir(r.Netns))
		if proc, _ := filepath.Match("/proc/*/ns", dir); !proc && !slices.Contains(usual, dir) {
			return []Finding{{
				Severity: Warning, Message: "the runtime keeps network namespaces in " + dir + ", where other tools do not look",
				Evidence: fmt.Sprintf("container %s has %s", id, r.Netns),
				Fix:      "containerd: netns_mounts_under_state_dir = false; CRI-O: namespaces_dir = \"/var/run\"",
			}}
		}
	}
	return nil
}
