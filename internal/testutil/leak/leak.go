// Package leak makes a test binary fail if its tests leave something behind: file descriptors, goroutines or mounts
// of network namespaces (style.md rule 33).
//
// It does not look into single tests, and it does not find what outlives the process anyway, such as children.
//
// Any test package may import it, from TestMain only; no program may.
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
	// settleLimit is how long goroutines that have been told to end, and what they hold open, may take.
	settleLimit = 2 * time.Second
	// settleStep is how often that is looked at; only a binary that leaks pays for more than a few steps.
	settleStep = 5 * time.Millisecond
)

// Main is for TestMain: it runs the tests and exits, with 1 and the list on standard error if there are
// descriptors, goroutines or mounts that were not there before.
//
// Test binaries of several packages run at the same time in one mount namespace and cannot tell each other's mounts
// apart. So Main gives the binary a temporary directory of its own (TMPDIR, hence t.TempDir as well) and looks only
// at mounts in there. Leaked ones are unmounted after they have been reported.
func Main(m *testing.M) {
	os.Exit(run(m, os.Stderr))
}

// run exists for its deferred clean-up, which os.Exit would skip.
func run(m *testing.M, stderr *os.File) (code int) {
	dir, err := os.MkdirTemp("", "mt")
	if err == nil {
		// The poller's own descriptors stay once they exist: have them exist before the first look.
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

// snapshot maps what a thing is and which one ("fd 7", "goroutine 12", "mount /tmp/x") to what is known of it.
type snapshot map[string]string

// settle waits until nothing is there that was not there before, or for settleLimit, and returns the rest.
func settle(dir string, before snapshot) (snapshot, error) {
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(settleStep) {
		leaked, err := look(dir)
		if err != nil {
			return nil, err
		}
		maps.DeleteFunc(leaked, func(key, what string) bool {
			was, there := before[key]
			// A goroutine's stack changes; a descriptor number with another target is another descriptor.
			return there && (was == what || !strings.HasPrefix(key, "fd "))
		})
		if len(leaked) == 0 || time.Now().After(deadline) {
			return leaked, nil
		}
	}
}

// look lists what there is now; of mounts, those below dir.
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

// goroutines adds every goroutine but the one that asks.
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
			continue // the first is the caller; os/signal starts one goroutine for good at the first Notify
		}
		found[string(head)] = string(stack)
	}
}

// descriptors adds every open descriptor but the one that reads the list.
func descriptors(found snapshot) error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue // the descriptor of the listing itself, closed by now
		}
		found["fd "+entry.Name()] = target
	}
	return nil
}

// namespaceMounts lists the mount points of namespaces below dir.
func namespaceMounts(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(table)) {
		// "36 35 0:4 net:[4026532281] /mount/point rw - nsfs nsfs rw": proc(5)
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

// unescape undoes the octal escapes (\040 for a blank) of mountinfo.
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

// unmount clears leaked mounts away, so that one broken test does not break the runs after it.
func unmount(dir string) {
	mounts, _ := namespaceMounts(dir) // the leak has been reported; this is a courtesy
	for _, mount := range mounts {
		_ = unix.Unmount(mount, unix.MNT_DETACH)
	}
}

// startPoller has the runtime open its epoll descriptors.
func startPoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	r.Close()
	return w.Close()
}
