package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryFiles are the files that have the memory limit of this process, by what /proc/self/cgroup says: those of
// control groups version 2, in a container, where the group is the root, and outside, and that of version 1 in a
// container.
func memoryFiles(groups string) []string {
	out := []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}
	for line := range strings.Lines(groups) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok && path != "" {
			out = append([]string{filepath.Join("/sys/fs/cgroup", filepath.Join("/", path), "memory.max")}, out...)
		}
	}
	return out
}

// limitMemory makes the garbage collector work harder before the container's memory limit is reached, at which the
// kernel ends the daemon: by itself it lets garbage grow to the size of what is in use. GOMEMLIMIT in the environment
// wins.
func limitMemory(getenv func(string) string, files []string, log *slog.Logger) {
	if getenv("GOMEMLIMIT") != "" {
		return
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		limit, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err != nil || limit < 16<<20 || limit > 1<<40 {
			return // "max", or a number that stands for no limit
		}
		debug.SetMemoryLimit(limit / 10 * 8)
		log.Debug("memory limit", "container", limit, "collector", limit/10*8)
		return
	}
}
