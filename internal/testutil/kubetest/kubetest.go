// Package kubetest runs a real kube-apiserver with its etcd for tests that need real watches, patches and conflicts.
//
// It is not a cluster. There is no kubelet, no scheduler and no controller: a pod is only an object that is bound to
// Node. The Makefile builds the two servers into bin/tools. Tests are skipped if they are missing. Only tests and the
// demonstration may import this package.
package kubetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"multus/internal/testutil/module"
	"multus/internal/testutil/proc"
)

const (
	// Node is the name of the node to which CreatePod binds pods.
	Node = "node-a"
	// Agent is the User-Agent of requests of this package. Requests does not count them.
	Agent = "kubetest-fixture"

	adminToken = "kubetest-admin"

	// readyTimeout bounds the start of the API server. It takes 3 s on an idle machine; the limit leaves room for a busy
	// one.
	readyTimeout = 90 * time.Second
	// callTimeout bounds one call of a method of Cluster.
	callTimeout = 20 * time.Second
	// pollInterval is the interval at which a server's readiness is checked.
	pollInterval = 50 * time.Millisecond
	// startAttempts is greater than 1 because another process may take a free port before the server listens on it.
	startAttempts = 3
)

// ErrUnavailable is returned when no server can run on this machine, because a binary is missing or because of -short.
// Tests should then be skipped.
var ErrUnavailable = errors.New("API server for tests is unavailable")

// errExited is returned when a server ended before it was ready.
var errExited = errors.New("server exited")

// Options describe a server.
type Options struct {
	// Dir is the directory of the servers' files. Default of StartWith: a temporary folder of the test.
	Dir string
	// RBAC makes the server authorise requests by roles. Otherwise every request is allowed. The administrator is always
	// authorised.
	RBAC bool
	// Uncached makes the API server answer lists and watches from etcd instead of its watch cache.
	Uncached bool
}

// Cluster is one API server with its etcd. Its methods may be called concurrently, except for Stop, Resume, Kill and
// Restart, of which only one may run at a time.
type Cluster struct {
	dir     string
	addr    string
	etcdURL string
	ca      []byte
	token   string

	apiPath string
	apiArgs []string
	etcd    *proc.Process
	api     *proc.Process

	// The clients of the fixtures. Requests does not count their requests.
	kube kubernetes.Interface
	dyn  dynamic.Interface
}

// Start returns a cluster that lives as long as the test. It skips the test if no cluster can run.
func Start(tb testing.TB) *Cluster {
	tb.Helper()
	return StartWith(tb, Options{})
}

// StartWith is like Start, with options.
func StartWith(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	c, stop, err := New(o)
	if errors.Is(err, ErrUnavailable) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(stop)
	return c
}

// StartFor returns a cluster for a whole package, and the function that ends it. It is called from TestMain after
// flag.Parse. The files are in dir, which the caller removes. If the error is ErrUnavailable, tests should be skipped.
func StartFor(dir string) (*Cluster, func(), error) {
	return New(Options{Dir: dir})
}

// New is like StartFor, with options.
func New(o Options) (*Cluster, func(), error) {
	if testing.Testing() && testing.Short() {
		return nil, nil, fmt.Errorf("%w: not with -short", ErrUnavailable)
	}
	root, err := module.Root()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range []string{"kube-apiserver", "etcd"} {
		if _, err := os.Stat(toolPath(root, name)); err != nil {
			return nil, nil, fmt.Errorf("%w: run `make bin/tools/%s`: %w", ErrUnavailable, name, err)
		}
	}
	for attempt := 1; ; attempt++ {
		c, err := start(root, o)
		if err == nil {
			return c, c.close, nil
		}
		if !errors.Is(err, errExited) || attempt == startAttempts {
			return nil, nil, err
		}
	}
}

func start(root string, o Options) (_ *Cluster, retErr error) {
	dir, err := os.MkdirTemp(o.Dir, "kube-")
	if err != nil {
		return nil, fmt.Errorf("make folder of the servers: %w", err)
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, addr: "127.0.0.1:" + ports[2], token: adminToken, apiPath: toolPath(root, "kube-apiserver")}
	defer func() {
		if retErr != nil {
			c.close()
		}
	}()
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	c.etcdURL = "http://127.0.0.1:" + ports[0]
	if c.etcd, err = startServer(filepath.Join(dir, "etcd.log"), toolPath(root, "etcd"),
		etcdArgs(dir, c.etcdURL, ports[1])); err != nil {
		return nil, err
	}
	c.apiArgs = c.apiserverArgs(c.etcdURL, ports[2], o)
	if c.api, err = c.startAPI(); err != nil {
		return nil, err
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	if err := c.waitReady(); err != nil {
		return nil, err
	}
	return c, c.installCRD(root)
}

func (c *Cluster) connect() error {
	cfg := c.RESTConfig()
	cfg.UserAgent = Agent
	var err error
	if c.kube, err = kubernetes.NewForConfig(cfg); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	if c.dyn, err = dynamic.NewForConfig(cfg); err != nil {
		return fmt.Errorf("make dynamic client: %w", err)
	}
	return nil
}

func (c *Cluster) close() {
	c.api.Kill()
	c.etcd.Kill()
}

// Addr returns the host:port of the API server.
func (c *Cluster) Addr() string { return c.addr }

// CA returns the certificate, in PEM, of the authority that signed the API server's certificate.
func (c *Cluster) CA() []byte { return c.ca }

// Token returns the bearer token of the administrator.
func (c *Cluster) Token() string { return c.token }

// Client returns a client of the administrator for fixtures. Requests does not count its requests.
func (c *Cluster) Client() kubernetes.Interface { return c.kube }

// RESTConfig returns a new configuration of the administrator's client, without rate limit.
func (c *Cluster) RESTConfig() *rest.Config {
	return &rest.Config{
		Host:            "https://" + c.addr,
		BearerToken:     c.token,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca},
		QPS:             -1,
		Timeout:         callTimeout,
	}
}

func toolPath(root, name string) string { return filepath.Join(root, "bin", "tools", name) }

// freePorts returns n loopback ports on which no process listens. They are below the kernel's ephemeral range, so that
// no outgoing connection takes one while its server is down.
func freePorts(n int) ([]string, error) {
	const low, high = 20000, 32000
	var ports []string
	var last error
	for range high - low {
		p := strconv.Itoa(low + rand.IntN(high-low))
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", p))
		if err != nil {
			last = err
			continue
		}
		// Kept open until all ports are found, so that none is found twice.
		defer func() { _ = ln.Close() }()
		if ports = append(ports, p); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports: %w", n, last)
}
