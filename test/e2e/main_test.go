// Package e2e tests the main features with real parts: an API server, CNI plugins, network namespaces, and libcni as
// the runtime, for both deployments, thin and thick.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
)

var cluster *kubetest.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse() // kubetest reads -short
	dir, err := os.MkdirTemp("", "multus-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	defer node.Cleanup()
	c, stop, err := kubetest.StartFor(dir)
	if err == nil {
		defer stop()
		cluster = c
	} else {
		fmt.Fprintln(os.Stderr, "no API server:", err)
	}
	return m.Run()
}

// server returns the API server, or skips the test if no API server was built.
func server(t *testing.T) *kubetest.Cluster {
	t.Helper()
	if cluster == nil {
		t.Skip("no API server: run make tools")
	}
	return cluster
}
