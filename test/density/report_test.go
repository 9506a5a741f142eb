package density

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"multus/internal/testutil/page"
)

// maxRatio is the budget of the 99th percentile beside the node without Multus.
const maxRatio = 1.15

// results are the results of one run.
type results struct {
	Date    string     `json:"date"`
	Machine string     `json:"machine"`
	Rounds  int        `json:"rounds"`
	Turns   []measured `json:"turns"`
}

// figure is one figure of a turn.
type figure func(measured) float64

// figures are the rows of the table with a ratio.
var figures = []struct {
	what string
	of   figure
}{
	{"Ready, p50, s", quantile(0.5, ready)},
	{"Ready, p99, s", quantile(0.99, ready)},
	{"Ready from conditions, p50, s", quantile(0.5, condition)},
	{"Ready from conditions, p99, s", quantile(0.99, condition)},
	{"sandbox with its networks, p50, s", quantile(0.5, sandbox)},
	{"sandbox with its networks, p99, s", quantile(0.99, sandbox)},
	{"one call that creates a sandbox, mean, s", func(m measured) float64 { return m.Sandboxes.Seconds() }},
	{"processor time of the machine for a pod, s", func(m measured) float64 {
		return m.Machine.Seconds() / float64(len(m.Pods))
	}},
}

func ready(s seen) time.Duration     { return s.Ready }
func condition(s seen) time.Duration { return s.Condition }
func sandbox(s seen) time.Duration   { return s.Sandbox }

// quantile returns the figure that not more than this part of the pods of a turn exceed: with 100 pods, 0.99 is the
// second largest.
func quantile(q float64, of func(seen) time.Duration) figure {
	return func(m measured) float64 {
		var all []time.Duration
		for _, p := range m.Pods {
			all = append(all, of(p))
		}
		slices.Sort(all)
		return all[int(math.Ceil(q*float64(len(all))))-1].Seconds()
	}
}

// of returns a figure of all turns of a subject, sorted.
func (r *results) of(subject string, f figure) []float64 {
	var all []float64
	for _, m := range r.Turns {
		if m.Subject == subject {
			all = append(all, f(m))
		}
	}
	slices.Sort(all)
	return all
}

// median is the middle of sorted values, or the mean of the two in the middle.
func median(sorted []float64) float64 {
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// largest returns the largest value of all turns of a subject.
func largest[V cmp.Ordered](r *results, subject string, of func(measured) V) V {
	var most V
	for _, m := range r.Turns {
		if m.Subject == subject {
			most = max(most, of(m))
		}
	}
	return most
}

// sum returns the sum of all turns of a subject.
func sum(r *results, subject string, of func(measured) int) int {
	n := 0
	for _, m := range r.Turns {
		if m.Subject == subject {
			n += of(m)
		}
	}
	return n
}

func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s (%s): %d rounds of %d pods for each column.\n\n", r.Date, r.Machine, r.Rounds,
		len(r.Turns[0].Pods))
	fmt.Fprintf(&b, "%s\n", page.Budgets(r.budgets()))
	fmt.Fprintf(&b, "| median of the rounds (smallest to largest) | %s | %s | ratio | %s | ratio |\n"+
		"|---|---|---|---|---|---|\n", without, plain, macvlan)
	for _, f := range figures {
		base := r.of(without, f.of)
		fmt.Fprintf(&b, "| %s | %s |", f.what, spread(base))
		for _, s := range []string{plain, macvlan} {
			got := r.of(s, f.of)
			fmt.Fprintf(&b, " %s | %.2f |", spread(got), median(got)/median(base))
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "\n| all rounds | %s | %s | %s |\n|---|---|---|---|\n", without, plain, macvlan)
	row := func(what string, of func(subject string) string) {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", what, of(without), of(plain), of(macvlan))
	}
	row("sandboxes that failed", func(s string) string {
		return fmt.Sprint(sum(r, s, func(m measured) int { return m.Failures }))
	})
	row("restarts of containers of pods", func(s string) string {
		return fmt.Sprint(sum(r, s, func(m measured) int { return m.Restarts }))
	})
	daemon := func(what string, of func(subject string) string) {
		row(what, func(s string) string {
			if s == without {
				return "–"
			}
			return of(s)
		})
	}
	daemon("restarts of the daemon", func(s string) string {
		return fmt.Sprint(largest(r, s, func(m measured) int { return m.DaemonRestarts }))
	})
	daemon("daemon's memory, peak (VmHWM), MiB", func(s string) string {
		return fmt.Sprintf("%.1f", float64(largest(r, s, func(m measured) int { return m.DaemonPeak }))/(1<<20))
	})
	daemon("daemon's processor time for a pod, median, ms", func(s string) string {
		return fmt.Sprintf("%.1f", median(r.of(s, func(m measured) float64 {
			return 1000 * m.DaemonCPU.Seconds() / float64(len(m.Pods))
		})))
	})
	return b.String()
}

// spread returns the median of sorted values, and their range.
func spread(sorted []float64) string {
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(sorted), sorted[0], sorted[len(sorted)-1])
}

// budgets compares the 99th percentiles with those of the node without Multus.
func (r *results) budgets() []page.Budget {
	var rows []page.Budget
	for _, f := range []struct {
		what string
		of   figure
	}{{"Ready, p99", quantile(0.99, ready)}, {"Ready from conditions, p99", quantile(0.99, condition)}} {
		for _, s := range []string{plain, macvlan} {
			got := median(r.of(s, f.of)) / median(r.of(without, f.of))
			rows = append(rows, page.AtMost(fmt.Sprintf("%s, beside the node without Multus: %s", f.what, s), got, maxRatio))
		}
	}
	return rows
}

// String returns one line for the progress.
func (m measured) String() string {
	return fmt.Sprintf("%s: Ready p50 %.2f s, p99 %.2f s; from conditions %.0f s, %.0f s; sandbox p50 %.2f s; "+
		"a call %.2f s; %d failures, %d and %d restarts; machine %.1f s; daemon %.2f s, %.1f MiB", m.Subject,
		quantile(0.5, ready)(m), quantile(0.99, ready)(m), quantile(0.5, condition)(m), quantile(0.99, condition)(m),
		quantile(0.5, sandbox)(m), m.Sandboxes.Seconds(), m.Failures, m.Restarts, m.DaemonRestarts, m.Machine.Seconds(),
		m.DaemonCPU.Seconds(), float64(m.DaemonPeak)/(1<<20))
}
