package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// steps are the steps of one call.
type steps struct {
	Kind     node.Kind `json:"kind"`
	Networks int       `json:"networks"`
	Verb     string    `json:"verb"`
	// Execs is the number of delegates that are run, Writes the number of files that are written with fsync.
	Execs  int `json:"execs"`
	Writes int `json:"writes"`
}

// stable are the figures that do not depend on the machine. A change that increases one must change it here.
var stable = []steps{
	{node.Thin, 0, "ADD", 1, 1},
	{node.Thin, 0, "DEL", 1, 0},
	{node.Thin, 2, "ADD", 3, 1},
	{node.Thin, 2, "DEL", 3, 0},
	{node.Thick, 0, "ADD", 1, 1},
	{node.Thick, 0, "DEL", 1, 0},
	{node.Thick, 2, "ADD", 3, 1},
	{node.Thick, 2, "DEL", 3, 0},
}

// TestStable counts the steps of one ADD and one DEL, and what an ADD starts, so that no change adds a step, a process
// or a thread for every pod unnoticed.
func TestStable(t *testing.T) {
	testnet.RequireRoot(t)
	cluster := kubetest.Start(t)
	cluster.CreateNamespace(t, namespace)
	t.Run("steps", func(t *testing.T) {
		if d := cmp.Diff(stable, countSteps(t, cluster)); d != "" {
			t.Errorf("steps of a call (-they were +they are):\n%s", d)
		}
	})
	t.Run("started", func(t *testing.T) { checkStarted(t, cluster) })
}

// failpointBinaries builds binaries that trace the points that they pass.
func failpointBinaries(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	build(t, bin+"/", "-tags", "failpoint", "multus/cmd/...", "multus/internal/testutil/fakeplugin")
	return bin
}

// countSteps counts the steps with binaries that trace them.
func countSteps(t *testing.T, cluster *kubetest.Cluster) []steps {
	t.Helper()
	bin := failpointBinaries(t)
	var out []steps
	for _, kind := range node.Kinds {
		s := newSubject(t, "stable-"+string(kind), kind, programs{bin: bin}, noop, cluster, nil)
		for _, networks := range []int{0, 2} {
			p := s.pod(t, noop, fmt.Sprintf("stable-%s-%d", kind, networks), networks, cluster)
			must(t, s.add(t, p, networks)) // the first ADD records the networks
			must(t, s.del(t, p, networks))
			for _, verb := range []string{"ADD", "DEL"} {
				trace := filepath.Join(t.TempDir(), "trace")
				t.Setenv("MULTUS_FAILPOINT_TRACE", trace)
				do := s.add
				if verb == "DEL" {
					do = s.del
				}
				must(t, do(t, p, networks))
				b, err := os.ReadFile(trace)
				must(t, err)
				out = append(out, steps{
					kind, networks, verb, strings.Count(string(b), "exec.started\n"),
					strings.Count(string(b), "fsx.renamed\n"),
				})
			}
			t.Setenv("MULTUS_FAILPOINT_TRACE", "")
		}
	}
	return out
}
