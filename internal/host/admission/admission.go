// Package admission is the process edge of `multus-daemon admission`: flags, files, ports and TLS of the webhook that
// reviews network definitions and pods. It decides nothing: internal/admission does, and internal/admission/cert
// maintains the certificate. The server needs no privilege and runs beside the node agents, in a Deployment of its own.
// Only cmd/multus-daemon imports this package.
package admission

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"k8s.io/utils/clock"

	"multus/internal/admission"
	"multus/internal/admission/cert"
	"multus/internal/agent/metrics"
	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/lint"
	"multus/internal/logging"
	"multus/internal/source/kube"
	"multus/internal/version"
)

const (
	// shutdownLimit limits the time of the requests in flight after the server has stopped to accept new ones.
	shutdownLimit = 5 * time.Second
	// headerLimit limits the time to read the header of a request, and idleLimit that of a connection without requests.
	headerLimit = 5 * time.Second
	idleLimit   = 2 * time.Minute
	// readLimit limits the time to read a request, and writeLimit that until its answer is written: a slow client must not
	// keep the place of another one.
	readLimit  = 5 * time.Second
	writeLimit = 10 * time.Second
	// logEvery is the interval within which a request that cannot be reviewed is logged once.
	logEvery = time.Minute
)

// Options are the settings of one run.
type Options struct {
	// Config is the path of the daemon's file, whose section admission applies. Without such a file the defaults apply.
	Config     string
	Kubeconfig string
	// Listen is the address of the webhook, and Health that of probes and metrics.
	Listen, Health string
	// Secret is the secret with the certificate, and Webhooks the name of the webhook configurations.
	Secret   plan.Ref
	Webhooks string
	// Names are the DNS names of the webhook.
	Names []string
	// CertDir has the files of a certificate that cert-manager maintains. It is used if CertManager is set, here or in the
	// configuration.
	CertDir     string
	CertManager bool
	// Drain is how long the server continues to serve after ctx has ended, until no API server sends requests to it.
	Drain  time.Duration
	Getenv func(string) string
	// Started, if set, is called with the addresses of the ports when they are open.
	Started func(webhook, health net.Addr)
	Clock   clock.Clock
}

// certificates provides the certificate of the webhook.
type certificates interface {
	Run(ctx context.Context) error
	Ready() error
	Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// server has the parts of the process.
type server struct {
	options  Options
	conf     *config.Daemon
	log      *slog.Logger
	cache    *kube.Cache
	attached *kube.AttachedPods // nil if the key inUse is off
	stored   *admission.Stored
	certs    certificates
	metrics  *metrics.Admission
	reviewer *admission.Reviewer
	change   Mutate // nil if nothing is injected
	injector *injector
	draining chan struct{}
	bad      rate.Sometimes // the log of requests that cannot be reviewed
}

// Run serves until ctx ends.
func Run(ctx context.Context, o Options) error {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	s, err := assemble(o)
	if err != nil {
		return err
	}
	webhook, health, err := s.listen(ctx)
	if err != nil {
		return err
	}
	if o.Started != nil {
		o.Started(webhook.Addr(), health.Addr())
	}
	s.log.Info("multus-daemon admission serves", "version", version.String(), "webhook", webhook.Addr().String(),
		"probes", health.Addr().String())
	hooks := s.httpServer(s.webhook())
	hooks.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certs.Certificate}
	probes := s.httpServer(s.probes())
	g, ctx := errgroup.WithContext(ctx)
	serve := func(what string, run func() error) {
		g.Go(func() error {
			if err := run(); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", what, err)
			}
			return nil
		})
	}
	serve("webhook", func() error { return hooks.ServeTLS(webhook, "", "") })
	serve("probes", func() error { return probes.Serve(health) })
	g.Go(func() error { s.cache.Run(ctx); return nil })
	if s.attached != nil {
		g.Go(func() error { s.attached.Run(ctx); return nil })
	}
	g.Go(func() error { return s.stored.Run(ctx) })
	g.Go(func() error { return s.certs.Run(ctx) })
	if s.injector != nil {
		g.Go(func() error { return s.injector.run(ctx) })
	}
	g.Go(func() error { return s.drain(ctx, hooks, probes) })
	err = g.Wait()
	s.log.Info("multus-daemon admission ends", "err", err)
	return err
}

