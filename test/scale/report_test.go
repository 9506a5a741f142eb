package scale

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The cluster of the estimate.
const (
	nodes = 5000
	// podsPerSecond is the number of pods that such a cluster starts in a busy second.
	podsPerSecond = 100
)

// table builds a Markdown table.
type table struct{ strings.Builder }

func (b *table) head(cells ...string) {
	b.row(cells...)
	b.row(slices.Repeat([]string{"---"}, len(cells))...)
}

func (b *table) row(cells ...string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }

func (r *results) markdown() string {
	b := &table{}
	last := r.Starts[len(r.Starts)-1]
	fmt.Fprintf(b, "\nMeasured on %s (%s). A definition has a configuration of %d bytes and is %d bytes as the API "+
		"server sends it: `kubectl apply` leaves a copy in an annotation.\n",
		r.Date, r.Machine, r.ConfigBytes, r.ObjectSize)
	r.starts(b)
	r.requests(b)
	r.lists(b, last.Definitions)
	r.outage(b)
	r.limits(b)
	r.estimate(b)
	return b.String()
}

func (r *results) starts(b *table) {
	fmt.Fprintf(b, "\n### A daemon starts\n\nThe median of %d; memory is RSS / Go heap in use.\n\n", starts)
	b.head("definitions", "requests", "received", "ready after", "API server's CPU", "daemon's CPU", "memory, peak",
		"memory", fmt.Sprintf("with %d pods", pods), "after changes (number)")
	for _, s := range r.Starts {
		b.row(number(s.Definitions), counts(s.Cost.Requests, 1), size(s.Cost.Down), millis(s.Ready), millis(s.ServerCPU),
			millis(s.DaemonCPU), mib(s.Fresh.Peak), s.Fresh.String(), s.Pods.String(),
			fmt.Sprintf("%s (%s)", s.Churned, number(s.ChurnedDefinitions)))
	}
}

func (r *results) requests(b *table) {
	fmt.Fprint(b, "\n### What the API server gets from one node\n\n")
	b.head("what", "requests", "answers, from the API server's own metrics", "sent", "received")
	pod := func(what string, p perPod) {
		b.row(what+", ADD and DEL", counts(p.Cost.Requests, p.Pods), counts(p.Answers, p.Pods), size(p.Cost.Up/p.Pods),
			size(p.Cost.Down/p.Pods))
	}
	pod("plain pod", r.Plain)
	pod("pod with two networks", r.Two)
	b.row(fmt.Sprintf("pod whose network does not exist, %d times ADD and DEL within a minute", r.Tries),
		counts(r.Failing.Requests, 1), "", size(r.Failing.Up), size(r.Failing.Down))
	change := func(what string, x traffic) {
		per := x.Down / r.Changed
		b.row("a definition is "+what, counts(x.Requests, 1), "", size(x.Up/r.Changed),
			fmt.Sprintf("%s (%.2f × the definition)", size(per), float64(per)/float64(r.ObjectSize)))
	}
	change("changed", r.Update)
	change("created", r.Create)
	change("deleted", r.Delete)
	minutes := r.IdleFor.Minutes()
	b.row("nothing, a minute", counts(r.Idle.Requests, 1), "", size(int(float64(r.Idle.Up)/minutes)),
		size(int(float64(r.Idle.Down)/minutes)))
	b.row("the connection is lost", counts(r.Reconnect.Requests, 1), "", size(r.Reconnect.Up), size(r.Reconnect.Down))
}

func (r *results) lists(b *table, definitions int) {
	fmt.Fprintf(b, "\n### Ways to read %s definitions\n\n", number(definitions))
	b.head("way", "requests", "bytes", "took", "API server's CPU")
	for _, l := range r.Lists {
		if l.Bytes == 0 {
			b.row(l.Name, "refused: not served for custom resources", "", "", "")
			continue
		}
		b.row(l.Name, number(l.Requests), size(l.Bytes), millis(l.Took), millis(l.ServerCPU))
	}
}

func (r *results) outage(b *table) {
	h := r.Herd
	fmt.Fprintf(b, "\n### The API server comes back\n\n%d nodes with %d definitions, after an outage of %s. Times are "+
		"from the first request of all on.\n\n", h.Nodes, h.Definitions, h.Outage)
	b.head("request", "nodes", "median", "90 %", "last", "most within a second")
	for _, x := range []struct {
		what string
		s    spread
	}{{"first watch", h.Watches}, {"first list", h.Lists}} {
		b.row(x.what, number(x.s.Count), millis(x.s.Median), millis(x.s.P90), millis(x.s.Max), number(x.s.Busiest))
	}
	fmt.Fprintf(b, "\nRequests for each of these nodes: %s.\n", counts(h.Requests, h.Nodes))
}

