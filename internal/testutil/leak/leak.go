// Package leak makes a test binary fail if its tests leak file descriptors, goroutines or mounts of network namespaces.
//
// It compares the state before and after all tests of the binary, not after each test. It does not find what outlives
// the process, such as children.
//
// Any test package may import it, for TestMain only. Programs may not.
package leak

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settleLimit bounds how long goroutines may take to end after the tests, and to close what they hold open.
	settleLimit = 2 * time.Second
	// settleStep is the interval of the checks. Only a binary with leaks needs more than a few of them.
	settleStep = 5 * time.Millisecond
)

// Main is called by TestMain. It runs the tests and exits. If there are descriptors, goroutines or mounts that did not
// exist before, it lists them on standard error and exits with 1.
//
// The test binaries of several packages run at the same time in one mount namespace, where the owner of a mount cannot
// be determined. So Main sets TMPDIR, on which t.TempDir depends, to a new temporary directory and checks only mounts
// below it. Leaked mounts are reported and then unmounted.
func Main(m *testing.M) {
	os.Exit(run(m, os.Stderr))
}

// run is a separate function because os.Exit would skip its deferred cleanup.
func run(m *testing.M, stderr *os.File) (code int) {
	dir, err := os.MkdirTemp("", "mt")
	if err == nil {
		// The descriptors of the runtime's poller stay open once they exist. Create them before the first snapshot.
		err = startPoller()
	}
	if err == nil {
		err = os.Setenv("TMPDIR", dir)
	}
	if err != nil {
		fmt.Fprintln(stderr, "leak: prepare:", err)
		return 1
	}
	defer os.RemoveAll(dir)

	before, err := look(dir)
	if err != nil {
		fmt.Fprintln(stderr, "leak: look before the tests:", err)
		return 1
	}
	code = m.Run()
	leaked, err := settle(dir, before)
	if err != nil {
		fmt.Fprintln(stderr, "leak: look after the tests:", err)
		return 1
	}
	if len(leaked) == 0 {
		return code
	}
	for _, key := range slices.Sorted(maps.Keys(leaked)) {
		fmt.Fprintf(stderr, "leak: %s %s\n", key, leaked[key])
	}
	unmount(dir)
	return 1
}

// snapshot maps kind and name of a resource ("fd 7", "goroutine 12", "mount /tmp/x") to a description.
type snapshot map[string]string

// settle waits until every resource was there before, at most settleLimit, and returns the leaked ones.
func settle(dir string, before snapshot) (snapshot, error) {
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(settleStep) {
		leaked, err := look(dir)
		if err != nil {
			return nil, err
		}
		maps.DeleteFunc(leaked, func(key, what string) bool {
			was, there := before[key]
			// The stack of a goroutine changes. A descriptor number with another target is another descriptor.
			return there && (was == what || !strings.HasPrefix(key, "fd "))
		})
		if len(leaked) == 0 || time.Now().After(deadline) {
			return leaked, nil
		}
	}
}

// look returns the current resources. Of the mounts it returns those below dir.
func look(dir string) (snapshot, error) {
	found := snapshot{}
	goroutines(found)
	if err := descriptors(found); err != nil {
		return nil, err
	}
	mounts, err := namespaceMounts(dir)
	if err != nil {
		return nil, err
	}
	for _, mount := range mounts {
		found["mount "+mount] = "(network namespace)"
	}
	return found, nil
}

// goroutines adds every goroutine except the calling one.
func goroutines(found snapshot) {
	stacks := make([]byte, 1<<16)
	for {
		n := runtime.Stack(stacks, true)
		if n < len(stacks) {
			stacks = stacks[:n]
			break
		}
		stacks = make([]byte, 2*len(stacks))
	}
	for i, stack := range bytes.Split(stacks, []byte("\n\n")) {
		head, _, _ := bytes.Cut(stack, []byte(" ["))
		if i == 0 || bytes.Contains(stack, []byte("os/signal.signal_recv")) {
			continue // the first is the caller; os/signal starts one goroutine at the first Notify that never ends
		}
		found[string(head)] = string(stack)
	}
}

// descriptors adds every open descriptor except the one that reads the directory.
func descriptors(found snapshot) error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue // the descriptor of the directory itself, closed by now
		}
		found["fd "+entry.Name()] = target
	}
	return nil
}

// namespaceMounts returns the mount points of network namespaces below dir.
func namespaceMounts(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(table)) {
		// The format is that of proc(5): 36 35 0:4 net:[4026532281] /mount/point rw - nsfs nsfs rw
		fields := strings.Fields(line)
		separator := slices.Index(fields, "-")
		if len(fields) < 5 || separator < 0 || separator+1 >= len(fields) || fields[separator+1] != "nsfs" {
			continue
		}
		if point := unescape(fields[4]); strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	return points, nil
}

// unescape decodes the octal escapes of mountinfo, such as \040 for a blank.
func unescape(field string) string {
	var out strings.Builder
	for i := 0; i < len(field); i++ {
		if field[i] == '\\' && i+4 <= len(field) {
			if c, err := strconv.ParseUint(field[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		out.WriteByte(field[i])
	}
	return out.String()
}

// unmount removes leaked mounts, so that they do not affect later runs.
func unmount(dir string) {
	mounts, _ := namespaceMounts(dir) // best effort: the leak has been reported
	for _, mount := range mounts {
		_ = unix.Unmount(mount, unix.MNT_DETACH)
	}
}

// startPoller makes the runtime open its epoll descriptors.
func startPoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	r.Close()
	return w.Close()
}
