package daemon

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
)

// TestLimitMemory checks that the limit of the garbage collector is below that of the container, if there is one.
func TestLimitMemory(t *testing.T) { //nolint:paralleltest // the limit is that of the process
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	dir := t.TempDir()
	for _, tc := range []struct {
		file, env string
		want      int64
	}{
		{"268435456\n", "", 214748360},
		{"268435456\n", "1GiB", math.MaxInt64},
		{"max\n", "", math.MaxInt64},
		{"9223372036854771712\n", "", math.MaxInt64},
		{"", "", math.MaxInt64},
	} {
		debug.SetMemoryLimit(math.MaxInt64)
		file := filepath.Join(dir, "memory.max")
		if err := os.WriteFile(file, []byte(tc.file), 0o600); err != nil {
			t.Fatal(err)
		}
		limitMemory(func(string) string { return tc.env }, []string{filepath.Join(dir, "missing"), file},
			slog.New(slog.DiscardHandler))
		if got := debug.SetMemoryLimit(-1); got != tc.want {
			t.Errorf("%q, GOMEMLIMIT=%q: %d, want %d", tc.file, tc.env, got, tc.want)
		}
	}
}

// TestMemoryFiles checks that the files are those of the process's own group, in a container and outside.
func TestMemoryFiles(t *testing.T) {
	t.Parallel()
	container := []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}
	for groups, want := range map[string][]string{
		"":       container,
		"0::/\n": container,
		"1:name=systemd:/x\n0::/system.slice/multus.service\n": append(
			[]string{"/sys/fs/cgroup/system.slice/multus.service/memory.max"}, container...),
		"0::/../../etc\n": append([]string{"/sys/fs/cgroup/etc/memory.max"}, container...),
	} {
		if got := memoryFiles(groups); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", groups, got, want)
		}
	}
}
