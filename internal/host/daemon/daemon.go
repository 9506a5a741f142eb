// Package daemon is the process edge of the node agent: flags, files, signals and the socket. The daemon makes plans
// for the plugins, writes network statuses and events, and maintains the CNI configuration file. It runs no delegate,
// so it needs no privilege for that (docs/architecture.md). Only cmd/multus-daemon imports this package.
package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"multus/api"
	"multus/internal/agent/cniconfig"
	"multus/internal/agent/metrics"
	"multus/internal/agent/planserver"
	"multus/internal/agent/podstatus"
	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/obs"
	"multus/internal/source"
	"multus/internal/source/kube"
)

// shutdownLimit limits the time of the requests in flight after SIGTERM.
const shutdownLimit = 10 * time.Second

// DefaultConfig is the path at which today's manifests mount the daemon's configuration file (behaviour A.5).
const DefaultConfig = "/etc/cni/net.d/multus.d/daemon-config.json"

// Options are the settings of one run. Flags take precedence over the environment.
type Options struct {
	Config     string
	Kubeconfig string
	NodeName   string
	// NodeAddress is the node's address in the cluster. It is used if the configuration has no nodeAddresses. It may be
	// empty.
	NodeAddress string
	// HealthPort is the loopback port that answers the kubelet's probes. 0 disables it.
	HealthPort int
	Getenv     func(string) string
}

// Run serves until ctx ends, and then waits for the requests in flight. It leaves the CNI configuration file in place:
// a pod that starts while the daemon is away must not start without its networks (multus-cni#1387).
func Run(ctx context.Context, o Options) error {
	conf, err := o.configuration()
	if err != nil {
		return err
	}
	log, err := logger(conf)
	if err != nil {
		return err
	}
	groups, _ := os.ReadFile("/proc/self/cgroup") // if it cannot be read, memoryFiles returns the files of a container
	limitMemory(o.Getenv, memoryFiles(string(groups)), log)
	s, err := connect(conf, o.Getenv, log)
	if err != nil {
		return err
	}
	cniConf := newController(conf, log)
	if cniConf != nil && s.Kube != nil { // without a cluster there is no node to read
		cniConf.Node = cniconfig.NodeReader(s.Kube.Node, o.NodeName)
	}
	m := metrics.New(conf.MetricsPort != nil)
	statuses := podstatus.New(podstatus.Options{
		Cluster: s.Cluster, Dir: filepath.Join(conf.SocketDir, api.ReportDir), Metrics: m, Log: log,
	})
	m.Gauges(statuses.Waiting, func() float64 { return entries(cmp.Or(conf.CNIDir, config.DefaultCNIDir)) },
		func() float64 { return inForce(cniConf) })
	instance := rand.Text()
	srv := planserver.New(planserver.Options{
		Config: conf, Statuses: statuses, Metrics: m, Ready: ready(s.ready, cniConf), Instance: instance, Log: log,
		Resolver: &plan.Resolver{
			Networks: s.Networks, Pods: s.Pods, Devices: s.Devices, PhysicalFunction: device.PhysicalFunction, Log: log,
		},
	})
	logIgnoredKeys(conf, log)
	g, ctx := errgroup.WithContext(ctx)
	sock, hs := serveSocket(ctx, g, srv.Handler(), conf.Socket(), instance, log)
	if err := servePorts(ctx, g, o.HealthPort, srv.Probes(sock), conf, m, log); err != nil {
		return err // The socket is not touched yet, because another daemon may serve there.
	}
	if err := sock.open(ctx); err != nil {
		if ctx.Err() != nil { // the daemon was stopped while another one served
			return g.Wait()
		}
		return fmt.Errorf("socketDir of %s: %w; set socketDir to a directory of the node that is mounted in the container "+
			"(default %s)", o.Config, err, config.DefaultSocketDir)
	}
	log.Info("multus-daemon serves", "version", obs.Version(), "socket", conf.Socket(), "node", o.NodeName)
	g.Go(func() error { return sock.keep(ctx) })
	g.Go(func() error { s.run(ctx); return nil })
	g.Go(func() error { return statuses.Run(ctx) })
	if cniConf != nil {
		runController(ctx, g, cniConf, newConflictEvents(s.emitNode, o.NodeName, log))
	}
	g.Go(func() error { return drain(ctx, hs, sock, log) })
	err = g.Wait()
	log.Info("multus-daemon ends", "err", err)
	return err
}

// serveSocket prepares the socket and its server. When the socket is bound again, the old listener ends without an
// error.
func serveSocket(ctx context.Context, g *errgroup.Group, h http.Handler, path, instance string, log *slog.Logger,
) (*socket, *http.Server) {
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	hs := &http.Server{Handler: h, ReadHeaderTimeout: planserver.PlanLimit, ErrorLog: errorLog}
	sock := newSocket(path, instance, log, func(l net.Listener) {
		g.Go(func() error {
			if err := hs.Serve(l); ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("serve %s: %w", path, err)
			}
			return nil
		})
	})
	return sock, hs
}

// servePorts serves probes and metrics on the ports that are set.
func servePorts(ctx context.Context, g *errgroup.Group, health int, probes http.Handler, conf *config.Daemon,
	m *metrics.Metrics, log *slog.Logger,
) error {
	if health != 0 {
		p, err := openHealth(ctx, health, log)
		if err != nil {
			return err
		}
		hs := &http.Server{
			Handler: probes, ReadHeaderTimeout: probeLimit, ReadTimeout: probeLimit, WriteTimeout: 3 * probeLimit,
		}
		g.Go(func() error { return p.serve(ctx, hs) })
	}
	if conf.MetricsPort != nil {
		p, err := openPort(ctx, "metrics", ":"+strconv.Itoa(*conf.MetricsPort), log)
		if err != nil {
			return err
		}
		g.Go(func() error { return p.serve(ctx, m.Server(conf.EnablePprof)) })
	}
	return nil
}

