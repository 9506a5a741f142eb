// Package cluster runs a real Kubernetes cluster of one node, or of a few, for tests: etcd, API server, controller
// manager, scheduler, kubelet, containerd and runc, in namespaces and a root file system of their own. All files are
// below one directory, except the node's control groups. The cluster needs root and no network, and it ends with the
// process that started it.
//
// The programs are those that the Makefile builds into bin/tools. There is no kube-proxy, no DNS and no registry: the
// API server listens on the service address itself, and images are imported.
//
// A program that starts clusters must call Main first. Only tests, and programs that people start, may import this
// package.
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
	// PlainRuntime is the handler of a RuntimeClass. containerd attaches the pods of this handler to the cluster network
	// directly, independent of the files in the CNI configuration directory.
	PlainRuntime = "plain"
	// NodeName is the name of the first node, which has the control plane.
	NodeName = "node-a"
	// Uplink is a link of the node that additional networks may use as master.
	Uplink = "uplink0"

	serviceIP = "10.96.0.1"
	nodeIP    = "192.0.2.10" // of the first node
	// toolDir and stateDir are directories on the node that only this package uses.
	toolDir  = "/cluster/bin"
	stateDir = "/var/lib/cluster"
	plainDir = "/etc/cni/plain.d"

	// readyTimeout bounds the start of the cluster. It takes 10 s on an idle machine; the limit leaves room for a busy
	// one.
	readyTimeout = 4 * time.Minute
	callTimeout  = 30 * time.Second
	pollInterval = 50 * time.Millisecond
)

// programs are the programs that must be built before a cluster can start.
var programs = []string{
	"etcd", apiserver, "kube-controller-manager", "kube-scheduler", "kubelet",
	"containerd", "containerd-shim-runc-v2", "ctr", "runc",
}

// ErrUnavailable is returned when no cluster can run on this machine. Tests should then be skipped.
var ErrUnavailable = errors.New("cluster for tests is unavailable")

// Options describe the nodes of a cluster.
type Options struct {
	// Dir is an empty directory for all files. Its file system must be usable by overlayfs.
	Dir string
	// ReadOnly makes the node's root read-only. /var, /etc/cni and /opt/cni are mounts of their own, and /run is a tmpfs.
	ReadOnly bool
	// Shared makes the node's mounts shared, as systemd does. Otherwise they are private.
	Shared bool
	// VarRunDir makes /var/run a directory instead of a link to /run.
	VarRunDir bool
	// Plugins are the reference CNI plugins that the node has. Default: bridge, host-local, loopback, macvlan.
	Plugins []string
	// Paths are the directories of the node's distribution. The zero value has the usual ones.
	Paths Paths
	// Nodes is the number of nodes. Default: 1. Further nodes are node-b, node-c and so on, with the same options.
	Nodes int
}

// Paths are the directories that differ between distributions, absolute and as seen on the node.
type Paths struct {
	Conf       string // directory of CNI configurations. Default: /etc/cni/net.d
	Bin        string // directory of CNI plugins. Default: /opt/cni/bin
	Kubelet    string // Default: /var/lib/kubelet
	Containerd string // root directory of containerd. Default: /var/lib/containerd
	Run        string // state directory of containerd, with its socket. Default: /run/containerd
	// Plugins is the directory with the reference plugins themselves, if Bin has only links to them.
	Plugins string
	// Current is a symbolic link to a directory beside it, such as /var/snap/microk8s/current. The paths above contain it.
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
// A further node is a Cluster, too, with the clients of the first one. Its methods act on that node.
type Cluster struct {
	// Node is the name of the node.
	Node string
	// Others are the further nodes. It is empty for a further node.
	Others []*Cluster

	index   int
	first   *Cluster // nil for the first node
	options Options
	root    string // of the module
	dir     string
	cgroup  string
	ca      []byte
	mounts  []string // the node's mount points before any server ran
	init    *proc.Process
	servers map[string]*proc.Process

	// Client and Dynamic are the administrator's clients.
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
}

// Available returns an error that wraps ErrUnavailable, with the reason, if no cluster can run on this machine.
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

// Start starts a cluster. It returns when the nodes are ready and have the images.
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

// startInit starts the node's first process in new namespaces and waits until the node is set up.
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
	_ = w.Close() // the child has its own copy
	if err != nil {
		return err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if line != "ready\n" {
		return fmt.Errorf("set up the node: %s%w\n%s", line, errors.Join(err, c.init.Err), c.init.Tail())
	}
	return nil
}

// Stop ends the cluster. All processes of a node end with the node's first process. The files stay.
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

// Paths returns the node's directories, with the defaults filled in.
func (c *Cluster) Paths() Paths { return c.options.Paths }

// Path returns the path at which this process can open a file of the node.
func (c *Cluster) Path(name string) string { return fmt.Sprintf("/proc/%d/root%s", c.init.Pid, name) }

// Pid returns the PID of the node's first process. Its namespaces are those of the node.
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

// RESTConfig returns a configuration for the administrator's client. It connects from the node's network namespace.
func (c *Cluster) RESTConfig() *rest.Config {
	return &rest.Config{
		Host: "https://" + serviceIP, BearerToken: adminToken, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca},
		QPS: -1, Timeout: callTimeout, Dial: c.Dial,
	}
}

// Dial connects from the node's network namespace: a socket belongs to the namespace in which it was created.
func (c *Cluster) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := enterOne(c.init.Pid, "net", syscall.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		// addr has no host name, so the dialer starts no goroutine. A goroutine would run on another thread.
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
