package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
)

// started is what the kernel starts for one call of a plugin.
type started struct {
	// processes is the number of programs: the plugin and its delegates. threads is the number of threads that the plugin
	// creates, and looks is how often it enters the namespace of the sandbox, both without those of the delegates.
	processes, threads, looks int
}

const (
	// startedRuns is how often a call is traced. The Go runtime creates threads as it needs them, more of them on a busy
	// machine, so that the smallest number is compared.
	startedRuns = 5
	// mostThreads is one more than on an idle machine, for a plain pod and for a pod with networks.
	mostThreads = 7
)

// checkStarted limits what one ADD starts, the plugin once, each delegate once, and threads, and that it enters the
// namespace of the sandbox once.
func checkStarted(t *testing.T, cluster *kubetest.Cluster) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("processes and threads are not counted: no strace")
	}
	t.Setenv("GOMAXPROCS", "2") // the number of threads depends on it
	for _, kind := range node.Kinds {
		s := newSubject(t, "started-"+string(kind), kind, programs{}, noop, cluster, nil)
		for _, networks := range []int{0, 2} {
			p := s.pod(t, noop, fmt.Sprintf("started-%s-%d", kind, networks), networks, cluster)
			fewest := 0
			for range startedRuns {
				got := traced(t, s, func() { must(t, s.add(t, p, networks)) })
				must(t, s.del(t, p, networks))
				if want := networks + 2; got.processes != want {
					t.Errorf("%s, %d networks: %d processes for one ADD, want %d", kind, networks, got.processes, want)
				}
				if got.looks != 1 {
					t.Errorf("%s, %d networks: one ADD enters the namespace %d times, want 1", kind, networks, got.looks)
				}
				if fewest == 0 || got.threads < fewest {
					fewest = got.threads
				}
			}
			t.Logf("%s, %d networks: %d threads", kind, networks, fewest)
			if fewest == 0 || fewest > mostThreads {
				t.Errorf("%s, %d networks: the plugin creates %d threads, want at most %d", kind, networks, fewest, mostThreads)
			}
		}
	}
}

// threadCreated matches a call that creates a thread. A process is created without CLONE_THREAD.
var threadCreated = regexp.MustCompile(`(?m)^clone3?\(.*CLONE_THREAD.* = (\d+)`)

// traced runs one call of the plugin under strace, which writes a file for each thread.
func traced(t *testing.T, s *subject, call func()) started {
	t.Helper()
	dir := t.TempDir()
	s.exec.wrap = []string{
		"strace", "-ff", "-e", "trace=execve,clone,clone3,setns", "-e", "signal=none", "-o", filepath.Join(dir, "t"),
	}
	call()
	s.exec.wrap = nil
	files, err := filepath.Glob(filepath.Join(dir, "t.*"))
	must(t, err)
	var out started
	created := map[string][]string{} // the threads that each thread creates
	entered := map[string]int{}
	plugin := ""
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		id := strings.TrimPrefix(filepath.Ext(f), ".")
		out.processes += strings.Count(string(b), "execve(")
		if strings.Contains(string(b), `execve("`+filepath.Join(s.node.BinDirs[0], "multus")) {
			plugin = id
		}
		entered[id] = strings.Count(string(b), "setns(") / 2 // there and back
		for _, m := range threadCreated.FindAllStringSubmatch(string(b), -1) {
			created[id] = append(created[id], m[1])
		}
	}
	for todo := []string{plugin}; len(todo) > 0; todo = todo[1:] {
		out.threads += len(created[todo[0]])
		out.looks += entered[todo[0]]
		todo = append(todo, created[todo[0]]...)
	}
	return out
}
