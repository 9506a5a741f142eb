package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
	"multus/internal/testutil/proc"
)

const (
	networksKey = "k8s.v1.cni.cncf.io/networks"
	namespace   = "bench"
	// opLimit bounds one ADD or DEL.
	opLimit = 60 * time.Second
)

// delegate is a kind of networks, by their plugin.
type delegate string

const (
	// noop does nothing, so that only the plugin's own share and the start of a process are measured.
	noop delegate = "noop"
	// reference has the reference plugins bridge and host-local.
	reference delegate = "bridge"
	// chain is reference with a cluster network as on a node: a list of bridge, which is the gateway, and portmap. The
	// plugin is called with the configuration that the daemon writes.
	chain delegate = "chain"
)

// subject is what is measured: libcni alone ("raw"), or a plugin between libcni and the delegates.
type subject struct {
	name string
	node *node.Node
	exec *meter
	// conf is the configuration with which the runtime calls the plugin.
	conf []byte
	// lists are the networks that raw calls one after another.
	lists []*libcni.NetworkConfigList
}

// meter runs plugins as libcni does and counts their processor time and that of the children that they waited for.
type meter struct {
	version.PluginDecoder
	// wrap is a command before the plugin that runs it.
	wrap []string

	mu  sync.Mutex
	cpu time.Duration
	// began and ended are the times of the last call, and used is its processor time.
	began, ended time.Time
	used         time.Duration
}

var _ invoke.Exec = (*meter)(nil)

func (m *meter) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

func (m *meter) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	argv := append(slices.Clone(m.wrap), path)
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Env, c.Stdin, c.Stdout, c.Stderr = env, bytes.NewReader(stdin), &stdout, &stderr
	began := time.Now()
	err := c.Run()
	ended := time.Now()
	if usage, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		m.mu.Lock()
		m.began, m.ended, m.used = began, ended, time.Duration(usage.Utime.Nano()+usage.Stime.Nano())
		m.cpu += m.used
		m.mu.Unlock()
	}
	if err != nil {
		said := &types.Error{}
		if json.Unmarshal(stdout.Bytes(), said) == nil && said.Msg != "" {
			return nil, said
		}
		return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// take returns the processor time since the last call.
func (m *meter) take() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	cpu := m.cpu
	m.cpu = 0
	return cpu
}

// maxNetworks is the number of networks that are defined in addition to the cluster network.
const maxNetworks = 5

// networkConfig returns the configuration of network i. Network 0 is the cluster network.
func networkConfig(t *testing.T, n *node.Node, d delegate, i int) []byte {
	t.Helper()
	if d == chain && i == 0 {
		return []byte(n.Bridge("10.244.0.0/24"))
	}
	name := fmt.Sprintf("n%d", i)
	plugin := map[string]any{"type": "bridge", "bridge": "br" + name, "ipam": map[string]any{
		"type": "host-local", "dataDir": n.Reservations(),
		"ranges": [][]map[string]string{{{"subnet": fmt.Sprintf("10.%d.0.0/16", 100+i)}}},
	}}
	if d == noop {
		plugin = nothing
	}
	return networkList(t, name, plugin)
}

// nothing is the plugin of noop.
var nothing = map[string]any{"type": "noop", "fake": map[string]any{"result": json.RawMessage(
	`{"cniVersion":"1.0.0","interfaces":[{"name":"{ifname}","sandbox":"{netns}"}],"ips":[{"address":"10.0.0.2/24","interface":0}]}`)}}

// networkList returns the configuration of a network with one plugin.
func networkList(tb testing.TB, name string, plugin map[string]any) []byte {
	tb.Helper()
	b, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": name, "plugins": []any{plugin}})
	must(tb, err)
	return b
}

