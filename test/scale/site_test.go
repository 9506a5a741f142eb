package scale

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
	"multus/internal/testutil/proc"
	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

const (
	networksKey = "k8s.v1.cni.cncf.io/networks"
	appliedKey  = "kubectl.kubernetes.io/last-applied-configuration"
	// daemonAgent occurs only in the User-Agent of the daemon.
	daemonAgent = "multus/"
	// perNamespace is the number of definitions in a namespace.
	perNamespace = 100
	// quiet is how long nothing arrives from the API server after it has sent everything. It sends events at once.
	quiet = 500 * time.Millisecond
	// waitTimeout bounds every wait, also on a busy machine.
	waitTimeout = 30 * time.Second
)

// site is one node with a daemon. The traffic between the daemon and the API server is counted.
type site struct {
	*node.Node
	cluster *kubetest.Cluster
	proxy   *kubetest.Proxy
	// ns is the namespace of the pods. It has the networks noop-1 and noop-2.
	ns string
	// metricsPort is the port of the daemon's metrics.
	metricsPort int
}

func newSite(t *testing.T, cluster *kubetest.Cluster, ns string) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr, ok := l.Addr().(*net.TCPAddr)
	must(t, l.Close())
	if !ok {
		t.Fatalf("%v is not a TCP address", l.Addr())
	}
	s := &site{cluster: cluster, proxy: cluster.Proxy(t), ns: ns, metricsPort: addr.Port}
	s.Node = node.New(t, node.Options{
		// With Thin the node starts no daemon. start starts it.
		Kind: node.Thin, Kubeconfig: s.proxy.Kubeconfig(t), API: s.proxy.Addr(), Quiet: true,
		Primary: noop("cluster", "10.0.0.2/16"), DaemonConf: map[string]any{"metricsPort": s.metricsPort},
		Conf: map[string]any{"type": "multus-shim", "plainPods": "local", "kubeconfig": nil},
	})
	s.Fake(t, "noop")
	cluster.CreateNamespace(t, ns)
	for i := range 2 {
		name := fmt.Sprintf("noop-%d", i+1)
		cluster.CreateNetwork(t, ns, name, noop(name, fmt.Sprintf("10.%d.0.2/16", i+1)), nil)
	}
	return s
}

// noop returns the configuration of a network whose delegate does nothing and returns an address.
func noop(name, address string) string {
	result := fmt.Sprintf(`{"cniVersion":"1.0.0","interfaces":[{"name":"{ifname}","sandbox":"{netns}"}],"ips":[{"address":%q,"interface":0}]}`, address)
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":"noop","fake":{"result":%s}}]}`, name, result)
}

// conf returns the configuration of the plugin.
func (s *site) conf(t *testing.T) []byte {
	t.Helper()
	conf := map[string]any{}
	must(t, json.Unmarshal(s.Conf(), &conf))
	conf["daemonSocketDir"] = s.SocketDir()
	b, err := json.Marshal(conf)
	must(t, err)
	return b
}

// start starts the daemon and returns how long it took until the daemon was ready.
func (s *site) start(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	s.StartDaemon(t)
	c := client.Client{Socket: filepath.Join(s.SocketDir(), "multus.sock")}
	eventually.Within(t, waitTimeout, "ready", func() bool {
		return c.Call(t.Context(), http.MethodGet, wirev1.PathReady, nil, nil) == nil
	})
	return time.Since(begin)
}

// pod creates a pod with these networks in addition to the cluster network.
func (s *site) pod(t *testing.T, name string, networks ...string) *node.Pod {
	t.Helper()
	annotations := map[string]string{}
	if len(networks) > 0 {
		annotations[networksKey] = strings.Join(networks, ",")
	}
	return s.NewPod(t, s.ns, name, s.cluster.CreatePod(t, s.ns, name, annotations), annotations)
}

