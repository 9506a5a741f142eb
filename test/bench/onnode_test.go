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
	// Start has the times of startUps.
	Start map[string]time.Duration `json:"start"`
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
	r.Breakdowns, r.Start = breakdowns(t, subjects[1], ours.plugins, cluster), startUps(t)
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

// figures are the rows of the table, in its order, with their budgets.
var figures = []struct {
	what                  string
	networks, concurrency int
	of                    func(cell) float64
	// added limits the difference to raw, most and least the ratio. 0 is no limit.
	added, most, least float64
}{
	{"ADD of a plain pod, p50, ms", 0, 1, addTime, 3.5, 1.2, 0},
	{"ADD of a pod with 3 networks, p50, ms", 2, 1, addTime, 0, 1, 0},
	{"CPU of a plain pod, ADD and DEL, ms", 0, 1, cpuTime, 6, 0, 0},
	{"CPU of a pod with 3 networks, ADD and DEL, ms", 2, 1, cpuTime, 10, 0, 0},
	{"16 in flight, plain pods/s", 0, 16, rate, 0, 0, 0.8},
	{"16 in flight, pods with 3 networks/s", 2, 16, rate, 0, 0, 0.9},
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
	fmt.Fprintf(&b, "\n%s", page.Budgets(r.budgets()))
	for _, d := range r.Breakdowns {
		b.WriteString(d.markdown())
	}
	b.WriteString(startTable(r.Start))
	return b.String()
}

// budgets compares Multus with raw.
func (r *nodeResults) budgets() []page.Budget {
	var rows []page.Budget
	for _, f := range figures {
		raw := f.of(r.Cells.find(chain, f.networks, f.concurrency, "raw"))
		got := f.of(r.Cells.find(chain, f.networks, f.concurrency, "thick"))
		if f.added != 0 {
			rows = append(rows, page.AtMost(f.what+": added", got-raw, f.added))
		}
		if f.most != 0 {
			rows = append(rows, page.AtMost(f.what+": beside raw", ratio(got, raw), f.most))
		}
		if f.least != 0 {
			rows = append(rows, page.AtLeast(f.what+": beside raw", ratio(got, raw), f.least))
		}
	}
	return append(rows, startBudget(r.Start))
}
