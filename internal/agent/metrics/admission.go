package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Admission are the metrics of `multus-daemon admission`.
type Admission struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	took     prometheus.Histogram
	rules    []string
}

// quick are the buckets for the time of a review: the API server waits for it.
var quick = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 3}

// NewAdmission returns the metrics. rules are the values of the label rule, and states those of the label state, of
// which definitions returns the numbers of definitions.
func NewAdmission(rules, states []string, definitions func() map[string]int) *Admission {
	a := &Admission{
		registry: prometheus.NewRegistry(), rules: rules,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "multus_admission_requests_total",
			Help: "Requests of the API server to the webhook, by kind of object, verdict and the rule that decided.",
		}, []string{"kind", "verdict", "rule"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "multus_admission_duration_seconds", Help: "Time to answer a request of the API server.", Buckets: quick,
		}),
	}
	a.registry.MustRegister(a.requests, a.took, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&byState{
			prometheus.NewDesc("multus_definitions", "Network definitions that the cluster has, by the result of the check.",
				[]string{"state"}, nil), states, definitions,
		})
	return a
}

// Reviewed records one request.
func (a *Admission) Reviewed(kind, verdict, rule string, took time.Duration) {
	if rule != "" {
		rule = known(rule, a.rules)
	}
	a.requests.WithLabelValues(kind, verdict, rule).Inc()
	a.took.Observe(took.Seconds())
}

// Handler serves the metrics.
func (a *Admission) Handler() http.Handler {
	return promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{})
}

// byState is a gauge for each state, also for those of which there is nothing.
type byState struct {
	desc   *prometheus.Desc
	states []string
	count  func() map[string]int
}

// Describe implements prometheus.Collector.
func (c *byState) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *byState) Collect(ch chan<- prometheus.Metric) {
	counts := c.count()
	for _, state := range c.states {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(counts[state]), state)
	}
}
