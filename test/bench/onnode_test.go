package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/fsx"
	"multus/internal/testutil/page"
)

// nodeResults are the results of the workload chain.
type nodeResults struct {
	Date    string `json:"date"`
	Machine string `json:"machine"`
	Cells   cells  `json:"cells"`
	// Breakdowns are the parts of ADD and DEL of a plain pod.
	Breakdowns []breakdown `json:"breakdowns"`
}

// TestBenchNode measures the set-up of a usual node (chain) and writes the results to BENCH_OUT. `make bench-node`
// runs it alone, `make bench` with the other measurements.
func TestBenchNode(t *testing.T) {
	out, ours, cluster := begin(t)
	subjects := allSubjects(t, ours, chain, cluster)
	subjects = slices.DeleteFunc(subjects, func(s *subject) bool { return strings.HasSuffix(s.name, "thin") })
	r := &nodeResults{Date: time.Now().UTC().Format(time.DateOnly), Machine: page.Machine()}
	for _, networks := range []int{0, 2} {
		for _, concurrency := range []int{1, 16} {
			r.Cells = append(r.Cells, measure(t, subjects, chain, networks, concurrency, cluster)...)
		}
	}
	r.Breakdowns = breakdowns(t, subjects[1], ours.plugins, cluster)
	md := r.markdown()
	fmt.Println(md)
	if quick() {
		return
	}
	for _, b := range r.Breakdowns {
		if got := ratio(b.sum().Time, b.Whole); got < 0.9 || got > 1.1 {
			t.Errorf("the parts of %s take %.2f of the time of the whole: %v, %v", b.Verb, got, b.sum().Time, b.Whole)
		}
	}
	b, err := json.MarshalIndent(r, "", " ")
	must(t, err)
	must(t, os.MkdirAll(out, 0o755))
	must(t, fsx.WriteAtomic(filepath.Join(out, "node.json"), b, 0o644))
	if file := os.Getenv("BENCH_PAGE"); file != "" {
		must(t, page.Replace(file, "bench-node", md))
	}
}

// figures are the rows of the table, in its order.
var figures = []struct {
	what                  string
	networks, concurrency int
	of                    func(cell) float64
}{
	{"ADD of a plain pod, p50, ms", 0, 1, addTime},
	{"ADD of a pod with 3 networks, p50, ms", 2, 1, addTime},
	{"CPU of a plain pod, ADD and DEL, ms", 0, 1, cpuTime},
	{"CPU of a pod with 3 networks, ADD and DEL, ms", 2, 1, cpuTime},
	{"16 in flight, plain pods/s", 0, 16, rate},
	{"16 in flight, pods with 3 networks/s", 2, 16, rate},
}

func addTime(c cell) float64 { return ms(c.Add.P50) }
func cpuTime(c cell) float64 { return ms(c.PluginCPU + c.DaemonCPU) }
func rate(c cell) float64    { return c.Rate }

// markdown returns the table. Other binaries that were measured have columns of their own.
func (r *nodeResults) markdown() string {
	names := map[string]string{"thick": "Multus", "other-thick": "other"}
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s (%s).\n\n| figure | raw |", r.Date, r.Machine)
	var subjects []string
	for _, c := range r.Cells {
		if name := names[c.Subject]; name != "" && !slices.Contains(subjects, c.Subject) {
			subjects = append(subjects, c.Subject)
			fmt.Fprintf(&b, " %s | difference | ratio |", name)
		}
	}
	fmt.Fprintf(&b, "\n|---|---|%s\n", strings.Repeat("---|---|---|", len(subjects)))
	for _, f := range figures {
		raw := f.of(r.Cells.find(chain, f.networks, f.concurrency, "raw"))
		fmt.Fprintf(&b, "| %s | %.1f |", f.what, raw)
		for _, s := range subjects {
			got := f.of(r.Cells.find(chain, f.networks, f.concurrency, s))
			fmt.Fprintf(&b, " %.1f | %+.1f | %.2f |", got, got-raw, ratio(got, raw))
		}
		fmt.Fprintln(&b)
	}
	for _, d := range r.Breakdowns {
		b.WriteString(d.markdown())
	}
	return b.String()
}
