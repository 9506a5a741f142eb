package realnode

import (
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"multus/internal/testutil/cluster"
)

// TestRestarts restarts the kubelet and the container runtime while pods start and while they are deleted. All pods get
// their networks, no pod ever runs without them, a pod that was there before keeps its own, and nothing is left of
// deleted pods.
func TestRestarts(t *testing.T) {
	n := start(t, cluster.Options{})
	n.install(t, nodeBase)
	n.twoNetworks(t) // the first pod creates the cluster network's bridge, which stays
	for _, tt := range []struct {
		name, server string
		signal       syscall.Signal
	}{
		{"kubelet terminated", "kubelet", syscall.SIGTERM},
		{"kubelet killed", "kubelet", syscall.SIGKILL},
		{"containerd terminated", "containerd", syscall.SIGTERM},
		{"containerd killed", "containerd", syscall.SIGKILL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, err := n.links(t)
			if err != nil {
				t.Fatal(err)
			}
			n.throughout(t,
				func(t *testing.T) { n.restart(t, tt.server, tt.signal, many) },
				func(t *testing.T) { n.restart(t, tt.server, tt.signal, -many) })
			until(t, "links as before", func() error {
				after, err := n.links(t)
				if err == nil && !slices.Equal(after, before) {
					err = fmt.Errorf("had %q, has %q", before, after)
				}
				return err
			})
		})
	}
}

// restart restarts a server three times while pods start or are deleted: each time when the number of records and
// addresses has changed by another step. step is negative if pods are deleted. A pod has four of them.
func (n *node) restart(t *testing.T, server string, signal syscall.Signal, step int) {
	t.Helper()
	before := len(n.held(t))
	for quarter := 1; quarter < 4; quarter++ {
		until(t, fmt.Sprintf("%+d records and addresses", quarter*step), func() error {
			held := len(n.held(t))
			if (held-before)/step < quarter {
				return fmt.Errorf("there are %d, there were %d", held, before)
			}
			return nil
		})
		if err := n.Restart(t.Context(), server, signal); err != nil {
			t.Fatal(err)
		}
	}
}

// links returns the links of the node, and those of its pods' network namespaces as "namespace/link", sorted. It leaves
// out namespaces that have only the loopback device, and files without a namespace. containerd leaves both behind, with
// or without Multus, for sandboxes that were not complete when it ended.
func (n *node) links(t *testing.T) ([]string, error) {
	t.Helper()
	all, err := linksOf(fmt.Sprintf("/proc/%d/ns/net", n.Pid()))
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(n.Path("/run/netns/*"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		var fs unix.Statfs_t
		if err := unix.Statfs(file, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
			continue
		}
		names, err := linksOf(file)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if name != "lo" {
				all = append(all, filepath.Base(file)+"/"+name)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// linksOf returns the links of a network namespace.
func linksOf(file string) ([]string, error) {
	ns, err := netns.GetFromPath(file)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", file, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", file, err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links of %s: %w", file, err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, nil
}
