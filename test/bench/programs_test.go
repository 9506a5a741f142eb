package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// programs are the folders of the measured binaries. An empty name is that of the project's binaries or of the
// reference plugins, as they were built.
type programs struct{ bin, plugins string }

// installed copies the programs of a folder into a folder of the test, as an installation does. The copy matters: files
// that the linker has just written are fragmented in the page cache, and each start of them takes a quarter of a
// millisecond longer.
func installed(t *testing.T, from string) string {
	t.Helper()
	entries, err := os.ReadDir(from)
	must(t, err)
	to := t.TempDir()
	for _, e := range entries {
		if e.Type().IsRegular() {
			install(t, filepath.Join(from, e.Name()), to)
		}
	}
	return to
}

func install(t *testing.T, file, dir string) {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, filepath.Base(file)), b, 0o755))
}

// build builds programs as the Makefile does. what are packages, with flags before them.
func build(t *testing.T, out string, what ...string) {
	t.Helper()
	c := exec.Command("go", append([]string{
		"build", "-buildvcs=false", "-trimpath", "-gcflags=multus/...=-l", "-ldflags", "-s -w", "-o", out,
	}, what...)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build %v: %v: %s", what, err, b)
	}
}
