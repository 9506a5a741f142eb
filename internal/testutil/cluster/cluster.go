// Package cluster runs a real Kubernetes of one node, or of a few, for tests: etcd, API server, controller manager,
// scheduler, kubelet, containerd and runc, in namespaces and a root file system of their own. Everything it writes is
// below one directory, except the node's control groups; it needs root and no network, and it ends with the process
// that started it.
//
// The programs are those that the Makefile builds into bin/tools. There is no kube-proxy, no DNS and no registry: the
// API server has the service address itself, and images are imported.
//
// Programs that start clusters call Main first. Only tests, and programs that people start, may import it.
package cluster

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"multus/internal/testutil/module"
	"multus/internal/testutil/proc"
)

const (
	// PlainRuntime is a handler (of a RuntimeClass) whose pods get the cluster network from the runtime itself, whatever
	// becomes of the directory of CNI configurations.
	PlainRuntime = "plain"
	// NodeName is the name of the first node, which has the control plane.
	NodeName = "node-a"
	// Uplink is a link of the node's that extra networks may use as master.
	Uplink = "uplink0"

	serviceIP = "10.96.0.1"
	nodeIP    = "192.0.2.10" // of the first node
	// toolDir and stateDir are the cluster's own directories on the node.
	toolDir  = "/cluster/bin"
	stateDir = "/var/lib/cluster"
	plainDir = "/etc/cni/plain.d"

	// readyTimeout bounds the start of the cluster: 10 s on an idle machine, and a test must survive a busy one.
	readyTimeout = 4 * time.Minute
	callTimeout  = 30 * time.Second
	pollInterval = 50 * time.Millisecond
)

// programs that must have been built.
var programs = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet",
	"containerd", "containerd-shim-runc-v2", "ctr", "runc",
}

// ErrUnavailable is returned when no cluster can be had here and tests should be skipped.
var ErrUnavailable = errors.New("cluster for tests is unavailable")

// Options say what kind of node is wanted.
type Options struct {
	// Dir is an empty directory for all files, on a file system that overlayfs can use.
	Dir string
	// ReadOnly makes the node's root read-only; /var, /etc/cni and /opt/cni are mounts of their own, /run a tmpfs.
	ReadOnly bool
	// Shared makes the node's mounts shared, as systemd does. Otherwise they are private.
	Shared bool
	// VarRunDir makes /var/run a directory instead of a link to /run.
	VarRunDir bool
	// Plugins are the reference CNI plugins that the node has. Default: bridge, host-local, loopback, macvlan.
	Plugins []string
	// Paths are where the node's distribution has its directories; the zero value is the usual ones.
	Paths Paths
	// Nodes is how many nodes there are. Default: 1. Further ones are node-b, node-c and so on, with the same options.
	Nodes int
}

// Paths are the directories in which distributions differ, absolute and as the node sees them.
type Paths struct {
	Conf       string // of CNI configurations. Default: /etc/cni/net.d
	Bin        string // of CNI plugins. Default: /opt/cni/bin
	Kubelet    string // Default: /var/lib/kubelet
	Containerd string // its root. Default: /var/lib/containerd
	Run        string // its state and its socket. Default: /run/containerd
	// Plugins is where the reference plugins really are, if Bin has only links to them.
	Plugins string
	// Current is a link that is a part of the paths above, to a directory beside it: /var/snap/microk8s/current.
	Current string
}

func (p Paths) orUsual() Paths {
	p.Conf = cmp.Or(p.Conf, "/etc/cni/net.d")
	p.Bin = cmp.Or(p.Bin, "/opt/cni/bin")
	p.Kubelet = cmp.Or(p.Kubelet, "/var/lib/kubelet")
	p.Containerd = cmp.Or(p.Containerd, "/var/lib/containerd")
	p.Run = cmp.Or(p.Run, "/run/containerd")
	p.Plugins = cmp.Or(p.Plugins, p.Bin)
	return p
}

// Cluster is one running cluster.
//
// A further node is a Cluster, too, with the clients of the first one: its methods are about that node.
type Cluster struct {
	// Node is the name of the node.
	Node string
	// Others are the further nodes; a further node has none.
	Others []*Cluster

	index   int
	first   *Cluster // nil for the first node
	options Options
	root    string // of the module
	dir     string
	cgroup  string
	ca      []byte
	mounts  []string // the node's mount points before anything ran on it
	init    *proc.Process
	servers map[string]*proc.Process

	// Client and Dynamic are the administrator's clients.
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
}

