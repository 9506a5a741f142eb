package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"multus/internal/fsx"
	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
	"multus/internal/testutil/page"
)

// The workloads. Each is run in rounds in which the subjects take turns, so that load from other processes affects all
// of them.
var (
	concurrencies = []int{1, 16, 64}
	networkCounts = []int{0, 2, 5}
	delegates     = []delegate{noop, reference}
)

// rounds is the number of turns in which the work of a cell is done, if the workload does not have more.
const rounds = 4

// turns returns how often the subjects take turns for one cell of the table, and how often each pod is attached in one
// turn. With noop there are enough pods for a 99th percentile that differs from the maximum. With chain, of which only
// medians are reported, the turns are many and short.
func turns(d delegate, concurrency int) (count, each int) {
	switch {
	case d == chain && quick():
		return rounds, 1
	case d == chain && concurrency == 1:
		return 60 * scale(), 1
	case d == chain:
		return 12 * scale(), 4
	case d == noop && concurrency == 1:
		return rounds, 50 * scale()
	}
	return rounds, max(1, max(48, concurrency)*scale()/concurrency/4)
}

// scale returns the factor for the amount of work: BENCH_SCALE, or 1.
func scale() int {
	n, err := strconv.Atoi(os.Getenv("BENCH_SCALE"))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// quick reports whether only a part is measured and nothing is written, for development: BENCH_QUICK.
func quick() bool { return os.Getenv("BENCH_QUICK") != "" }

// cell is the result of one workload for one subject.
type cell struct {
	Delegate    delegate `json:"delegate"`
	Networks    int      `json:"networks"`
	Concurrency int      `json:"concurrency"`
	Subject     string   `json:"subject"`
	Add         times    `json:"add"`
	Del         times    `json:"del"`
	// PluginCPU and DaemonCPU are the processor time of ADD and DEL of one pod: that of the processes that the runtime
	// starts, including the delegates (median of the rounds), and that of the daemon (mean, with what it does later).
	PluginCPU time.Duration `json:"pluginCPU"`
	DaemonCPU time.Duration `json:"daemonCPU"`
	// Rate is the number of pods that are attached and detached in a second, the median of the rounds.
	Rate float64 `json:"rate"`
	Pods int     `json:"pods"`
	// RSS is the resident memory of the daemon at the end, in bytes.
	RSS int `json:"rss"`
}

// cells are the results of one run.
type cells []cell

// times are the quantiles of one verb.
type times struct {
	P50 time.Duration `json:"p50"`
	P90 time.Duration `json:"p90"`
	P99 time.Duration `json:"p99"`
	Max time.Duration `json:"max"`
}

// median sorts the values.
func median[V cmp.Ordered](values []V) V {
	slices.Sort(values)
	return values[len(values)/2]
}

// quantiles sorts the values.
func quantiles(d []time.Duration) times {
	slices.Sort(d)
	at := func(q float64) time.Duration { return d[min(len(d)-1, int(q*float64(len(d))))] }
	return times{at(0.5), at(0.9), at(0.99), d[len(d)-1]}
}

// TestBench measures everything and writes the results to BENCH_OUT. `make bench` runs it.
func TestBench(t *testing.T) {
	out, ours, cluster := begin(t)
	r := &results{Machine: page.Machine(), Date: time.Now().UTC().Format(time.DateOnly)}
	if quick() { // one pod at a time, delegates that do nothing
		delegates, concurrencies = delegates[:1], concurrencies[:1]
	}
	for _, d := range delegates {
		subjects := allSubjects(t, ours, d, cluster)
		together := newSubject(t, "thick-at-once", node.Thick, ours, d, cluster,
			map[string]any{"attachConcurrency": maxNetworks})
		for _, networks := range networkCounts {
			for _, concurrency := range concurrencies {
				these := subjects
				if networks > 1 && concurrency == 1 {
					these = append(slices.Clone(subjects), together)
				}
				r.Cells = append(r.Cells, measure(t, these, d, networks, concurrency, cluster)...)
			}
		}
	}
	r.Start, r.Disk, r.Shares = startUps(t), durable(t), shares(t, ours, cluster)
	if quick() {
		fmt.Println(string(r.markdown()))
		return
	}
	r.Memory = memory(t, cluster)
	r.Requests = requests(t, cluster)
	r.Steps = countSteps(t, cluster)
	must(t, r.write(out))
	if file := os.Getenv("BENCH_PAGE"); file != "" {
		must(t, page.Replace(file, "bench", string(r.markdown())))
		must(t, fsx.WriteAtomic(strings.TrimSuffix(file, ".md")+".svg", r.svg(), 0o644))
	}
}

// begin starts a measurement. It returns the directory of the results, the programs that are measured, and an API
// server. Without BENCH_OUT it skips the test.
func begin(t *testing.T) (out string, ours programs, cluster *kubetest.Cluster) {
	t.Helper()
	out = os.Getenv("BENCH_OUT")
	if out == "" {
		t.Skip("a measurement, not a test: make bench")
	}
	cluster = kubetest.Start(t)
	cluster.CreateNamespace(t, namespace)
	ours = programs{installed(t, node.Binaries(t)), installed(t, filepath.Join(node.Root(t), "bin", "cni"))}
	return out, ours, cluster
}

// allSubjects returns raw, thick and thin. With UPSTREAM_BIN it adds thick and thin with other binaries that accept the
// same configuration and flags: those of another version of this project, or of another project with a wrapper.
func allSubjects(t *testing.T, ours programs, d delegate, cluster *kubetest.Cluster) []*subject {
	t.Helper()
	subjects := []*subject{
		newSubject(t, "raw", node.Thin, ours, d, cluster, nil),
		newSubject(t, "thick", node.Thick, ours, d, cluster, nil),
		newSubject(t, "thin", node.Thin, ours, d, cluster, nil),
	}
	if bin := os.Getenv("UPSTREAM_BIN"); bin != "" {
		other := programs{installed(t, bin), ours.plugins}
		install(t, filepath.Join(node.Binaries(t), "fakeplugin"), other.bin)
		subjects = append(subjects, newSubject(t, "other-thick", node.Thick, other, d, cluster, nil),
			newSubject(t, "other-thin", node.Thin, other, d, cluster, nil))
	}
	return subjects
}

// series is what the rounds of one cell measure.
type series struct {
	cell
	adds, dels, cpu []time.Duration
	rates           []float64
	daemon          time.Duration
	pods            []*node.Pod
}

// measure measures one cell for each subject.
func measure(t *testing.T, subjects []*subject, d delegate, networks, concurrency int,
	cluster *kubetest.Cluster,
) []cell {
	t.Helper()
	all := make([]series, len(subjects))
	for i, s := range subjects {
		all[i].cell = cell{Delegate: d, Networks: networks, Concurrency: concurrency, Subject: s.name}
		for k := range concurrency {
			name := fmt.Sprintf("%s-%s-%d-%d-%d", s.name, d, networks, concurrency, k)
			all[i].pods = append(all[i].pods, s.pod(t, d, name, networks, cluster))
		}
		turn(t, s, all[i].pods, networks, 1) // warm up
	}
	// The daemons write statuses and events after an ADD has returned. That is a part of what a pod costs.
	settled(t, cluster)
	for i, s := range subjects {
		all[i].daemon = s.daemonCPU(t)
	}
	count, each := turns(d, concurrency)
	for round := range count {
		for k := range subjects {
			i := (k + round) % len(subjects) // each subject follows each other one
			all[i].round(t, subjects[i], each)
		}
	}
	settled(t, cluster)
	var out []cell
	for i, s := range subjects {
		a := &all[i]
		a.finish(t, s)
		out = append(out, a.cell)
		fmt.Printf("%-7s %d networks, %2d at once  %-12s ADD %6.1f ms  DEL %6.1f ms  CPU %6.1f ms\n", d, networks,
			concurrency, s.name, ms(a.Add.P50), ms(a.Del.P50), ms(a.PluginCPU+a.DaemonCPU))
	}
	return out
}

// round is one turn of a subject.
func (a *series) round(t *testing.T, s *subject, each int) {
	t.Helper()
	s.exec.take()
	start := time.Now()
	adds, dels := turn(t, s, a.pods, a.Networks, each)
	elapsed := time.Since(start)
	if len(adds) == 0 {
		t.FailNow() // turn has reported why
	}
	a.cpu = append(a.cpu, s.exec.take()/time.Duration(len(adds)))
	a.rates = append(a.rates, float64(len(adds))/elapsed.Seconds())
	a.adds, a.dels = append(a.adds, adds...), append(a.dels, dels...)
}

// finish computes the cell.
func (a *series) finish(t *testing.T, s *subject) {
	t.Helper()
	a.Pods = len(a.adds)
	a.Add, a.Del, a.PluginCPU, a.Rate = quantiles(a.adds), quantiles(a.dels), median(a.cpu), median(a.rates)
	a.DaemonCPU = (s.daemonCPU(t) - a.daemon) / time.Duration(a.Pods)
	if s.name == "thick" {
		a.RSS = s.memory(t)
	}
}

// turn attaches and detaches each pod several times, all pods at once.
func turn(t *testing.T, s *subject, pods []*node.Pod, networks, each int) (adds, dels []time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(func() {
			for range each {
				start := time.Now()
				err := s.add(t, p, networks)
				added := time.Since(start)
				start = time.Now()
				if derr := s.del(t, p, networks); err != nil || derr != nil {
					t.Errorf("%s: ADD %v, DEL %v", s.name, err, derr)
					return
				}
				mu.Lock()
				adds, dels = append(adds, added), append(dels, time.Since(start))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return adds, dels
}

// durable measures the disk of this machine without Multus: the medians of writing a record that survives a loss of
// power, and of removing it.
func durable(t *testing.T) disk {
	t.Helper()
	file := filepath.Join(t.TempDir(), "record")
	record := bytes.Repeat([]byte("x"), 1000)
	var writes, removals []time.Duration
	for range 50 * scale() {
		start := time.Now()
		must(t, fsx.WriteAtomic(file, record, 0o600))
		writes = append(writes, time.Since(start))
		start = time.Now()
		must(t, fsx.Remove(file))
		removals = append(removals, time.Since(start))
	}
	return disk{Write: quantiles(writes).P50, Remove: quantiles(removals).P50}
}

// startUps returns the medians of `--version` of each binary, of an empty program, and of one that links libcni and
// netlink and does nothing.
func startUps(t *testing.T) map[string]time.Duration {
	t.Helper()
	built := t.TempDir()
	build(t, built+"/", "./empty", "./nothing")
	bin := node.Binaries(t)
	programs := map[string]string{
		"empty": filepath.Join(built, "empty"), "nothing": filepath.Join(built, "nothing"),
		"multus-shim": filepath.Join(bin, "multus-shim"), "multus": filepath.Join(bin, "multus"),
		"passthru": filepath.Join(bin, "passthru"),
	}
	if other := os.Getenv("UPSTREAM_BIN"); other != "" {
		programs["other multus-shim"] = filepath.Join(other, "multus-shim")
	}
	took := map[string][]time.Duration{}
	for range 100 * scale() {
		for name, path := range programs {
			c := exec.Command(path, "--version")
			start := time.Now()
			err := c.Run()
			took[name] = append(took[name], time.Since(start))
			must(t, err)
		}
	}
	out := map[string]time.Duration{}
	for name, d := range took {
		out[name] = quantiles(d).P50
	}
	return out
}

// memory returns the daemon's memory in bytes, by the number of definitions, after 110 pods.
func memory(t *testing.T, cluster *kubetest.Cluster) map[int]int {
	t.Helper()
	out := map[int]int{}
	have := 0
	for _, definitions := range []int{1000, 10000} {
		for ; have < definitions; have++ {
			cluster.CreateNetwork(t, namespace, fmt.Sprintf("many-%d", have),
				fmt.Sprintf(`{"cniVersion":"1.0.0","type":"macvlan","master":"eth%d","mode":"bridge","ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/16"}]]}}`, have), nil)
		}
		s := newSubject(t, fmt.Sprintf("thick-%d", definitions), node.Thick, programs{}, noop, cluster, nil)
		var pods []*node.Pod
		for i := range 110 {
			pods = append(pods, s.pod(t, noop, fmt.Sprintf("m-%d-%d", definitions, i), 2, cluster))
		}
		turn(t, s, pods[:10], 2, 1)
		turn(t, s, pods, 2, 1)
		out[definitions] = s.memory(t)
	}
	return out
}

// requests returns the number of requests to the API server for ADD and DEL of one pod, by verb and resource, for plain
// pods and for pods with two networks.
func requests(t *testing.T, cluster *kubetest.Cluster) map[string]map[string]float64 {
	t.Helper()
	const pods = 20
	out := map[string]map[string]float64{}
	for _, kind := range node.Kinds {
		s := newSubject(t, "requests-"+string(kind), kind, programs{}, noop, cluster, nil)
		for _, networks := range []int{0, 2} {
			p := s.pod(t, noop, fmt.Sprintf("r-%s-%d", kind, networks), networks, cluster)
			turn(t, s, []*node.Pod{p}, networks, 1)
			before := settled(t, cluster)
			turn(t, s, []*node.Pod{p}, networks, pods)
			per := map[string]float64{}
			for what, n := range settled(t, cluster) {
				if n > before[what] {
					per[what] = float64(n-before[what]) / pods
				}
			}
			out[fmt.Sprintf("%s, %d networks", kind, networks)] = per
		}
	}
	return out
}

// settled returns the requests so far, once there are no more: events are written after the answer, at most 50 a
// second.
func settled(t *testing.T, cluster *kubetest.Cluster) map[string]int {
	t.Helper()
	for before := cluster.Requests(t, "multus"); ; {
		time.Sleep(time.Second)
		now := cluster.Requests(t, "multus")
		if maps.Equal(before, now) {
			return now
		}
		before = now
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// find returns the cell of a workload and subject.
func (all cells) find(d delegate, networks, concurrency int, subject string) cell {
	for _, c := range all {
		if c.Delegate == d && c.Networks == networks && c.Concurrency == concurrency && c.Subject == subject {
			return c
		}
	}
	return cell{}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
