// Package node provides a Kubernetes node without a kubelet for tests: a network namespace with the project's binaries,
// real CNI plugins, a daemon, and libcni as the container runtime. It asserts nothing. Only tests import it.
package node

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"multus/internal/testutil/testnet"
)

// Kind is the deployment under test.
type Kind string

// The deployments.
const (
	Thin  Kind = "thin"
	Thick Kind = "thick"
)

// Kinds are both deployments, for tests that apply to each.
var Kinds = []Kind{Thin, Thick}

// startLimit bounds the start of a daemon. opLimit bounds one CNI operation.
const (
	startLimit = 20 * time.Second
	opLimit    = 60 * time.Second
)

// Options describe a node.
type Options struct {
	Kind Kind
	// Kubeconfig is that of the API server. NetworksDir, a directory of YAML files, is used instead of an API server.
	Kubeconfig  string
	NetworksDir string
	// API is the address of the API server on the machine's loopback interface. It is reachable under the same address
	// from the node.
	API string
	// Conf is merged over the CNI configuration of the plugin. A nil value removes a key.
	Conf map[string]any
	// DaemonConf is merged over the daemon's configuration.
	DaemonConf map[string]any
	// Primary is the configuration of the cluster network, in JSON. Default: Bridge("10.244.0.0/24").
	Primary string
	// BinDir is the directory of the project's binaries. Default: Binaries.
	BinDir string
	// PluginDir is the directory of the reference plugins. Default: bin/cni.
	PluginDir string
	// Quiet reduces the logging of plugin and daemon, for measurements.
	Quiet bool
	// Dir is the node's directory and StateDir the ledger's, for tests that need them on a disk of their own. Default: a
	// temporary directory, and a directory below Dir.
	Dir, StateDir string
}

// Node is one node. Its directory contains binaries, configuration, state and the daemon's log.
type Node struct {
	*testnet.NS
	Dir  string
	opts Options
	// BinDirs are searched for plugins: the project's, the reference plugins, the fake plugins.
	BinDirs []string

	// Exec runs the plugin for the runtime. Default: that of libcni.
	Exec invoke.Exec

	// DaemonEnv is added to the environment of each daemon that is started afterwards.
	DaemonEnv []string

	daemon *exec.Cmd
	exited chan error
}

// Root returns the folder of this module.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	for err == nil {
		if _, serr := os.Stat(filepath.Join(dir, "go.mod")); serr == nil {
			return dir
		}
		if dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	tb.Fatalf("find the project's directory: %v", err)
	return ""
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "multus-test-bin-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-gcflags=multus/...=-l",
		"-ldflags", "-s -w", "-o", dir+"/", "multus/cmd/...", "multus/internal/testutil/fakeplugin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binaries: %w: %s", err, out)
	}
	return dir, nil
})

// Binaries returns the directory of the project's binaries, built from the current sources. Cleanup removes it and is
// called from TestMain.
func Binaries(tb testing.TB) string {
	tb.Helper()
	dir, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// BuiltDir is like Binaries, for code outside of a test. It returns "" if the binaries cannot be built.
func BuiltDir() string {
	dir, err := build()
	if err != nil {
		return ""
	}
	return dir
}

// Cleanup removes the binaries that Binaries built.
func Cleanup() {
	if dir, err := build(); err == nil {
		_ = os.RemoveAll(dir)
	}
}

// New creates a node. With Thick, it starts the daemon. It skips the test without root or without the reference
// plugins.
func New(tb testing.TB, o Options) *Node {
	tb.Helper()
	testnet.RequireRoot(tb)
	reference := cmp.Or(o.PluginDir, filepath.Join(Root(tb), "bin", "cni"))
	if _, err := os.Stat(filepath.Join(reference, "bridge")); err != nil {
		tb.Skipf("no reference plugins in bin/cni: run make tools")
	}
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	n := &Node{NS: testnet.New(tb), Dir: o.Dir, opts: o}
	if o.BinDir == "" {
		o.BinDir = Binaries(tb)
	}
	n.BinDirs = []string{o.BinDir, reference, filepath.Join(n.Dir, "plugins")}
	for _, d := range []string{"net.d", "conf.d", "plugins", "run"} {
		must(tb, os.MkdirAll(filepath.Join(n.Dir, d), 0o755))
	}
	if o.API != "" {
		n.Forward(tb, o.API)
	}
	if o.Primary == "" {
		o.Primary = n.Bridge("10.244.0.0/24")
	}
	must(tb, os.WriteFile(filepath.Join(n.Dir, "net.d", "10-primary.conflist"), []byte(o.Primary), 0o644))
	if o.Kind == Thick {
		n.StartDaemon(tb)
	}
	return n
}

// Forward makes an address of the machine's loopback interface reachable from the node.
func (n *Node) Forward(tb testing.TB, addr string) {
	tb.Helper()
	var l net.Listener
	var err error
	n.Do(tb, func() { l, err = net.Listen("tcp", addr) })
	must(tb, err)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { relay(ctx, in, addr) })
		}
	})
}

