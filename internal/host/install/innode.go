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
	// nodePID is the node's first process, in whose mount namespace container runtimes work.
	nodePID = 1
	// nodePath is where plugins find the node's programs (iptables), unless the environment says otherwise.
	nodePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// enterNode starts this program again in the mount namespace of another process, with the same arguments and without
// the flag that asks for it: CNI plugins must see the node as the runtime's do (architecture.md, decision 1). It needs
// the node's processes in sight and CAP_SYS_ADMIN, and returns only an error.
func enterNode(pid int) error {
	runtime.LockOSThread() // until this thread becomes the program
	// Threads share root and working directory; a thread that does cannot change its mount namespace.
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
	// The last of several equal flags wins. The program is not on the node, but this link leads to it.
	args := append(slices.Clone(os.Args), "--"+inNodeFlag+"=false")
	if err := unix.Exec("/proc/self/exe", args, env); err != nil {
		return fmt.Errorf("start again on the node: %w", err)
	}
	return nil
}
