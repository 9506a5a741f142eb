package metrics

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxNames is how many names of networks or namespaces one metric has. All others share the label value other
	// (behaviour F71).
	maxNames = 200
	// maxName is the length of the longest label value in bytes. The names of two long networks may become equal; their
	// numbers are added then.
	maxName = 128
	// idle is how long a name must not have been used before another one replaces it.
	idle = time.Hour
)

// names bounds the label values of a metric whose names users choose.
type names struct {
	mu   sync.Mutex
	used map[string]time.Time
	// forget removes the series of a name that is replaced.
	forget func(name string)
}

// label returns the label value for a name: the name itself, or other while maxNames names are in use.
func (n *names) label(name string, now time.Time) string {
	name = shorten(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.used == nil {
		n.used = map[string]time.Time{}
	}
	if _, ok := n.used[name]; !ok && len(n.used) >= maxNames {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(n.used)), func(a, b string) int {
			return n.used[a].Compare(n.used[b])
		})
		if now.Sub(n.used[oldest]) < idle {
			return other
		}
		delete(n.used, oldest)
		n.forget(oldest)
	}
	n.used[name] = now
	return name
}

// shorten returns a label value: valid UTF-8, as Prometheus requires, of at most maxName bytes.
func shorten(name string) string {
	if name = strings.ToValidUTF8(name, "\uFFFD"); len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "")
	}
	return cmp.Or(name, other)
}

// byName is a gauge for each name of which there is something to count. A name that has a series keeps it as long as
// there is something to count; of the others, those with the largest numbers get what is left of maxNames.
type byName struct {
	desc  *prometheus.Desc
	count func() map[string]int
	mu    sync.Mutex
	shown map[string]bool
}

// Describe implements prometheus.Collector.
func (c *byName) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *byName) Collect(ch chan<- prometheus.Metric) {
	for name, n := range c.bounded() {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), name)
	}
}

// bounded returns the numbers by label value.
func (c *byName) bounded() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]int{}
	for name, n := range c.count() {
		all[shorten(name)] += n
	}
	order := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		if c.shown[a] != c.shown[b] {
			if c.shown[a] {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(all[b], all[a]), cmp.Compare(a, b))
	})
	out := map[string]int{}
	c.shown = map[string]bool{}
	for i, name := range order {
		if i >= maxNames {
			out[other] += all[name]
			continue
		}
		out[name] += all[name]
		c.shown[name] = true
	}
	return out
}
