package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// initName is argv[0] of a copy of the running program that acts as the node's first process.
const initName = "multus-test-node-init"

// layout is the argument of the node's first process.
type layout struct {
	Root     string // the directory that becomes /
	Tools    string // the directory of the cluster's programs
	Volumes  string // directories that stay writable if / is read-only
	ReadOnly bool
	Shared   bool
	Name     string
	Address  string
	Service  bool // whether the node has the service address of the API server
}

// Main must be called first in main and TestMain of programs that start clusters. The node's first process is a copy of
// the same program. In that process Main does not return.
func Main() {
	if filepath.Base(os.Args[0]) != initName {
		return
	}
	if err := runInit(os.Args[1]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	reap()
}

func runInit(arg string) error {
	var l layout
	if err := json.Unmarshal([]byte(arg), &l); err != nil {
		return fmt.Errorf("parse layout: %w", err)
	}
	if err := unix.Sethostname([]byte(l.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := l.mount(); err != nil {
		return err
	}
	return l.configureNetwork()
}

// reap waits for orphaned processes of the node, without end. A killed server leaves children, and containerd's shims
// are orphans by design.
func reap() {
	child := make(chan os.Signal, 16)
	signal.Notify(child, unix.SIGCHLD)
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	for range child {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
	}
}

// bootID is the file in /proc/sys with the ID of this boot. The node has a file of its own there, so that Reboot can
// change it.
const bootID = "kernel/random/boot_id"

func tunableFile(name string) string { return strings.ReplaceAll(name, "/", "-") }

// tunables are the values that the kubelet checks in /proc/sys and would otherwise write. The real ones belong to the
// whole machine.
var tunables = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// writable are the directories that stay writable on a node with a read-only root. Each is a mount of its own.
var writable = []string{"var", "etc/cni", "opt/cni"}

// mount creates the node's file system: a root of its own that contains the machine's programs, read-only. Of the
// machine's file systems that can be written it contains only /dev and /sys, with the control groups.
func (l layout) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := bind(l.Root, l.Root, 0); err != nil {
		return err
	}
	for _, dir := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc/alternatives"} {
		if err := l.system(dir); err != nil {
			return err
		}
	}
	if err := bind(l.Tools, l.at(toolDir), unix.MS_RDONLY); err != nil {
		return err
	}
	for _, dir := range writable {
		from := filepath.Join(l.Volumes, strings.ReplaceAll(dir, "/", "-"))
		if err := bind(from, l.at(dir), 0); err != nil {
			return err
		}
	}
	for _, dir := range []string{"dev", "sys"} {
		if err := mountAt("/"+dir, l.at(dir), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	for _, dir := range []string{"run", "tmp"} {
		if err := mountAt("tmpfs", l.at(dir), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
			return err
		}
	}
	if err := mountAt("proc", l.at("proc"), "proc", 0, ""); err != nil {
		return err
	}
	if err := l.coverTunables(); err != nil {
		return err
	}
	return l.pivot()
}

// system makes a directory or a symbolic link of the machine visible at the same place in the node.
func (l layout) system(dir string) error {
	info, err := os.Lstat("/" + dir)
	if err != nil {
		return nil //nolint:nilerr // not every machine has all of them
	}
	if info.Mode()&os.ModeSymlink == 0 {
		return bind("/"+dir, l.at(dir), unix.MS_RDONLY)
	}
	target, err := os.Readlink("/" + dir)
	if err != nil {
		return fmt.Errorf("read link: %w", err)
	}
	if err := os.Symlink(target, l.at(dir)); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make link: %w", err)
	}
	return nil
}

// coverTunables mounts files with the values that the kubelet expects over the tunables.
func (l layout) coverTunables() error {
	values := maps.Clone(tunables)
	values[bootID] = newBootID()
	for name, value := range values {
		file := filepath.Join(l.Volumes, tunableFile(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			return fmt.Errorf("write tunable: %w", err)
		}
		target := filepath.Join(l.at("proc/sys"), name)
		if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", name, err)
		}
	}
	return nil
}

func (l layout) pivot() error {
	if err := os.Chdir(l.Root); err != nil {
		return fmt.Errorf("change directory: %w", err)
	}
	// The old root is stacked on the new one at "." and is unmounted from there.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("change directory: %w", err)
	}
	if l.Shared {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
			return fmt.Errorf("make mounts shared: %w", err)
		}
	}
	if l.ReadOnly {
		if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make root read-only: %w", err)
		}
	}
	return nil
}

func (l layout) at(dir string) string { return filepath.Join(l.Root, dir) }

func bind(from, to string, flags uintptr) error {
	if err := mountAt(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil || flags == 0 {
		return err
	}
	if err := unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("remount %s: %w", to, err)
	}
	return nil
}

func mountAt(from, to, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if err := unix.Mount(from, to, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", from, to, err)
	}
	return nil
}

// configureNetwork adds the node's address, the service address of the API server (there is no kube-proxy), and a link
// that additional networks may use as master.
func (l layout) configureNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if l.Service {
		if err := address(lo, serviceIP+"/32"); err != nil {
			return err
		}
	}
	for _, name := range []string{"node0", Uplink} {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-far"}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("add %s: %w", name, err)
		}
		for _, end := range []string{name, name + "-far"} {
			half, err := netlink.LinkByName(end)
			if err != nil {
				return fmt.Errorf("find %s: %w", end, err)
			}
			if err := netlink.LinkSetUp(half); err != nil {
				return fmt.Errorf("set %s up: %w", end, err)
			}
		}
	}
	node, err := netlink.LinkByName("node0")
	if err != nil {
		return fmt.Errorf("find node0: %w", err)
	}
	return address(node, l.Address+"/24")
}

func address(l netlink.Link, a string) error {
	parsed, err := netlink.ParseAddr(a)
	if err != nil {
		return fmt.Errorf("parse address: %w", err)
	}
	if err := netlink.AddrAdd(l, parsed); err != nil {
		return fmt.Errorf("add address %s: %w", a, err)
	}
	return nil
}
