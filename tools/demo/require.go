package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// binaries maps the paths of installed binaries on the node to their paths below bin/.
var binaries = map[string]string{
	"/usr/bin/multus-daemon":   "multus-daemon",
	"/opt/cni/bin/multus-shim": "multus-shim",
	"/opt/cni/bin/bridge":      "cni/bridge",
	"/opt/cni/bin/host-device": "cni/host-device",
	"/opt/cni/bin/host-local":  "cni/host-local",
	"/opt/cni/bin/macvlan":     "cni/macvlan",
	"/opt/cni/bin/portmap":     "cni/portmap",
	"/opt/cni/bin/static":      "cni/static",
}

// missingOnHost returns the missing requirements that can be checked before the node exists.
func missingOnHost(o *options) []string {
	var missing []string
	if uid := os.Geteuid(); uid != 0 {
		missing = append(missing, fmt.Sprintf(
			"it needs root, to make network namespaces and interfaces, and runs as uid %d: sudo make demo", uid))
	} else {
		missing = append(missing, missingCapabilities()...)
	}
	for _, kind := range []string{"net", "mnt", "pid"} {
		if _, err := os.Stat("/proc/self/ns/" + kind); err != nil {
			missing = append(missing, fmt.Sprintf("the kernel has no namespaces of kind %s, or /proc is not mounted: %v", kind,
				err))
		}
	}
	for _, file := range binaries {
		path := filepath.Join(o.bin, file)
		info, err := os.Stat(path)
		if err == nil && (info.IsDir() || info.Mode()&0o111 == 0) {
			err = fmt.Errorf("%s is not executable", path)
		}
		if err != nil {
			missing = append(missing, fmt.Sprintf("a binary is missing (%v): make build bin/cni", err))
		}
	}
	for _, file := range []string{clusterFile, daemonFile, podFile} {
		if _, err := os.Stat(filepath.Join(o.examples, file)); err != nil {
			missing = append(missing, fmt.Sprintf("an example is missing (%v)", err))
		}
	}
	slices.Sort(missing)
	return missing
}

// missingCapabilities returns what root lacks in an unprivileged container.
func missingCapabilities() []string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData // 64 bits in two halves; those below are in the first one
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return []string{fmt.Sprintf("its capabilities cannot be read: %v", err)}
	}
	var names []string
	for bit, name := range map[int]string{
		unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN",
		unix.CAP_NET_RAW: "CAP_NET_RAW", unix.CAP_SYS_CHROOT: "CAP_SYS_CHROOT",
	} {
		if caps[0].Effective&(1<<bit) == 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return []string{"root has no " + strings.Join(names, ", ") + " here; in a container, it has to be a privileged one"}
}

// missingInKernel tries to create each kind of interface in a temporary namespace.
func missingInKernel() ([]string, error) {
	ns, err := newNamespace("try")
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, link := range []netlink.Link{
		&netlink.Veth{LinkAttrs: named("veth"), PeerName: "peer"},
		&netlink.Bridge{LinkAttrs: named("bridge")},
		&netlink.Macvlan{LinkAttrs: named("macvlan"), Mode: netlink.MACVLAN_MODE_BRIDGE},
	} {
		kind := link.Type()
		if kind == "macvlan" {
			parent, err := ns.LinkByName("veth")
			if err != nil {
				missing = append(missing, "macvlan could not be tested, which needs another interface below it")
				continue
			}
			link.Attrs().ParentIndex = parent.Attrs().Index
		}
		if err := ns.LinkAdd(link); err != nil {
			missing = append(missing, fmt.Sprintf("the kernel %s has no interfaces of kind %s (%v): CONFIG_%s, module %s",
				kernel(), kind, err, strings.ToUpper(kind), kind))
		}
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		missing = append(missing, "the kernel has no IPv6, or it is disabled (ipv6.disable=1 on the kernel's command line)")
	}
	return missing, errors.Join(ns.remove())
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

// kernel returns the kernel release, as uname -r prints it.
func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "of this machine"
	}
	return unix.ByteSliceToString(name.Release[:])
}