// configuration reads the daemon's configuration file and applies the flags to it.
func (o *Options) configuration() (*config.Daemon, error) {
	b, err := os.ReadFile(o.Config)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; give --config FILE (examples/node/daemon-config.json is one to start from)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the daemon's configuration: %w", err)
	}
	conf, err := config.ParseDaemon(b)
	if err == nil {
		err = conf.Usable()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Config, err)
	}
	useOwnPath(conf)
	if o.Kubeconfig != "" {
		conf.Kubeconfig = o.Kubeconfig
	}
	if o.NodeAddress != "" && len(conf.NodeAddresses) == 0 {
		conf.NodeAddresses = []string{o.NodeAddress}
	}
	return conf, nil
}

// logIgnoredKeys logs the keys of today's Multus that are accepted but have no effect.
func logIgnoredKeys(conf *config.Daemon, log *slog.Logger) {
	if conf.PerNodeCertificate != nil {
		log.Error("perNodeCertificate is not supported: the credentials of the pod are used")
	}
	if conf.ConnectionLimit != nil {
		log.Warn("connectionLimit has no effect: requests are short, and no plugin runs in the daemon",
			"connection_limit", *conf.ConnectionLimit)
	}
}

// useOwnPath removes the prefix under which today's manifests mount the node's directories from socketDir, if that
// mount does not exist.
func useOwnPath(conf *config.Daemon) {
	own := conf.HostPath(conf.SocketDir)
	if own == conf.SocketDir {
		return
	}
	if _, err := os.Stat(strings.TrimSuffix(conf.SocketDir, own)); errors.Is(err, fs.ErrNotExist) {
		conf.SocketDir = own
	}
}

// drain waits for ctx to end, releases the socket, and waits at most shutdownLimit for the requests in flight. The next
// daemon can serve meanwhile.
func drain(ctx context.Context, hs *http.Server, sock *socket, log *slog.Logger) error {
	<-ctx.Done()
	sock.close()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	err := hs.Shutdown(last)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("requests in flight are cut off; the runtime tries again", "limit", shutdownLimit)
		err = hs.Close()
	}
	return err
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

// runController runs the controller of the CNI configuration file, and the node events that report its loss.
func runController(ctx context.Context, g *errgroup.Group, cniConf *cniconfig.Controller, events *conflictEvents) {
	cniConf.OnConflict = events.enqueue
	g.Go(func() error { return cniConf.Run(ctx) })
	g.Go(func() error { return events.run(ctx) })
}

// ready returns a check of readiness: it returns an error while plans cannot be made, and otherwise the error of the
// CNI configuration file.
func ready(plans func() error, cniConf *cniconfig.Controller) func() error {
	return func() error {
		if err := plans(); err != nil || cniConf == nil {
			return err
		}
		return cniConf.Ready()
	}
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

// inForce returns 1 while the runtime calls Multus by the configuration file that the daemon wrote, and 0 otherwise.
func inForce(cniConf *cniconfig.Controller) float64 {
	if cniConf == nil || cniConf.InForce() != nil {
		return 0
	}
	return 1
}

func logger(conf *config.Daemon) (*slog.Logger, error) {
	level, err := obs.ParseLevel(conf.LogLevel, obs.LevelVerbose)
	if err != nil {
		return nil, err
	}
	o := obs.Options{Level: level, File: conf.LogFile, Rotate: conf.LogOptions}
	if conf.LogToStderr == nil || *conf.LogToStderr || conf.LogFile == "" {
		o.Stderr = os.Stderr
	}
	return obs.New(o), nil
}

// sources are those of the plugin, with a cache of all network definitions.
type sources struct {
	*source.Sources
	// run keeps the cache up to date until ctx ends. ready returns an error while plans cannot be made.
	run   func(ctx context.Context)
	ready func() error
	// emitNode writes an event of a node. It is nil without a cluster.
	emitNode func(ctx context.Context, node string, e publish.Event) error
}

func connect(conf *config.Daemon, getenv func(string) string, log *slog.Logger) (*sources, error) {
	s, err := source.Open(source.Options{
		NetworksDir: conf.NetworksDir, StatusDir: filepath.Join(conf.SocketDir, "status"),
		Kubeconfig: conf.Kubeconfig, KubeletRoot: conf.KubeletRoot, Getenv: getenv, Log: log,
	})
	if errors.Is(err, kube.ErrNoCluster) {
		return nil, fmt.Errorf("%w: give --kubeconfig, or networksDir in the configuration, or run in a pod", err)
	}
	if err != nil {
		return nil, err
	}
	if s.Kube == nil {
		return &sources{Sources: s, run: func(context.Context) {}, ready: func() error { return nil }}, nil
	}
	cache := kube.NewCache(s.Kube, log)
	s.Networks = cache
	return &sources{Sources: s, emitNode: s.Kube.EmitNode, run: cache.Run, ready: func() error {
		if !cache.Synced() {
			return errors.New("network definitions are not read yet: the API server does not answer, or does not allow " +
				"Multus to list them")
		}
		return nil
	}}, nil
}
