// Package neighbours runs Multus with software of other projects: the reference plugins, whereabouts with its
// reconciler, and container runtimes, whose calls are made as CRI-O and containerd make them. A stand-in (standin)
// replaces what cannot be built from the Go module proxy. docs/ecosystem.md is generated from the table of this
// package.
package neighbours

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
)

var (
	cluster *kubetest.Cluster
	// standin is the path of the program that replaces plugins.
	standin string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse() // kubetest reads -short
	dir, err := os.MkdirTemp("", "multus-neighbours-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	defer node.Cleanup()
	if err := buildStandin(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, stop, err := kubetest.StartFor(dir)
	if err == nil {
		defer stop()
		cluster = c
	} else {
		fmt.Fprintln(os.Stderr, "no API server:", err)
	}
	return m.Run()
}

// buildStandin builds the stand-in. It does nothing if all tests that need it are skipped.
func buildStandin(dir string) error {
	if testing.Short() || os.Geteuid() != 0 {
		return nil
	}
	standin = filepath.Join(dir, "standin")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", standin,
		"multus/test/neighbours/standin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the stand-in: %w: %s", err, out)
	}
	return nil
}
