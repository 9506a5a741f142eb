package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cgroup is a memory cgroup of version 1 or 2, below the test's own.
type cgroup struct {
	dir string
	v2  bool
}

// limitMemory puts a running process into a cgroup of its own. Where none can be made, the test goes on without: the
// process's memory is measured all the same.
func limitMemory(t *testing.T, pid, limit int) *cgroup {
	t.Helper()
	const top = "/sys/fs/cgroup"
	name := fmt.Sprintf("multus-faults-%d", os.Getpid())
	g := &cgroup{dir: filepath.Join(top, "memory", name)}
	file := "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(top, "cgroup.controllers")); err == nil {
		g, file = &cgroup{dir: filepath.Join(top, name), v2: true}, "memory.max"
	}
	err := os.Mkdir(g.dir, 0o755)
	if err == nil {
		t.Cleanup(func() { g.remove(t) })
		err = os.WriteFile(filepath.Join(g.dir, file), []byte(strconv.Itoa(limit)), 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
	}
	if err != nil {
		t.Logf("no memory cgroup here, the daemon's memory is only measured: %v", err)
		return nil
	}
	return g
}

// remove removes the cgroup once its process has ended, which is before the test's clean-up ends.
func (g *cgroup) remove(t *testing.T) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs")); err == nil {
		for pid := range strings.FieldsSeq(string(b)) {
			_ = os.WriteFile(filepath.Join(filepath.Dir(g.dir), "cgroup.procs"), []byte(pid), 0o644)
		}
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
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
		t.Skip("no memory cgroup can be made here")
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

// kills is how many of its processes the kernel has killed because the memory was used up.
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
