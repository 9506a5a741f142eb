package node

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultPath is the PATH in which plugins find the node's programs (iptables), unless the environment has another one.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Enter executes this program again in the mount namespace of the node's first process, in which container runtimes
// run: CNI plugins must see the file system that those of the runtime see (docs/architecture.md). The program is called
// from a container in the node's PID namespace with CAP_SYS_ADMIN. args begins with the name of the program. Enter
// returns only if it fails.
func Enter(args, env []string) error {
	runtime.LockOSThread() // never unlocked: this thread executes the program
	// Threads share the root and working directory. A thread that shares them cannot change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system attributes: %w", err)
	}
	fd, err := unix.Open("/proc/1/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the node's mount namespace: %w; the pod needs hostPID", err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the node's mount namespace: %w; the pod must be privileged", err)
	}
	if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }) {
		env = append(slices.Clone(env), defaultPath)
	}
	// The program is not in the node's file system, but this link leads to it.
	if err := unix.Exec("/proc/self/exe", args, env); err != nil {
		return fmt.Errorf("start again on the node: %w", err)
	}
	return nil
}
