// Package metrics has the metrics of multus-daemon, and serves them. It measures nothing itself. The parts of the agent
// record in it, and the daemon gives it a port.
package metrics

import (
	"cmp"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/utils/clock"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/version"
)

const (
	// headerLimit limits the time to read the header of a request on the metrics port (behaviour F50).
	headerLimit = 10 * time.Second
	// idleLimit limits the time between two requests of a connection. Usual scrapes are more frequent.
	idleLimit = 2 * time.Minute
)

// Metrics are the metrics of the daemon. The request counter has the name and labels of today's Multus (behaviour
// F51, Q9).
type Metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	inFlight  prometheus.Gauge
	planning  *prometheus.HistogramVec
	delegates *prometheus.HistogramVec
	retries   prometheus.Counter
	written   prometheus.Counter
	givenUp   prometheus.Counter
	abandoned prometheus.Counter
	plugged   *prometheus.CounterVec
	plugging  prometheus.Histogram
	drift     *prometheus.CounterVec
	adds      *prometheus.HistogramVec
	calls     *prometheus.CounterVec
	killed    *prometheus.CounterVec
	statuses  prometheus.Histogram
	networks  names
	// off is set if no port serves the metrics. Metrics with labels are not recorded then.
	off bool
}

// durations are the histogram buckets: from a millisecond (a plan) to the time limit of a runtime (a hanging delegate).
var durations = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}

// New returns the metrics. If no port serves them, metrics with labels are not recorded.
func New(served bool) *Metrics {
	m := &Metrics{
		off:      !served,
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "multus_server_request_total", Help: "Counter of HTTP requests",
		}, []string{"handler", "code", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "multus_server_requests_in_flight", Help: "Requests on the socket that are being answered.",
		}),
		planning: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "multus_plan_duration_seconds", Help: "Time to make a plan, by CNI command and CNI error code (0: none).",
			Buckets: durations,
		}, []string{"command", "code"}),
		delegates: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "multus_delegate_duration_seconds",
			Help: "Time that the plugins of a network took, as the plugin on the host reports it.", Buckets: durations,
		}, []string{"command", "plugin", "result"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "multus_status_retries_total", Help: "Attempts to write a network-status that have to be repeated.",
		}),
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "multus_status_written_total", Help: "Reports whose network-status was written, or needed none.",
		}),
		givenUp: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "multus_status_given_up_total", Help: "Reports whose network-status will never be written.",
		}),
		abandoned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "multus_attachments_abandoned_total", Help: "DELs that gave up networks whose plugins refuse them for good.",
		}),
		plugged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "multus_hotplug_total", Help: "Networks attached to running pods and detached from them.",
		}, []string{"verb", "result"}),
		plugging: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "multus_hotplug_duration_seconds",
			Help:    "Time from when the daemon saw the annotation of a running pod until its networks were as requested.",
			Buckets: durations,
		}),
		drift: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "multus_status_drift_total",
			Help: "Interfaces of running pods that were not as the network-status says.",
		}, []string{"kind"}),
	}
	m.registry.MustRegister(
		m.requests, m.inFlight, m.planning, m.delegates, m.retries, m.written, m.givenUp, m.abandoned,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.starts()
	return m
}

// starts adds the metrics of the start of pods, and of the build.
func (m *Metrics) starts() {
	m.adds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "multus_add_duration_seconds", Buckets: durations,
		Help: "Time of a CNI ADD until its report, as the plugin on the host reports it.",
	}, []string{"result"})
	m.calls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "multus_delegate_calls_total",
		Help: "Calls of the plugins of a network, as the plugin on the host reports them.",
	}, []string{"command", "network", "plugin", "result"})
	m.networks.forget = func(network string) { m.calls.DeletePartialMatch(prometheus.Labels{"network": network}) }
	m.killed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "multus_delegate_killed_total", Help: "Networks one of whose plugins was killed, by reason.",
	}, []string{"reason"})
	for _, reason := range killReasons {
		m.killed.WithLabelValues(reason) // so that the first one is an increase
	}
	m.statuses = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "multus_status_duration_seconds", Buckets: durations,
		Help: "Time from the report of a pod until its network-status was written.",
	})
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "multus_build_info", Help: "1, with the version, the commit and the Go version of the daemon as labels.",
	}, []string{"version", "revision", "goversion"})
	build.WithLabelValues(version.Release(), version.Revision(), runtime.Version()).Set(1)
	m.registry.MustRegister(m.adds, m.calls, m.killed, m.statuses, build)
}

