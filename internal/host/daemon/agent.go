package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/utils/clock"

	"multus/internal/agent/claims"
	"multus/internal/agent/cniconfig"
	"multus/internal/agent/hotplug"
	"multus/internal/agent/metrics"
	"multus/internal/agent/planserver"
	"multus/internal/agent/podstatus"
	"multus/internal/agent/repair"
	"multus/internal/agent/resync"
	"multus/internal/agent/trace"
	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/fault"
	"multus/internal/version"
	wirev1 "multus/wire/v1"
)

// agent has the parts of the daemon that do its work.
type agent struct {
	conf     *config.Daemon
	log      *slog.Logger
	sources  *sources
	statuses *podstatus.Writer
	// claims is nil if the status of ResourceClaims is not written.
	claims *claims.Writer
	// cniConf is nil if the configuration leaves the CNI configuration file to other programs.
	cniConf   *cniconfig.Controller
	conflicts *conflictEvents
	// hotPlug is nil if the networks of running pods are not changed.
	hotPlug *hotplug.Queue
	// missing finds pods without their networks. It is nil if they are not looked for.
	missing *repair.Finder
	// resync compares network statuses with what the pods have. It is nil if they are not compared.
	resync *resync.Comparer
	// tracer is nil if no traces are exported.
	tracer  *trace.Tracer
	metrics *metrics.Metrics
	server  *planserver.Server
	// instance distinguishes this process from others in an answer.
	instance string
}

// assemble connects the parts. It starts none of them.
func assemble(ctx context.Context, conf *config.Daemon, o *Options, log *slog.Logger) (*agent, error) {
	s, err := connect(conf, o.NodeName, o.Getenv, log)
	if err != nil {
		return nil, err
	}
	a := &agent{
		conf: conf, log: log, sources: s, cniConf: newController(conf, log),
		conflicts: newConflictEvents(s.emitNode, o.NodeName, log),
		metrics:   metrics.New(conf.MetricsPort != nil), instance: rand.Text(),
	}
	if a.cniConf != nil {
		a.cniConf.OnConflict = a.conflicts.enqueue
		if s.Kube != nil { // without a cluster there is no node to read
			a.cniConf.Node = cniconfig.NodeReader(s.Kube.Node, o.NodeName)
		}
	}
	if err := a.exportTraces(ctx, o.NodeName); err != nil {
		log.Error("no traces are exported; correct the key tracing of the daemon's file", "err", err)
	}
	observed := observer{a.metrics, a.tracer}
	a.statuses = podstatus.New(podstatus.Options{
		Arrived: a.writeClaims(), Cluster: s.Cluster,
		Dir:      filepath.Join(conf.SocketDir, wirev1.ReportDir),
		Observer: observed, Clock: clock.RealClock{}, Log: log,
	})
	a.metrics.Gauges(a.statuses.Waiting, func() float64 { return entries(cmp.Or(conf.CNIDir, config.DefaultCNIDir)) },
		a.inForce)
	a.metrics.Attachments(networkCounter(&ledger.Store{Dir: cmp.Or(conf.CNIDir, config.DefaultCNIDir), Log: log}))
	if conf.HotPlug && s.Kube != nil {
		a.followPods()
	}
	a.server = planserver.New(planserver.Options{
		Config: conf, Statuses: a.statuses, Claims: a.claims, Observe: observed.Observe, Metrics: a.metrics,
		HotPlug: a.hotPlug, Missing: a.missing, Ready: a.ready, Instance: a.instance, Log: log, Resync: a.resync,
		Resolver: &plan.Resolver{
			Networks: s.Networks, Pods: s.Pods, Devices: s.Devices, PhysicalFunction: device.PhysicalFunction, Log: log,
		},
	})
	return a, nil
}

// exportTraces connects the part that exports traces, if the configuration has an endpoint.
func (a *agent) exportTraces(ctx context.Context, node string) (err error) {
	t := &a.conf.Tracing
	if t.Endpoint == "" {
		return nil
	}
	a.tracer, err = trace.New(ctx, &trace.Options{
		Endpoint: t.Endpoint, SampleRatio: t.SampleRatio, Node: node, Version: version.Release(), Log: a.log,
	})
	return err
}

// observer takes reports and what becomes of them, for metrics and traces.
type observer struct {
	*metrics.Metrics
	tracer *trace.Tracer // or nil
}

// Observe counts a report, and exports its trace.
func (o observer) Observe(r *publish.Report) {
	o.Metrics.Observe(r)
	if o.tracer != nil {
		o.tracer.Observe(r)
	}
}

// StatusWritten counts a status that was written, and exports its span.
func (o observer) StatusWritten(containerID string, at int64, of *publish.Trace) {
	o.Metrics.StatusWritten(containerID, at, of)
	if o.tracer != nil {
		o.tracer.StatusWritten(containerID, at, of)
	}
}

