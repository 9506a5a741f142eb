package bench

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
)

// part is a part of one call. It ends at a point of internal/failpoint, each time that the point is passed. The parts
// of a call are without gaps.
type part struct{ what, until string }

// The parts of a plain pod's calls with multus-shim, in their order. The first one and the last one have no point.
var (
	outside  = part{what: "container runtime: libcni before and after"}
	exit     = part{what: "end of the process"}
	addParts = []part{
		outside,
		{"exec of the plugin and start of the Go runtime", "plugin.started"},
		{"CNI environment and configuration", "plugin.parsed"},
		{"plan", "plan.after"},
		{"lock of the sandbox", "lock.taken"},
		{"look for leftover state, and the record", "ledger.written"},
		{"preparation and start of the delegates", "exec.started"},
		{"the delegates", "exec.after"},
		{"results, and libcni's cache", "attached"},
		{"network status", "report.after"},
		{"release of the lock, and the result", "result.after"},
		exit,
	}
	delParts = []part{
		outside,
		{"exec of the plugin and start of the Go runtime", "plugin.started"},
		{"CNI environment and configuration", "plugin.parsed"},
		{"lock of the sandbox", "lock.taken"},
		{"record, read", "del.read"},
		{"preparation and start of the delegates", "exec.started"},
		{"the delegates", "exec.after"},
		{"results, and libcni's cache", "detached"},
		{"removal of the record", "ledger.removed"},
		{"release of the lock, and the timings for the daemon", "verb.done"},
		exit,
	}
)

// breakdown is where the time of one call goes.
type breakdown struct {
	Verb  string `json:"verb"`
	Parts []took `json:"parts"`
	// Whole is the median of the calls that were divided, Plain that of calls of binaries without points.
	Whole time.Duration `json:"whole"`
	Plain time.Duration `json:"plain"`
}

// took is what one part took: the mean of the calls from the 25th to the 75th percentile of the whole. In contrast to
// medians of the parts, the times of these calls add up.
type took struct {
	What string `json:"what"`
	cost
}

// cost is the time of a part, and the processor time of the plugin and of the delegates that ended in it.
type cost struct {
	Time      time.Duration `json:"time"`
	Plugin    time.Duration `json:"plugin"`
	Delegates time.Duration `json:"delegates"`
}

func (c cost) plus(o cost) cost {
	return cost{c.Time + o.Time, c.Plugin + o.Plugin, c.Delegates + o.Delegates}
}

func (c cost) minus(o cost) cost {
	return cost{c.Time - o.Time, c.Plugin - o.Plugin, c.Delegates - o.Delegates}
}

func (c cost) over(n int) cost {
	d := time.Duration(n)
	return cost{c.Time / d, c.Plugin / d, c.Delegates / d}
}

// sum returns the sum of the parts.
func (b *breakdown) sum() cost {
	var sum cost
	for _, p := range b.Parts {
		sum = sum.plus(p.cost)
	}
	return sum
}

// divided is one call.
type divided struct {
	whole time.Duration
	parts map[string]cost
}

// breakdowns divides ADD and DEL of a plain pod of chain, one at a time, with binaries that write the time at which
// each point is passed. They take turns with plain, a subject without points.
func breakdowns(t *testing.T, plain *subject, plugins string, cluster *kubetest.Cluster) []breakdown {
	t.Helper()
	p := programs{installed(t, failpointBinaries(t)), plugins}
	s := newSubject(t, "parts-thick", node.Thick, p, chain, cluster, nil)
	pod, plainPod := s.pod(t, chain, "parts", 0, cluster), plain.pod(t, chain, "parts-plain", 0, cluster)
	turn(t, s, []*node.Pod{pod}, 0, 1) // warm up
	verbs := []struct {
		name           string
		parts          []part
		divided, whole func(*testing.T, *node.Pod, int) error
	}{{"ADD", addParts, s.add, plain.add}, {"DEL", delParts, s.del, plain.del}}
	calls, plains := make([][]divided, len(verbs)), make([][]time.Duration, len(verbs))
	count, _ := turns(chain, 1)
	for range count {
		for i, v := range verbs {
			file := filepath.Join(t.TempDir(), "times")
			t.Setenv("MULTUS_FAILPOINT_TIMES", file)
			start := time.Now()
			must(t, v.divided(t, pod, 0))
			whole := time.Since(start)
			calls[i] = append(calls[i], divided{whole, divide(t, file, v.parts, s.exec, whole)})
			start = time.Now()
			must(t, v.whole(t, plainPod, 0))
			plains[i] = append(plains[i], time.Since(start))
		}
	}
	t.Setenv("MULTUS_FAILPOINT_TIMES", "")
	var out []breakdown
	for i, v := range verbs {
		out = append(out, summarize(v.name, v.parts, calls[i], median(plains[i])))
	}
	return out
}

// summarize sorts the calls.
func summarize(verb string, parts []part, calls []divided, plain time.Duration) breakdown {
	slices.SortFunc(calls, func(a, b divided) int { return cmp.Compare(a.whole, b.whole) })
	b := breakdown{Verb: verb, Whole: calls[len(calls)/2].whole, Plain: plain}
	middle := calls[len(calls)/4 : len(calls)-len(calls)/4]
	for _, p := range parts {
		var sum cost
		for _, c := range middle {
			sum = sum.plus(c.parts[p.what])
		}
		b.Parts = append(b.Parts, took{p.what, sum.over(len(middle))})
	}
	return b
}

// divide returns the cost of each part of a call, the last one that was run by m.
func divide(t *testing.T, file string, parts []part, m *meter, whole time.Duration) map[string]cost {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	out := map[string]cost{outside.what: {Time: whole - m.ended.Sub(m.began)}}
	last := cost{Time: time.Duration(m.began.UnixNano())}
	for line := range strings.Lines(string(b)) {
		var name string
		var at cost
		_, err := fmt.Sscan(line, &name, (*int64)(&at.Time), (*int64)(&at.Plugin), (*int64)(&at.Delegates))
		must(t, err)
		for _, p := range parts {
			if p.until == name {
				out[p.what] = out[p.what].plus(at.minus(last))
				last = at
			}
		}
	}
	end := cost{time.Duration(m.ended.UnixNano()), m.used - last.Delegates, last.Delegates}
	out[exit.what] = end.minus(last)
	for _, p := range parts {
		if _, ok := out[p.what]; !ok {
			t.Fatalf("the call has no part %q: point %s was not passed", p.what, p.until)
		}
	}
	return out
}

// markdown returns the table of one verb.
func (b *breakdown) markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "\n| %s of a plain pod, µs | time | CPU of the plugin | CPU of the delegates |\n", b.Verb)
	fmt.Fprintln(&s, "|---|---|---|---|")
	row := func(what string, c cost) {
		fmt.Fprintf(&s, "| %s | %d | %d | %d |\n", what, c.Time.Microseconds(), c.Plugin.Microseconds(),
			c.Delegates.Microseconds())
	}
	for _, p := range b.Parts {
		row(p.What, p.cost)
	}
	row("sum", b.sum())
	fmt.Fprintf(&s, "| whole, p50 of these calls | %d | | |\n| whole, p50 of binaries without points | %d | | |\n",
		b.Whole.Microseconds(), b.Plain.Microseconds())
	return s.String()
}