// settle waits until nothing arrives from the API server any more.
func (s *site) settle(t *testing.T) {
	t.Helper()
	_, last := s.proxy.Bytes()
	since := time.Now()
	eventually.Within(t, waitTimeout, "quiet", func() bool {
		if _, now := s.proxy.Bytes(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > quiet
	})
}

// traffic is the cost of one operation: requests by verb and resource, and bytes on the wire.
type traffic struct {
	Requests map[string]int `json:"requests"`
	Up       int            `json:"up"`
	Down     int            `json:"down"`
}

func (s *site) count(t *testing.T) traffic {
	t.Helper()
	up, down := s.proxy.Bytes()
	return traffic{s.cluster.Requests(t, daemonAgent), up, down}
}

// since returns what was added since before.
func (s *site) since(t *testing.T, before traffic) traffic {
	t.Helper()
	now := s.count(t)
	return traffic{minus(now.Requests, before.Requests), now.Up - before.Up, now.Down - before.Down}
}

// traffic returns the cost of do. It waits until enough returns true or waitTimeout is over, and until the connection
// is quiet.
func (s *site) traffic(t *testing.T, do func(), enough func(traffic) bool) traffic {
	t.Helper()
	before := s.count(t)
	do()
	if !eventually.Is(waitTimeout, func() bool { return enough(s.since(t, before)) }) {
		t.Logf("the condition was not met within %v", waitTimeout)
	}
	s.settle(t)
	return s.since(t, before)
}

// requests returns a condition that is true when there were this many requests.
func requests(want map[string]int) func(traffic) bool {
	return func(got traffic) bool {
		for what, n := range want {
			if got.Requests[what] < n {
				return false
			}
		}
		return true
	}
}

// bytes returns a condition that is true when n bytes were received.
func bytes(n int) func(traffic) bool { return func(got traffic) bool { return got.Down >= n } }

// minus returns what was added since before.
func minus(now, before map[string]int) map[string]int {
	out := map[string]int{}
	for what, n := range now {
		if n > before[what] {
			out[what] = n - before[what]
		}
	}
	return out
}

// memory is the memory of the daemon in bytes.
type memory struct {
	// RSS is the resident memory and Peak its peak. InUse and Alive are what the Go heap has in use and alive.
	RSS   int `json:"rss"`
	Peak  int `json:"peak"`
	InUse int `json:"inUse"`
	Alive int `json:"alive"`
}

func (s *site) memory(t *testing.T) memory {
	t.Helper()
	now, peak, err := proc.Memory(s.Daemon().Pid)
	must(t, err)
	gauges := s.gauges(t)
	return memory{
		RSS: now, Peak: peak, InUse: int(gauges["go_memstats_heap_inuse_bytes"]),
		Alive: int(gauges["go_memstats_heap_alloc_bytes"]),
	}
}

// gauges returns the daemon's metrics that have no labels.
func (s *site) gauges(t *testing.T) map[string]float64 {
	t.Helper()
	client := &http.Client{Timeout: waitTimeout}
	defer client.CloseIdleConnections()
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", s.metricsPort))
	must(t, err)
	defer resp.Body.Close()
	return parseGauges(t, resp)
}

func parseGauges(t *testing.T, resp *http.Response) map[string]float64 {
	t.Helper()
	var b strings.Builder
	must(t, resp.Write(&b))
	out := map[string]float64{}
	for line := range strings.Lines(b.String()) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			out[name] = v
		}
	}
	return out
}

// definitions creates network definitions. have is their number.
type definitions struct {
	cluster *kubetest.Cluster
	have    int
}

func where(i int) (ns, name string) {
	return fmt.Sprintf("tenant-%02d", i/perNamespace), fmt.Sprintf("net-%05d", i)
}

// upTo creates definitions until there are n.
func (d *definitions) upTo(t *testing.T, n int) {
	t.Helper()
	for ; d.have < n; d.have++ {
		if d.have%perNamespace == 0 {
			ns, _ := where(d.have)
			d.cluster.CreateNamespace(t, ns)
		}
		d.create(t, d.have)
	}
}

// create creates definition i as `kubectl apply` does: with a copy of it in an annotation.
func (d *definitions) create(t *testing.T, i int) {
	t.Helper()
	ns, name := where(i)
	c := config(i, 0)
	applied, err := json.Marshal(map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"annotations": map[string]string{}, "name": name, "namespace": ns},
		"spec":     map[string]string{"config": c},
	})
	must(t, err)
	d.cluster.CreateNetwork(t, ns, name, c, map[string]string{appliedKey: string(applied) + "\n"})
}

// config returns a typical configuration of about 500 bytes.
func config(i, version int) string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "net-%05d",
  "plugins": [
    {
      "type": "macvlan",
      "master": "bond0.%d",
      "mode": "bridge",
      "mtu": %d,
      "ipam": {
        "type": "whereabouts",
        "range": "10.%d.%d.0/24",
        "exclude": ["10.%d.%d.0/28", "10.%d.%d.240/28"],
        "routes": [{"dst": "192.168.0.0/16", "gw": "10.%d.%d.1"}]
      }
    },
    {
      "type": "tuning",
      "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1"},
      "capabilities": {"mac": true}
    }
  ]
}
`, i, i%4094+1, 9000-version, i/250, i%250, i/250, i%250, i/250, i%250, i/250, i%250)
}

// change updates the configuration of definition i.
func (d *definitions) change(t *testing.T, i, version int) {
	t.Helper()
	ns, name := where(i)
	d.cluster.UpdateNetwork(t, ns, name, config(i, version))
}

// size returns the size of definition i as the API server sends it.
func (d *definitions) size(t *testing.T, i int) int {
	t.Helper()
	ns, name := where(i)
	b, err := d.cluster.Client().Discovery().RESTClient().Get().
		AbsPath("/apis/k8s.cni.cncf.io/v1/namespaces", ns, "network-attachment-definitions", name).DoRaw(t.Context())
	must(t, err)
	return len(b)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMain removes the binaries that the tests have built.
func TestMain(m *testing.M) {
	code := m.Run()
	node.Cleanup()
	os.Exit(code)
}