func newSubject(t *testing.T, name string, kind node.Kind, p programs, d delegate, cluster *kubetest.Cluster,
	conf map[string]any,
) *subject {
	t.Helper()
	s := &subject{name: name, exec: &meter{}}
	o := node.Options{
		Kind: kind, BinDir: p.bin, PluginDir: p.plugins, Quiet: true,
		Conf: map[string]any{"plainPods": "local"},
	}
	maps.Copy(o.Conf, conf)
	if name != "raw" {
		o.Kubeconfig, o.API = cluster.Kubeconfig(t), cluster.Addr()
	} else {
		o.Kind = node.Thin // no daemon
	}
	s.node = node.New(t, o)
	s.node.Exec, s.conf = s.exec, s.node.Conf()
	if d == chain && o.Kind == node.Thick {
		s.conf = s.node.Generated(t)
	}
	s.node.Fake(t, "noop")
	for i := range maxNetworks + 1 {
		c := networkConfig(t, s.node, d, i)
		l, err := libcni.NetworkConfFromBytes(c)
		must(t, err)
		s.lists = append(s.lists, l)
		switch {
		case i == 0 && d == chain: // node.New has written it
		case i == 0:
			must(t, os.WriteFile(filepath.Join(s.node.Dir, "net.d", "10-primary.conflist"), c, 0o644))
		case name != "raw":
			cluster.CreateNetwork(t, namespace, s.network(d, i), string(c), nil)
		}
	}
	return s
}

// network returns the name of a definition. The networks of each subject have folders of their own.
func (s *subject) network(d delegate, i int) string {
	return strings.ToLower(fmt.Sprintf("%s-%s-n%d", s.name, d, i))
}

// pod creates a sandbox and, for a plugin, its pod, with n networks in addition to the cluster network.
func (s *subject) pod(t *testing.T, d delegate, name string, n int, cluster *kubetest.Cluster) *node.Pod {
	t.Helper()
	annotations := map[string]string{}
	var names []string
	for i := range n {
		names = append(names, s.network(d, i+1))
	}
	if n > 0 {
		annotations[networksKey] = strings.Join(names, ",")
	}
	uid := "uid"
	if s.name != "raw" {
		uid = cluster.CreatePod(t, namespace, name, annotations)
	}
	// The kubelet adds its own annotations to those that it passes to the runtime.
	annotations["kubernetes.io/config.seen"] = "2026-11-22T10:00:00.000000000Z"
	annotations["kubernetes.io/config.source"] = "api"
	return s.node.NewPod(t, namespace, name, uid, annotations)
}

// add attaches a pod: with raw, one network after another; otherwise with the plugin.
func (s *subject) add(t *testing.T, p *node.Pod, n int) error {
	t.Helper()
	if s.name != "raw" {
		_, err := s.node.Add(t, s.conf, p)
		return err
	}
	return s.each(t, p, n, false, func(ctx context.Context, c *libcni.CNIConfig, l *libcni.NetworkConfigList,
		rt *libcni.RuntimeConf,
	) error {
		_, err := c.AddNetworkList(ctx, l, rt)
		return err
	})
}

func (s *subject) del(t *testing.T, p *node.Pod, n int) error {
	t.Helper()
	if s.name != "raw" {
		return s.node.Del(t, s.conf, p)
	}
	return s.each(t, p, n, true, func(ctx context.Context, c *libcni.CNIConfig, l *libcni.NetworkConfigList,
		rt *libcni.RuntimeConf,
	) error {
		return c.DelNetworkList(ctx, l, rt)
	})
}

func (s *subject) each(t *testing.T, p *node.Pod, n int, reverse bool,
	do func(context.Context, *libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error,
) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), opLimit)
	defer cancel()
	c := libcni.NewCNIConfigWithCacheDir(s.node.BinDirs, filepath.Join(s.node.Dir, "runtime"), s.exec)
	var errs []error
	s.node.Do(t, func() {
		for k := range n + 1 {
			i, ifName := k, "eth0"
			if reverse {
				i = n - k
			}
			if i > 0 {
				ifName = fmt.Sprintf("net%d", i)
			}
			errs = append(errs, do(ctx, c, s.lists[i], p.Runtime(ifName)))
		}
	})
	return errors.Join(errs...)
}

// daemonCPU returns the processor time of the daemon since its start, or 0 without a daemon.
func (s *subject) daemonCPU(t *testing.T) time.Duration {
	t.Helper()
	if !strings.Contains(s.name, "thick") {
		return 0
	}
	used, err := proc.CPU(s.node.Daemon().Pid)
	must(t, err)
	return used
}

// memory returns the daemon's resident memory in bytes.
func (s *subject) memory(t *testing.T) int {
	t.Helper()
	now, _, err := proc.Memory(s.node.Daemon().Pid)
	must(t, err)
	return now
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