// relay copies in both directions until one side or the test ends.
func relay(ctx context.Context, in net.Conn, addr string) {
	defer in.Close()
	out, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
	defer stop()
	done := make(chan struct{}, 2)
	for _, d := range [][2]net.Conn{{in, out}, {out, in}} {
		go func() {
			_, _ = io.Copy(d[0], d[1])
			done <- struct{}{}
		}()
	}
	<-done
}

// Bridge returns a typical configuration of a cluster network, with real plugins: bridge, host-local, portmap.
func (n *Node) Bridge(subnet string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cluster","plugins":[
		{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,
		 "ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}},
		{"type":"portmap","capabilities":{"portMappings":true}}]}`, n.Reservations(), subnet)
}

// Reservations returns host-local's directory.
func (n *Node) Reservations() string { return filepath.Join(n.Dir, "ipam") }

// State returns the ledger's directory.
func (n *Node) State() string { return cmp.Or(n.opts.StateDir, filepath.Join(n.Dir, "state")) }

// SocketDir returns the directory of the daemon's socket.
func (n *Node) SocketDir() string { return filepath.Join(n.Dir, "run") }

// Conf returns the CNI configuration that the runtime loads. Generated returns the one that the daemon writes.
func (n *Node) Conf() []byte {
	conf := map[string]any{
		"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus", "kubeconfig": n.opts.Kubeconfig,
		"networksDir":    n.opts.NetworksDir,
		"clusterNetwork": filepath.Join(n.Dir, "net.d", "10-primary.conflist"), "confDir": filepath.Join(n.Dir, "conf.d"),
		"cniDir": n.State(), "binDir": n.BinDirs[1],
		"capabilities": map[string]bool{"io.kubernetes.cri.pod-annotations": true, "portMappings": true},
		"logLevel":     "debug", "logToStderr": false, "logFile": filepath.Join(n.Dir, "plugin.log"),
	}
	if n.opts.Kind == Thick {
		conf["type"] = "multus-shim"
		conf["daemonSocketDir"] = n.SocketDir()
		delete(conf, "kubeconfig")
	}
	if n.opts.Quiet {
		conf["logLevel"] = "error"
		delete(conf, "logFile")
	}
	for k, v := range n.opts.Conf {
		if v == nil {
			delete(conf, k)
		} else {
			conf[k] = v
		}
	}
	b, _ := json.Marshal(conf) // maps of strings can always be encoded
	return b
}

// Generated returns the CNI configuration that the daemon wrote.
func (n *Node) Generated(tb testing.TB) []byte {
	tb.Helper()
	path := filepath.Join(n.Dir, "etc", "00-multus.conf")
	var b []byte
	var err error
	for end := time.Now().Add(startLimit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if b, err = os.ReadFile(path); err == nil {
			return b
		}
	}
	tb.Fatalf("the daemon wrote no configuration: %v\n%s", err, n.DaemonLog())
	return nil
}

// StartDaemon starts multus-daemon and waits until its socket answers. It does not wait for readiness, because a test
// may run without an API server on purpose.
func (n *Node) StartDaemon(tb testing.TB) {
	tb.Helper()
	conf := map[string]any{
		"cniVersion": "1.0.0", "socketDir": n.SocketDir(), "daemonSocketDir": n.SocketDir(), "logLevel": "debug",
		"logToStderr":         true,
		"multusAutoconfigDir": filepath.Join(n.Dir, "net.d"), "cniConfigDir": filepath.Join(n.Dir, "etc"),
		"binDir": n.BinDirs[1], "cniDir": n.State(), "confDir": filepath.Join(n.Dir, "conf.d"),
		"networksDir": n.opts.NetworksDir,
	}
	if n.opts.Quiet {
		conf["logLevel"] = "error"
	}
	maps.Copy(conf, n.opts.DaemonConf)
	must(tb, os.MkdirAll(filepath.Join(n.Dir, "etc"), 0o755))
	b, err := json.Marshal(conf)
	must(tb, err)
	file := filepath.Join(n.Dir, "daemon-config.json")
	must(tb, os.WriteFile(file, b, 0o600))
	log, err := os.OpenFile(filepath.Join(n.Dir, "daemon.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	must(tb, err)
	defer log.Close()
	args := []string{"run", "--config", file, "--node-name", "node-a"}
	if n.opts.Kubeconfig != "" {
		args = append(args, "--kubeconfig", n.opts.Kubeconfig)
	}
	cmd := exec.Command(filepath.Join(n.BinDirs[0], "multus-daemon"), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), n.DaemonEnv...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(tb, cmd.Start())
	n.daemon, n.exited = cmd, make(chan error, 1)
	exited := n.exited
	go func() { exited <- cmd.Wait() }()
	tb.Cleanup(func() { n.StopDaemon(tb) })
	for end := time.Now().Add(startLimit); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", filepath.Join(n.SocketDir(), "multus.sock"))
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("the daemon does not listen: %v\n%s", err, n.DaemonLog())
		}
	}
}

// StopDaemon kills the daemon and waits until it has ended.
func (n *Node) StopDaemon(tb testing.TB) {
	tb.Helper()
	if n.daemon == nil {
		return
	}
	_ = n.daemon.Process.Kill()
	<-n.exited //nolint:errcheck // it was killed
	n.daemon = nil
}

// Daemon returns the daemon's process, or nil if no daemon runs.
func (n *Node) Daemon() *os.Process {
	if n.daemon == nil {
		return nil
	}
	return n.daemon.Process
}

// Signal sends a signal to the daemon.
func (n *Node) Signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	must(tb, n.daemon.Process.Signal(sig))
}

// DaemonLog returns what the daemon has logged so far.
func (n *Node) DaemonLog() string {
	b, _ := os.ReadFile(filepath.Join(n.Dir, "daemon.log"))
	return string(b)
}

// Fake installs the fake plugin under a name and returns the "fake" object for its configuration.
func (n *Node) Fake(tb testing.TB, name string) map[string]any {
	tb.Helper()
	must(tb, os.Link(filepath.Join(n.BinDirs[0], "fakeplugin"), filepath.Join(n.Dir, "plugins", name)))
	return map[string]any{"log": filepath.Join(n.Dir, "calls.jsonl")}
}

// Call is one call of a fake plugin.
type Call struct {
	Plugin  string            `json:"plugin"`
	Command string            `json:"command"`
	Env     map[string]string `json:"env"`
	Stdin   json.RawMessage   `json:"stdin"`
}

// Calls returns the calls of the fake plugins so far, in their order.
func (n *Node) Calls(tb testing.TB) []Call {
	tb.Helper()
	f, err := os.Open(filepath.Join(n.Dir, "calls.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(tb, err)
	defer f.Close()
	var out []Call
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var c Call
		must(tb, json.Unmarshal(sc.Bytes(), &c))
		out = append(out, c)
	}
	must(tb, sc.Err())
	return out
}

// Pod is the sandbox of a pod.
type Pod struct {
	*testnet.NS
	Namespace, Name, UID, ContainerID string
	// Annotations are passed by the runtime if they are not nil.
	Annotations map[string]string
	// Caps are further capability arguments that the runtime passes.
	Caps map[string]any
}

// NewPod creates the sandbox of a pod.
func (n *Node) NewPod(tb testing.TB, namespace, name, uid string, annotations map[string]string) *Pod {
	tb.Helper()
	return &Pod{
		NS: testnet.New(tb), Namespace: namespace, Name: name, UID: uid,
		ContainerID: fmt.Sprintf("%s-%d", name, time.Now().UnixNano()), Annotations: annotations,
	}
}

// Add attaches a pod as the runtime does, with the configuration conf, which is that of Conf or Generated.
func (n *Node) Add(tb testing.TB, conf []byte, p *Pod) (*current.Result, error) {
	tb.Helper()
	var res types.Result
	err := n.op(tb, conf, p, func(ctx context.Context, c *libcni.CNIConfig, l *libcni.NetworkConfigList,
		rt *libcni.RuntimeConf,
	) error {
		var err error
		res, err = c.AddNetworkList(ctx, l, rt)
		return err
	})
	if err != nil {
		return nil, err
	}
	return current.NewResultFromResult(res)
}

// Del detaches a pod, as Add attaches it.
func (n *Node) Del(tb testing.TB, conf []byte, p *Pod) error {
	tb.Helper()
	return n.op(tb, conf, p, func(ctx context.Context, c *libcni.CNIConfig, l *libcni.NetworkConfigList,
		rt *libcni.RuntimeConf,
	) error {
		return c.DelNetworkList(ctx, l, rt)
	})
}

// Check runs CHECK for a pod.
func (n *Node) Check(tb testing.TB, conf []byte, p *Pod) error {
	tb.Helper()
	return n.op(tb, conf, p, func(ctx context.Context, c *libcni.CNIConfig, l *libcni.NetworkConfigList,
		rt *libcni.RuntimeConf,
	) error {
		return c.CheckNetworkList(ctx, l, rt)
	})
}

// Status runs STATUS.
func (n *Node) Status(tb testing.TB, conf []byte) error {
	tb.Helper()
	return n.op(tb, conf, &Pod{NS: n.NS},
		func(ctx context.Context, c *libcni.CNIConfig, l *libcni.NetworkConfigList, _ *libcni.RuntimeConf) error {
			return c.GetStatusNetworkList(ctx, l)
		})
}

// GC runs GC with the attachments of these pods as the valid ones. It removes libcni's cache first, so that libcni
// sends no DELs and only the plugin cleans up.
func (n *Node) GC(tb testing.TB, conf []byte, valid ...*Pod) error {
	tb.Helper()
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, p := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: p.ContainerID, IfName: "eth0"})
	}
	must(tb, os.RemoveAll(filepath.Join(n.Dir, "runtime")))
	return n.op(tb, conf, &Pod{NS: n.NS},
		func(ctx context.Context, c *libcni.CNIConfig, l *libcni.NetworkConfigList, _ *libcni.RuntimeConf) error {
			return c.GCNetworkList(ctx, l, args)
		})
}

// Collect runs GC as a container runtime does, with its cache: libcni first sends a DEL for each cached attachment that
// is missing in valid. A nil list is sent as null, as by a runtime without sandboxes.
func (n *Node) Collect(tb testing.TB, conf []byte, valid []types.GCAttachment) error {
	tb.Helper()
	return n.op(tb, conf, &Pod{NS: n.NS},
		func(ctx context.Context, c *libcni.CNIConfig, l *libcni.NetworkConfigList, _ *libcni.RuntimeConf) error {
			return c.GCNetworkList(ctx, l, &libcni.GCArgs{ValidAttachments: valid})
		})
}

// Runtime returns the arguments with which a container runtime calls a plugin for the pod: those of containerd.
func (p *Pod) Runtime(ifName string) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: p.ContainerID, NetNS: p.Path, IfName: ifName, CapabilityArgs: map[string]any{},
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.Namespace},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ContainerID},
			{"K8S_POD_UID", p.UID},
		},
	}
	maps.Copy(rt.CapabilityArgs, p.Caps)
	if p.Annotations != nil {
		rt.CapabilityArgs["io.kubernetes.cri.pod-annotations"] = p.Annotations
	}
	return rt
}

type verb func(context.Context, *libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error

func (n *Node) op(tb testing.TB, conf []byte, p *Pod, do verb) error {
	tb.Helper()
	list, err := libcni.NetworkConfFromBytes(conf)
	if one, oerr := libcni.NetworkPluginConfFromBytes(conf); oerr == nil {
		list, err = libcni.ConfListFromConf(one) //nolint:staticcheck // runtimes do it with a .conf
	}
	must(tb, err)
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	// A process that the callback starts is in the node's namespace.
	n.Do(tb, func() {
		err = do(ctx, libcni.NewCNIConfigWithCacheDir(n.BinDirs, filepath.Join(n.Dir, "runtime"), n.Exec), list,
			p.Runtime("eth0"))
	})
	return err
}

// Left returns what is still attached or reserved on the node: records, results, addresses.
func (n *Node) Left(tb testing.TB) []string {
	tb.Helper()
	var out []string
	for _, dir := range []string{n.State(), n.Reservations(), filepath.Join(n.Dir, "runtime")} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "lock" || strings.HasPrefix(d.Name(), "last_reserved_ip") {
				return nil //nolint:nilerr // a directory that is not there holds nothing
			}
			out = append(out, strings.TrimPrefix(path, n.Dir+"/"))
			return nil
		})
		must(tb, err)
	}
	return out
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