func (r *results) limits(b *table) {
	first, last := r.Starts[0], r.Starts[len(r.Starts)-1]
	n := last.Definitions - first.Definitions
	fmt.Fprint(b, "\n### Limits\n\n")
	b.head("figure", "measured")
	b.row("largest configuration that is stored",
		fmt.Sprintf("%s; a larger one: `%s`", size(r.Largest.Stored), clip(r.Largest.Refused)))
	attached := "a pod gets it"
	if !r.Largest.Attached {
		attached = "a pod does not get it: `" + clip(r.Largest.Problem) + "`"
	}
	b.row("a network of that size", attached)
	b.row("daemon, for each 1,000 definitions",
		fmt.Sprintf("%.1f MiB", float64(last.Fresh.RSS-first.Fresh.RSS)/(1<<20)/float64(n)*1000))
	b.row(fmt.Sprintf("API server, %s definitions more", number(n)), mib(r.Server.APIAfter-r.Server.APIBefore))
	b.row("etcd, the same: memory, database",
		mib(r.Server.EtcdAfter-r.Server.EtcdBefore)+", "+mib(r.Server.DatabaseAfter-r.Server.DatabaseBefore))
}

func (r *results) estimate(b *table) {
	last := r.Starts[len(r.Starts)-1]
	event := r.Update.Down / r.Changed
	streamedBytes, streamedCPU := 0, time.Duration(0)
	for _, l := range r.Lists {
		if l.query == streamed {
			streamedBytes, streamedCPU = l.Bytes, l.ServerCPU
		}
	}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
	fmt.Fprintf(b, "\n### %s nodes\n\nThe figures above, times %s. What the API server does for one client it does for "+
		"each, so that the product is right for bytes; for processor time it is an upper bound.\n\n", number(nodes),
		number(nodes))
	b.head("what", "arithmetic", "for the API servers together")
	b.row("one definition changes", fmt.Sprintf("%s × %s", size(event), number(nodes)), size(event*nodes))
	b.row("a definition changes every second", fmt.Sprintf("%s × %s × 8 bit", size(event), number(nodes)),
		fmt.Sprintf("%.0f Mbit/s", float64(event*nodes)*8/1e6))
	b.row(fmt.Sprintf("all %s change", number(last.Definitions)),
		fmt.Sprintf("%s × %s × %s",
			size(event), number(last.Definitions), number(nodes)), size(event*last.Definitions*nodes))
	b.row("every daemon starts: bytes", fmt.Sprintf("%s × %s", size(last.Cost.Down), number(nodes)),
		size(last.Cost.Down*nodes))
	b.row("every daemon starts: processor time", fmt.Sprintf("%s × %s", seconds(last.ServerCPU), number(nodes)),
		fmt.Sprintf("%.0f min", (last.ServerCPU*nodes).Minutes()))
	b.row("the same if the list were streamed",
		fmt.Sprintf("(%s, %s) × %s", size(streamedBytes), seconds(streamedCPU), number(nodes)),
		fmt.Sprintf("%s, %.0f min", size(streamedBytes*nodes), (streamedCPU*nodes).Minutes()))
	b.row("nothing happens, a minute",
		fmt.Sprintf("%s × %s", size(int(float64(r.Idle.Down)/r.IdleFor.Minutes())), number(nodes)),
		size(int(float64(r.Idle.Down)/r.IdleFor.Minutes()*nodes)))
	for _, x := range []struct {
		what string
		p    perPod
	}{{"plain", r.Plain}, {"with two networks", r.Two}} {
		total := 0
		for _, n := range x.p.Cost.Requests {
			total += n
		}
		per := float64(total) / float64(x.p.Pods)
		b.row(fmt.Sprintf("%d pods a second, %s", podsPerSecond, x.what),
			fmt.Sprintf("%.1f requests × %d", per, podsPerSecond), fmt.Sprintf("%.0f requests/s", per*podsPerSecond))
	}
}

// String returns RSS / heap in use.
func (m memory) String() string { return mib(m.RSS) + " / " + mib(m.InUse) }

// counts returns the list of counts, each divided by n.
func counts(m map[string]int, n int) string {
	if len(m) == 0 {
		return "none"
	}
	var out []string
	for _, what := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%g %s", float64(m[what])/float64(n),
			strings.ReplaceAll(what, "network-attachment-definitions", "definitions")))
	}
	return strings.Join(out, ", ")
}

// number formats n with a separator between thousands.
func number(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size formats a number of bytes in decimal units, as is usual for networks.
func size(n int) string {
	switch {
	case n >= 1e12:
		return fmt.Sprintf("%.2f TB", float64(n)/1e12)
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.0f kB", float64(n)/1e3)
	}
	return number(n) + " B"
}

func mib(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func millis(d time.Duration) string {
	if d >= 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}

func clip(s string) string {
	const most = 160
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.NewReplacer("|", `\|`, "`", "'", "\n", " ").Replace(s)
}
