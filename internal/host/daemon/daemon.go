// Package daemon is the process edge of the node agent: flags, files, signals and the socket. The daemon makes plans
// for the plugins, writes network statuses and events, and maintains the CNI configuration file. It runs no delegate,
// so it needs no privilege for that (docs/architecture.md). Only cmd/multus-daemon imports this package.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"multus/internal/agent/planserver"
	"multus/internal/config"
	"multus/internal/version"
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
	// MetricsPort replaces metricsPort of the configuration. 0 leaves it.
	MetricsPort int
	// MetricsAuth replaces metricsAuth of the configuration. "" leaves it.
	MetricsAuth string
	Getenv      func(string) string
}

// part is something that the daemon does until ctx ends. Its error ends the daemon.
type part struct {
	name    string
	enabled bool
	run     func(ctx context.Context) error
}

// Run serves until ctx ends, and then waits for the requests in flight. It leaves the CNI configuration file in place:
// a pod that starts while no daemon runs must not start without its networks (multus-cni#1387).
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
	a, err := assemble(ctx, conf, &o, log)
	if err != nil {
		return err
	}
	logIgnoredKeys(conf, log)

	g, ctx := errgroup.WithContext(ctx)
	start := func(parts []part) {
		for _, p := range parts {
			if p.enabled {
				g.Go(func() error {
					err := p.run(ctx)
					log.Debug("part of the daemon ends", "part", p.name, "err", err)
					return err
				})
			}
		}
	}
	sock, hs := serveSocket(ctx, g, a.server.Handler(), conf.Socket(), a.instance, log)
	probes, scrapes, err := a.openPorts(ctx, o.HealthPort, sock)
	if err != nil {
		return err // The socket is not touched yet, because another daemon may serve there.
	}
	// The ports answer also while another daemon still serves. The other parts start when it has ended.
	start([]part{
		{"probes", probes != nil, probes.run},
		{"metrics", scrapes != nil, scrapes.run},
	})
	if err := sock.open(ctx); err != nil {
		if ctx.Err() != nil { // the daemon was stopped while another one served
			return g.Wait()
		}
		return fmt.Errorf("socketDir of %s: %w; set socketDir to a directory of the node that is mounted in the container "+
			"(default %s)", o.Config, err, config.DefaultSocketDir)
	}
	log.Info("multus-daemon serves", "version", version.String(), "socket", conf.Socket(), "node", o.NodeName)
	start(a.parts(o.NodeName, hs, sock))
	err = g.Wait()
	log.Info("multus-daemon ends", "err", err)
	return err
}

// parts returns what the daemon does while it serves.
func (a *agent) parts(node string, hs *http.Server, sock *socket) []part {
	return []part{
		{"socket", true, sock.keep},
		{"network definitions", a.sources.cache != nil, a.sources.run},
		{"ResourceSlices of the node", a.sources.slices != nil, a.sources.runSlices},
		{"network statuses", true, a.statuses.Run},
		{"status of ResourceClaims", a.claims != nil, func(ctx context.Context) error { return a.claims.Run(ctx) }},
		{"traces", a.tracer != nil, func(ctx context.Context) error { return a.tracer.Run(ctx) }},
		{"CNI configuration", a.cniConf != nil, a.cniConf.Run},
		{"events of configuration conflicts", a.cniConf != nil, a.conflicts.run},
		{"work of the runner", a.hotPlug != nil, a.hotPlug.Run},
		{"pods of the node", a.hotPlug != nil, func(ctx context.Context) error { a.watchPods(ctx, node); return nil }},
		{"pods without their networks", a.missing != nil, a.missing.Run},
		{"drain", true, func(ctx context.Context) error { return drain(ctx, hs, sock, a.log) }},
	}
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