// Available says why there can be no cluster here, as ErrUnavailable.
func Available() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("%w: needs root; runs as uid %d", ErrUnavailable, uid)
	}
	root, err := module.Root()
	if err != nil {
		return err
	}
	for _, name := range programs {
		if _, err := os.Stat(filepath.Join(root, "bin", "tools", name)); err != nil {
			return fmt.Errorf("%w: run `make tools-cluster`: %w", ErrUnavailable, err)
		}
	}
	return nil
}

// Start starts a cluster and returns when its node is ready and has the images.
func Start(ctx context.Context, o Options) (_ *Cluster, retErr error) {
	if err := Available(); err != nil {
		return nil, err
	}
	if o.Nodes > maxNodes {
		return nil, fmt.Errorf("%d nodes: at most %d are possible", o.Nodes, maxNodes)
	}
	o.Nodes = max(o.Nodes, 1)
	if o.Plugins == nil {
		o.Plugins = []string{"bridge", "host-local", "loopback", "macvlan"}
	}
	o.Paths = o.Paths.orUsual()
	root, err := module.Root()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("find directory: %w", err)
	}
	c := &Cluster{Node: NodeName, options: o, root: root, dir: dir, servers: map[string]*proc.Process{}}
	c.cgroup = fmt.Sprintf("/multus-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	defer func() {
		if retErr != nil {
			c.Stop()
		}
	}()
	if err := errors.Join(c.writeFiles(), c.makeCgroups()); err != nil {
		return nil, err
	}
	if err := c.startInit(); err != nil {
		return nil, err
	}
	if c.mounts, err = c.mountPoints(); err != nil {
		return nil, err
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := c.startServers(ctx); err != nil {
		return nil, err
	}
	for i := 1; i < o.Nodes; i++ {
		if err := c.join(ctx, i); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// startInit starts the node's first process, in new namespaces, and waits until it has set them up.
func (c *Cluster) startInit() error {
	arg, err := json.Marshal(layout{
		Root: filepath.Join(c.dir, "root"), Volumes: filepath.Join(c.dir, "volumes"),
		Tools: filepath.Join(c.root, "bin", "tools"), ReadOnly: c.options.ReadOnly, Shared: c.options.Shared,
		Name: c.Node, Address: c.address(), Service: c.first == nil,
	})
	if err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{initName, string(arg)}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = r.Close() }()
	cmd.Stdout = w
	c.init, err = proc.Start(filepath.Join(c.dir, "log", "init.log"), cmd, proc.Here)
	_ = w.Close() // the child has its own
	if err != nil {
		return err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if line != "ready\n" {
		return fmt.Errorf("set up the node: %s%w\n%s", line, errors.Join(err, c.init.Err), c.init.Tail())
	}
	return nil
}

// Stop ends the cluster: with the node's first process, all of them end. The files stay.
func (c *Cluster) Stop() {
	for _, o := range c.Others {
		o.Stop()
	}
	c.init.Kill()
	for _, p := range c.servers {
		p.Kill()
	}
	c.removeCgroups()
}

// Paths returns the node's directories, the usual ones filled in.
func (c *Cluster) Paths() Paths { return c.options.Paths }

// Path returns where a file of the node can be found by this process.
func (c *Cluster) Path(name string) string { return fmt.Sprintf("/proc/%d/root%s", c.init.Pid, name) }

// Pid returns the node's first process, whose namespaces are the node's.
func (c *Cluster) Pid() int { return c.init.Pid }

// Logs returns the ends of the servers' logs.
func (c *Cluster) Logs(names ...string) string {
	var all []string
	for _, name := range names {
		if p := c.servers[name]; p != nil {
			all = append(all, p.Tail())
		}
	}
	return strings.Join(all, "\n")
}

// RESTConfig returns a configuration of the administrator's client, which reaches into the node's network.
func (c *Cluster) RESTConfig() *rest.Config {
	return &rest.Config{
		Host: "https://" + serviceIP, BearerToken: adminToken, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca},
		QPS: -1, Timeout: callTimeout, Dial: c.Dial,
	}
}

// Dial connects from within the node's network namespace: a socket belongs to the one it was made in.
func (c *Cluster) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := enterOne(c.init.Pid, "net", syscall.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		// An address and no name: the dialer starts no goroutine, which would be on another thread.
		conn, err := (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func (c *Cluster) connect() error {
	var err error
	if c.Client, err = kubernetes.NewForConfig(c.RESTConfig()); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(c.RESTConfig()); err != nil {
		return fmt.Errorf("make dynamic client: %w", err)
	}
	return nil
}
