package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"multus/test/kubetest"
	"multus/test/node"
	"multus/test/testnet"
)

// The figures that do not depend on the machine. A change that makes one worse has to say so here.
var stable = []struct {
	kind     node.Kind
	networks int
	verb     string
	// execs are the delegates that are run, writes the files that are written with fsync.
	execs, writes int
}{
	{node.Thick, 0, "ADD", 1, 1},
	{node.Thick, 0, "DEL", 1, 0},
	{node.Thick, 2, "ADD", 3, 1},
	{node.Thick, 2, "DEL", 3, 0},
	{node.Thin, 0, "ADD", 1, 1},
	{node.Thin, 0, "DEL", 1, 0},
	{node.Thin, 2, "ADD", 3, 1},
	{node.Thin, 2, "DEL", 3, 0},
}

// TestStable counts what one ADD and one DEL do: a step more for every pod is not to come in unseen.
func TestStable(t *testing.T) {
	testnet.RequireRoot(t)
	cluster := kubetest.Start(t)
	cluster.CreateNamespace(t, namespace)
	bin := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "failpoint", "-o", bin+"/", "multus/cmd/...", "multus/test/fakeplugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	subjects := map[node.Kind]*subject{}
	for _, kind := range node.Kinds {
		subjects[kind] = newSubject(t, "stable-"+string(kind), kind, bin, noop, cluster)
	}
	for _, kind := range node.Kinds {
		for _, networks := range []int{0, 2} {
			s := subjects[kind]
			p := s.pod(t, noop, "stable-"+string(kind)+map[int]string{0: "-plain", 2: "-two"}[networks], networks, cluster)
			must(t, s.add(t, p, networks)) // the first one notes the networks
			must(t, s.del(t, p, networks))
			for _, want := range stable {
				if want.kind != kind || want.networks != networks {
					continue
				}
				trace := filepath.Join(t.TempDir(), "trace")
				t.Setenv("MULTUS_FAILPOINT_TRACE", trace)
				do := s.add
				if want.verb == "DEL" {
					do = s.del
				}
				must(t, do(t, p, networks))
				b, err := os.ReadFile(trace)
				must(t, err)
				execs, writes := strings.Count(string(b), "exec.started\n"), strings.Count(string(b), "fsx.renamed\n")
				if execs != want.execs || writes != want.writes {
					t.Errorf("%s, %d networks, %s: %d executions and %d files written with fsync; they were %d and %d", kind, networks, want.verb, execs, writes, want.execs, want.writes)
				}
			}
		}
	}
}