// Gauges adds the metrics that are computed when they are read: the statuses that wait, the sandboxes of the ledger,
// and whether the CNI configuration is in force.
func (m *Metrics) Gauges(queued, ledger, cniConf func() float64) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "multus_status_queue_length",
			Help: "Reports whose status is not written yet.",
		}, queued),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "multus_slot_owned", Help: "1 while the CNI configuration of this node is the one that the daemon generated.",
		}, cniConf),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "multus_ledger_entries",
			Help: "Sandboxes in the ledger of this node.",
		}, ledger),
	)
}

// HotPlug adds the metrics of running pods: the pods whose networks may have to be changed, and whether a runner works
// or waits for work.
func (m *Metrics) HotPlug(pending, runner func() float64) {
	m.registry.MustRegister(
		m.plugged, m.plugging,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "multus_hotplug_pending",
			Help: "Running pods whose networks may have to be changed, and requests for single networks.",
		}, pending),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "multus_runner_up", Help: "1 while a runner on the host works or waits for work.",
		}, runner),
	)
}

// Claims adds the number of pods whose entries in the status of ResourceClaims are not written yet.
func (m *Metrics) Claims(waiting func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "multus_claim_status_queue_length",
		Help: "Pods whose entries in the status of ResourceClaims are not written or removed yet.",
	}, waiting))
}

// Missing adds the number of pods that run without the networks that they request, by namespace.
func (m *Metrics) Missing(pods func() map[string]int) {
	m.registry.MustRegister(&byName{count: pods, desc: prometheus.NewDesc("multus_pods_without_networks",
		"Pods of this node that run without the networks that they request.", []string{"namespace"}, nil)})
}

// Attachments adds the number of attachments in the ledger, by network.
func (m *Metrics) Attachments(networks func() map[string]int) {
	m.registry.MustRegister(&byName{count: networks, desc: prometheus.NewDesc("multus_attachments",
		"Attachments in the ledger of this node.", []string{"network"}, nil)})
}

// Resync adds the metric of network statuses that are compared with what the pods have.
func (m *Metrics) Resync() {
	m.registry.MustRegister(m.drift)
	for _, kind := range drifts {
		m.drift.WithLabelValues(kind) // so that the first difference is an increase
	}
}

// drifts are the kinds of differences that an event of a running pod stands for.
var drifts = map[string]string{
	publish.InterfaceLost: "lost", publish.AddressChanged: "changed", publish.InterfaceRestored: "restored",
}

// Changed records how long it took until the networks of a running pod were as requested.
func (m *Metrics) Changed(took time.Duration) { m.plugging.Observe(took.Seconds()) }

// changes are the verb and the result that an event of a running pod stands for.
var changes = map[string][2]string{
	publish.AddedInterface:          {"attach", "ok"},
	publish.FailedAddingInterface:   {"attach", "error"},
	publish.RemovedInterface:        {"detach", "ok"},
	publish.FailedRemovingInterface: {"detach", "error"},
}

// other is the label for a value that is not in the list of known ones. Users choose the names of plugins, and each new
// label value takes memory until the daemon ends.
const other = "other"

// known returns value if it is in the list, and other if not.
func known(value string, list []string) string {
	if slices.Contains(list, value) {
		return value
	}
	return other
}

var (
	killReasons   = []string{"timeout", "cancelled", "signal"}
	knownCommands = []string{request.Add, request.Del, request.Check, request.GC, request.Status, request.Update}
	knownMethods  = []string{"get", "post", "head", "put", "delete", "patch", "options"}
	// knownPlugins are the reference plugins, those of cluster networks, and those that are often used with Multus.
	knownPlugins = []string{
		"bandwidth", "bridge", "dhcp", "dummy", "firewall", "host-device", "host-local", "ipvlan", "loopback", "macvlan",
		"passthru",
		"portmap", "ptp", "sbr", "static", "tap", "tuning", "vlan", "vrf",
		"antrea", "aws-cni", "azure-vnet", "calico", "cilium-cni", "egress-cni", "flannel", "kube-ovn", "ovn-k8s-cni-overlay",
		"terway", "weave-net",
		"accelerated-bridge", "bond", "cnv-bridge", "cnv-tuning", "coordinator", "ib-sriov", "ib-sriov-cni", "istio-cni",
		"linkerd-cni",
		"ovs", "rdma", "route-override", "sriov", "userspace", "whereabouts",
	}
)

