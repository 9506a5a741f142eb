package install

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	inNodeFlag = "in-node"
	// nodePID is the node's first process, in whose mount namespace container runtimes run.
	nodePID = 1
	// nodePath is the PATH in which plugins find the node's programs (iptables), unless the environment has another one.
	nodePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// enterNode executes this program again in the mount namespace of another process, with the same arguments but without
// the flag inNodeFlag: CNI plugins must see the file system that those of the runtime see (docs/architecture.md). It
// requires the node's PID namespace and CAP_SYS_ADMIN. It returns only if it fails.
func enterNode(pid int) error {
	runtime.LockOSThread() // never unlocked: this thread executes the program
	// Threads share the root and working directory. A thread that shares them cannot change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system attributes: %w", err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the node's mount namespace: %w; the pod needs hostPID", err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the node's mount namespace: %w; the pod must be privileged", err)
	}
	env := os.Environ()
	if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }) {
		env = append(env, nodePath)
	}
	// The last of several equal flags counts. The program is not in the node's file system, but this link leads to it.
	args := append(slices.Clone(os.Args), "--"+inNodeFlag+"=false")
	if err := unix.Exec("/proc/self/exe", args, env); err != nil {
		return fmt.Errorf("start again on the node: %w", err)
	}
	return nil
}