// writeClaims connects the part that writes the status of ResourceClaims, if the configuration says so. It returns what
// takes reports then, or nil.
func (a *agent) writeClaims() func(*publish.Report) {
	if a.conf.ClaimStatus && len(a.conf.ClaimStatusDrivers) == 0 {
		a.log.Warn("claimStatus has no effect: claimStatusDrivers lists no driver")
	}
	if len(a.conf.ClaimDrivers()) == 0 || a.sources.Kube == nil {
		return nil
	}
	records := &ledger.Store{Dir: cmp.Or(a.conf.CNIDir, config.DefaultCNIDir), Log: a.log}
	a.claims = claims.New(claims.Options{
		Cluster: a.sources.Kube, Drivers: a.conf.ClaimDrivers(), Dir: filepath.Join(a.conf.SocketDir, "claims"),
		Recorded: records.Has, Clock: clock.RealClock{}, Log: a.log,
	})
	a.metrics.Claims(a.claims.Waiting)
	return a.claims.Observe
}

// newController returns the controller of the CNI configuration file, or nil if the configuration leaves the file to
// other programs.
func newController(conf *config.Daemon, log *slog.Logger) *cniconfig.Controller {
	if conf.MultusConfigFile == config.Auto && conf.MultusAutoconfigDir == "" {
		log.Info("the daemon writes no CNI configuration: multusAutoconfigDir is not set")
		return nil
	}
	cniConf := cniconfig.NewController(conf, log)
	cniConf.SaveFile = cniconfig.SavePath(cmp.Or(conf.CNIDir, config.DefaultCNIDir))
	return cniConf
}

// ready returns an error while plans cannot be made, and otherwise the error of the CNI configuration file.
func (a *agent) ready() error {
	if err := a.sources.ready(); err != nil || a.cniConf == nil {
		return err
	}
	return a.cniConf.Ready()
}

// entries returns the number of sandboxes in a state directory. It returns 0 if the directory cannot be read.
func entries(dir string) float64 {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	n := 0
	for _, f := range files {
		if f.Type().IsRegular() && !strings.HasPrefix(f.Name(), ".") {
			n++
		}
	}
	return float64(n)
}

// networkCounter returns a function that counts the recorded attachments by network. It must not be called twice at the
// same time. A record that a failed ADD has left for its DEL does not count.
func networkCounter(records *ledger.Store) func() map[string]int {
	return func() map[string]int {
		holdings, err := records.Holdings("")
		if err != nil {
			records.Log.Debug("attachments are not counted", "err", err)
		}
		out := map[string]int{}
		for i := range holdings {
			if !holdings[i].Undone {
				out[holdings[i].Network]++
			}
		}
		return out
	}
}

// inForce returns 1 while the runtime calls Multus by the configuration that the daemon wrote, and 0 otherwise. A file
// of another program that comes first in the directory takes its place (behaviour F73).
func (a *agent) inForce() float64 {
	if a.cniConf == nil || a.cniConf.InForce() != nil || !callsMultus(a.conf.CNIConfigDir, a.conf.Type) {
		return 0
	}
	return 1
}

// callsMultus reports whether the first usable configuration in a CNI configuration directory, which the runtime loads,
// has a plugin of Multus. typ is the type that the daemon writes.
func callsMultus(dir, typ string) bool {
	files, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, f := range files { // sorted by name
		if f.IsDir() || !cniconf.IsFileName(f.Name()) {
			continue
		}
		if l, _, err := cniconf.LoadPath(filepath.Join(dir, f.Name())); err == nil {
			return slices.ContainsFunc(l.Types(), func(t string) bool { return t == typ || cniconf.IsMultus(t) })
		}
	}
	return false
}

// openPorts opens the ports of probes and of metrics. A port that is not set is nil.
func (a *agent) openPorts(ctx context.Context, health int, sock *socket) (probes, scrapes *port, err error) {
	if health != 0 {
		probes, err = openHealth(ctx, health, &http.Server{
			Handler:           a.server.Probes(sock),
			ReadHeaderTimeout: probeLimit, ReadTimeout: probeLimit, WriteTimeout: 3 * probeLimit,
		}, a.log)
		if err != nil {
			return nil, nil, err
		}
	}
	if a.conf.MetricsPort != nil {
		scrapes, err = a.openMetrics(ctx, *a.conf.MetricsPort)
	}
	return probes, scrapes, err
}

func (a *agent) openMetrics(ctx context.Context, number int) (*port, error) {
	address, err := metricsAddress(a.conf.MetricsAddress, number)
	if err != nil {
		return nil, err
	}
	server := a.metrics.Server(a.conf.EnablePprof)
	switch auth := a.conf.MetricsAuth; {
	case auth == "":
	case auth != config.AuthKubernetes:
		return nil, fmt.Errorf("metricsAuth is %q: set it to %q, or leave the key out", fault.Clip(auth, fault.MaxValue),
			config.AuthKubernetes)
	case a.sources.Kube == nil:
		return nil, fmt.Errorf("metricsAuth is %q, and there is no API server: leave the key out with networksDir", auth)
	default:
		if server, err = a.metrics.Guarded(a.conf.EnablePprof, a.sources.Kube, a.log); err != nil {
			return nil, err
		}
	}
	return openPort(ctx, "metrics", address, server, a.log)
}

// metricsAddress returns the address of the metrics: all addresses of the node, unless the configuration has one
// (behaviour F70).
func metricsAddress(address string, number int) (string, error) {
	if address != "" {
		if _, err := netip.ParseAddr(address); err != nil {
			return "", fmt.Errorf(
				"metricsAddress is %q: give an IP address of the node, such as 127.0.0.1, or leave the key out",
				fault.Clip(address, fault.MaxValue))
		}
	}
	return net.JoinHostPort(address, strconv.Itoa(number)), nil
}
