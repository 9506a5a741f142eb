package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cgroup is a cgroup of version 1 or 2 below the root.
type cgroup struct {
	dir string
	v2  bool
}

// cgroups counts cgroups, so that each one has a name of its own.
var cgroups atomic.Int32

// newCgroup creates a cgroup of a controller that exists until the test ends.
func newCgroup(t *testing.T, controller string) (*cgroup, error) {
	t.Helper()
	const top = "/sys/fs/cgroup"
	name := fmt.Sprintf("multus-faults-%d-%d", os.Getpid(), cgroups.Add(1))
	g := &cgroup{dir: filepath.Join(top, controller, name)}
	if _, err := os.Stat(filepath.Join(top, "cgroup.controllers")); err == nil {
		g = &cgroup{dir: filepath.Join(top, name), v2: true}
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	t.Cleanup(func() { g.remove(t) })
	return g, nil
}

func (g *cgroup) set(file, value string) error {
	return os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0o644)
}

// limitMemory moves a running process into a cgroup of its own. If no cgroup can be created, the test continues without
// one, because it measures the memory of the process as well.
func limitMemory(t *testing.T, pid, limit int) *cgroup {
	t.Helper()
	g, err := newCgroup(t, "memory")
	if err == nil {
		file := "memory.limit_in_bytes"
		if g.v2 {
			file = "memory.max"
		}
		err = g.set(file, strconv.Itoa(limit))
	}
	if err == nil {
		err = g.set("cgroup.procs", strconv.Itoa(pid))
	}
	if err != nil {
		t.Logf("no memory cgroup here, the daemon's memory is only measured: %v", err)
		return nil
	}
	return g
}

// limitProcesses returns a cgroup whose pids.max can be set, without a limit at first, and the command that starts
// another command in it.
func limitProcesses(t *testing.T) (g *cgroup, wrap []string) {
	t.Helper()
	g, err := newCgroup(t, "pids")
	if err == nil {
		err = g.set("pids.max", "max")
	}
	if err != nil {
		t.Skipf("no cgroup that limits processes can be created here: %v", err)
	}
	return g, []string{"/bin/sh", "-c", fmt.Sprintf(`echo $$ >%q && exec "$0"`, filepath.Join(g.dir, "cgroup.procs"))}
}

// kill kills all processes of the cgroup, as the kernel does if memory is exhausted and memory.oom.group is set. It
// returns the number of processes.
func (g *cgroup) kill(t *testing.T) (n int) {
	t.Helper()
	waitFor(t, "the processes of the cgroup end", func() bool {
		pids := g.processes(t)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		n = max(n, len(pids))
		return len(pids) == 0
	})
	return n
}

// remove removes the cgroup. It waits until the processes in it have ended, which happens before the cleanup of the
// test ends.
func (g *cgroup) remove(t *testing.T) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs")); err == nil {
		for pid := range strings.FieldsSeq(string(b)) {
			_ = os.WriteFile(filepath.Join(filepath.Dir(g.dir), "cgroup.procs"), []byte(pid), 0o644)
		}
	}
	for end := time.Now().Add(waitTimeout); ; time.Sleep(10 * time.Millisecond) {
		err := os.Remove(g.dir)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Error(err)
			return
		}
	}
}

func (g *cgroup) processes(t *testing.T) []int {
	t.Helper()
	if g == nil {
		t.Skip("no cgroup can be created here")
	}
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	check(t, err)
	var out []int
	for f := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(f)
		check(t, err)
		out = append(out, pid)
	}
	return out
}

// kills returns how many processes of the cgroup the kernel has killed because memory was exhausted.
func (g *cgroup) kills(t *testing.T) int {
	t.Helper()
	file := "memory.oom_control"
	if g.v2 {
		file = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	check(t, err)
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, err := strconv.Atoi(strings.TrimSpace(n))
			check(t, err)
			return kills
		}
	}
	t.Fatalf("no oom_kill in %s", b)
	return 0
}
