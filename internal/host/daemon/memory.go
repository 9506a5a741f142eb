package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryFiles returns the files that may hold the memory limit of this process, given the content of /proc/self/cgroup.
// With cgroup v2 the file is that of the process's own group outside a container, and that of the root group inside.
// The last file is that of cgroup v1 in a container.
func memoryFiles(groups string) []string {
	out := []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}
	for line := range strings.Lines(groups) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok && path != "" {
			out = append([]string{filepath.Join("/sys/fs/cgroup", filepath.Join("/", path), "memory.max")}, out...)
		}
	}
	return out
}

// limitMemory sets the memory limit of the garbage collector to 80 % of the container's limit. Without it, the heap may
// grow to twice its live size before a collection, and the kernel kills the daemon at the container's limit. GOMEMLIMIT
// in the environment takes precedence.
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
			return // "max", or a number that means "no limit"
		}
		debug.SetMemoryLimit(limit / 10 * 8)
		log.Debug("memory limit", "container", limit, "collector", limit/10*8)
		return
	}
}