// assemble reads the configuration and connects the parts. It starts none of them.
func assemble(o Options) (*server, error) {
	conf, plugin, err := readConfig(o.Config)
	if err != nil {
		return nil, err
	}
	level, err := logging.ParseLevel(conf.LogLevel, logging.LevelVerbose)
	if err != nil {
		return nil, err
	}
	s := &server{
		options: o, conf: conf, log: logging.New(logging.Options{Level: level, Stderr: os.Stderr}),
		draining: make(chan struct{}), bad: rate.Sometimes{Interval: logEvery},
	}
	client, err := connect(&o)
	if err != nil {
		return nil, err
	}
	client.Log(s.log)
	s.cache = kube.NewCache(client, s.log)
	review := admission.Options{
		Config: conf.Admission, Plugin: plugin, Definitions: s.cache, Namespaces: client,
	}
	if conf.Admission.InUse != config.AdmissionOff {
		s.attached = kube.NewAttachedPods(client, s.log)
		review.Attached = s.attached
	}
	if s.reviewer, err = admission.New(review); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Config, err)
	}
	s.stored = admission.NewStored(s.reviewer, func(ctx context.Context, e admission.Event) error {
		return client.EmitDefinition(ctx, e.Ref, e.UID, e.Version, admission.InvalidConfiguration, e.Message)
	}, s.log)
	annotations := []string{lint.Ignore}
	if s.injector = newInjector(conf, plugin, client, s.cache, o.Secret.Namespace, o.Clock, s.log); s.injector != nil {
		s.change, annotations = s.injector.review, append(s.injector.annotations(), annotations...)
	}
	s.cache.Observe(observer{s.stored}, annotations...)
	s.metrics = metrics.NewAdmission(admission.Rules(), admission.States(), s.stored.Counts)
	s.certs = &cert.Manager{
		Names: o.Names, Store: secretStore{client, o.Secret}, Trust: trust{client, o.Webhooks}, Clock: o.Clock, Log: s.log,
	}
	if conf.Admission.CertManager || o.CertManager {
		s.certs = &cert.Files{Dir: o.CertDir, Clock: o.Clock, Log: s.log}
	}
	return s, nil
}

// readConfig reads the daemon's file: the section for this server, and what limits pods and definitions.
func readConfig(path string) (*config.Daemon, *config.Plugin, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = []byte("{}"), nil // the thin plugin has no such file
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the daemon's configuration: %w", err)
	}
	conf, err := config.ParseDaemon(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	plugin, err := config.ParsePlugin(cniconf.PluginConfig(b))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return conf, plugin, nil
}

func connect(o *Options) (*kube.Client, error) {
	c, err := kube.Load(kube.Options{
		Kubeconfig: o.Kubeconfig, Version: version.Release(),
		ServiceHost: o.Getenv("KUBERNETES_SERVICE_HOST"), ServicePort: o.Getenv("KUBERNETES_SERVICE_PORT"),
	})
	if errors.Is(err, kube.ErrNoCluster) {
		return nil, fmt.Errorf("%w: give --kubeconfig, or run in a pod", err)
	}
	if err != nil {
		return nil, err
	}
	return kube.New(c)
}

// observer passes definitions of the cluster to the check of stored definitions.
type observer struct{ stored *admission.Stored }

// Observe implements kube.DefinitionObserver.
func (o observer) Observe(d *kube.Observed) {
	o.stored.Check(&d.Definition, d.UID, d.Annotations[lint.Ignore], d.Partial)
}

// Gone implements kube.DefinitionObserver.
func (o observer) Gone(ref plan.Ref) { o.stored.Forget(ref) }

func (s *server) listen(ctx context.Context) (webhook, health net.Listener, err error) {
	var lc net.ListenConfig
	if webhook, err = lc.Listen(ctx, "tcp", s.options.Listen); err != nil {
		return nil, nil, fmt.Errorf("listen for the webhook: %w; give another address with --listen", err)
	}
	if health, err = lc.Listen(ctx, "tcp", s.options.Health); err != nil {
		_ = webhook.Close()
		return nil, nil, fmt.Errorf("listen for probes: %w; give another address with --health", err)
	}
	return webhook, health, nil
}

func (s *server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerLimit, ReadTimeout: readLimit, WriteTimeout: writeLimit, IdleTimeout: idleLimit,
		// An API server that does not trust the certificate yet is logged at each attempt otherwise.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// drain waits for ctx to end, reports that the server is not ready, serves until no API server sends requests to it any
// more, and then ends.
func (s *server) drain(ctx context.Context, servers ...*http.Server) error {
	<-ctx.Done()
	close(s.draining)
	if s.options.Drain > 0 {
		<-s.options.Clock.After(s.options.Drain)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	var all error
	for _, one := range servers {
		err := one.Shutdown(last)
		if errors.Is(err, context.DeadlineExceeded) {
			err = one.Close()
		}
		all = errors.Join(all, err)
	}
	return all
}