// Count wraps a handler and counts its requests. name is the value of the handler label.
func (m *Metrics) Count(name string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m.inFlight.Inc()
		defer m.inFlight.Dec()
		c := &coded{ResponseWriter: w, code: http.StatusOK}
		h(c, r)
		if !m.off {
			m.requests.WithLabelValues(name, strconv.Itoa(c.code), known(strings.ToLower(r.Method), knownMethods)).Inc()
		}
	}
}

// Planned records the time of one plan.
func (m *Metrics) Planned(command string, code uint, took time.Duration) {
	if !m.off {
		m.planning.WithLabelValues(known(command, knownCommands), strconv.Itoa(int(code))).Observe(took.Seconds())
	}
}

// coded records the HTTP status code of a response.
type coded struct {
	http.ResponseWriter
	code int
}

func (c *coded) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

// StatusWritten counts a report whose status was written, or that has no status. The report was made at a time in
// nanoseconds since 1970, or 0 if that is not known.
func (m *Metrics) StatusWritten(_ string, at int64, _ *publish.Trace) {
	m.written.Inc()
	if took := time.Since(time.Unix(0, at)); at > 0 && took >= 0 { // the clock of the node may have been set
		m.statuses.Observe(took.Seconds())
	}
}

// StatusRetried counts an attempt to write a status that has to be repeated.
func (m *Metrics) StatusRetried() { m.retries.Inc() }

// StatusGivenUp counts a report whose status will never be written.
func (m *Metrics) StatusGivenUp() { m.givenUp.Inc() }

// Observe records the timings of a report.
func (m *Metrics) Observe(r *publish.Report) {
	if m.off {
		return
	}
	if r.Command == request.Del && r.Failure != nil {
		m.abandoned.Inc()
	}
	for _, e := range r.Events {
		if labels, ok := changes[e.Reason]; ok {
			m.plugged.WithLabelValues(labels[:]...).Inc()
		}
		if kind, ok := drifts[e.Reason]; ok {
			m.drift.WithLabelValues(kind).Inc()
		}
	}
	if r.Command == request.Add && r.Trace != nil && !r.Trace.Repeated {
		m.adds.WithLabelValues(result(r.Failure != nil)).Observe(r.Trace.Seconds)
	}
	for i := range r.Timings {
		m.timed(cmp.Or(r.Timings[i].Command, r.Command), &r.Timings[i])
	}
}

// timed records the call of the plugins of one network.
func (m *Metrics) timed(command string, t *publish.Timing) {
	command, plugin, res := known(command, knownCommands), known(t.Plugin, knownPlugins), result(t.Failed)
	m.delegates.WithLabelValues(command, plugin, res).Observe(t.Seconds)
	m.calls.WithLabelValues(command, m.networks.label(t.Network, time.Now()), plugin, res).Inc()
	if t.Killed != "" {
		m.killed.WithLabelValues(known(t.Killed, killReasons)).Inc()
	}
}

func result(failed bool) string {
	if failed {
		return "error"
	}
	return "ok"
}

// Guarded is Server for users who may get /metrics, with TLS. The certificate is signed by itself (behaviour F76).
func (m *Metrics) Guarded(profiles bool, r Reviewer, log *slog.Logger) (*http.Server, error) {
	certificate, err := selfSigned(time.Now())
	if err != nil {
		return nil, err
	}
	s := m.server(profiles, newGuard(r, clock.RealClock{}, log).wrap)
	s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	return s, nil
}

// Server returns the server of /metrics, which needs no authentication, as that of today's Multus (behaviour F50). If
// profiles is set, it also serves profiles, to requests from the loopback only.
func (m *Metrics) Server(profiles bool) *http.Server {
	return m.server(profiles, func(h http.Handler) http.Handler { return h })
}

func (m *Metrics) server(profiles bool, guarded func(http.Handler) http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/metrics", guarded(promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})))
	if profiles {
		for path, h := range map[string]http.HandlerFunc{
			"/debug/pprof/": pprof.Index, "/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/profile": pprof.Profile,
			"/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
		} {
			mux.HandleFunc(path, loopback(h))
		}
	}
	return &http.Server{Handler: mux, ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit}
}

// loopback rejects requests from other machines.
func loopback(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			http.Error(w, "profiles are served to this machine only", http.StatusForbidden)
			return
		}
		h(w, r)
	}
}
