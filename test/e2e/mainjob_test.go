package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

const (
	networks = "k8s.v1.cni.cncf.io/networks"
	status   = "k8s.v1.cni.cncf.io/network-status"
)

// site is a node of a cluster, with an uplink and a second NIC, and three network definitions.
type site struct {
	*node.Node
	api     *kubetest.Cluster
	ns      string
	outside *testnet.NS
}

// newBareSite returns a node of a cluster, without NICs, and a namespace.
func newBareSite(t *testing.T, kind node.Kind, o node.Options) *site {
	t.Helper()
	api := server(t)
	testnet.RequireRoot(t)
	testnet.RequireKernel(t, "macvlan")
	testnet.RequireKernel(t, "bridge")
	o.Kind = kind
	if o.Kubeconfig == "" {
		o.Kubeconfig, o.API = api.Kubeconfig(t), api.Addr()
	}
	s := &site{
		api: api, ns: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())),
		outside: testnet.New(t),
	}
	if len(s.ns) > 60 {
		s.ns = s.ns[len(s.ns)-60:]
	}
	s.ns = strings.Trim(s.ns, "-")
	api.CreateNamespace(t, s.ns)
	s.Node = node.New(t, o)
	return s
}

func newSite(t *testing.T, kind node.Kind, o node.Options) *site {
	t.Helper()
	s := newBareSite(t, kind, o)
	api := s.api
	testnet.Veth(t, s.NS, "uplink0", s.outside, "up0")
	testnet.Veth(t, s.NS, "nic1", s.outside, "peer1")
	testnet.Addr(t, s.outside, "up0", "192.0.2.1/24", "2001:db8:1::1/64")
	testnet.Addr(t, s.outside, "peer1", "198.51.100.1/24")
	local := func(subnet string) string {
		return fmt.Sprintf(`{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]]}`, s.Reservations(), subnet)
	}
	api.CreateNetwork(t, s.ns, "mac", fmt.Sprintf(
		`{"cniVersion":"1.0.0","type":"macvlan","master":"uplink0","mode":"bridge","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"192.0.2.0/24","rangeStart":"192.0.2.10"}],[{"subnet":"2001:db8:1::/64","rangeStart":"2001:db8:1::10"}]]}}`,
		s.Reservations()), nil)
	api.CreateNetwork(t, s.ns, "dev",
		`{"cniVersion":"1.0.0","type":"host-device","device":"nic1","ipam":{"type":"static","addresses":[{"address":"198.51.100.9/24"}]}}`, nil)
	api.CreateNetwork(t, s.ns, "br", fmt.Sprintf(
		`{"cniVersion":"1.0.0","name":"br-list","plugins":[{"type":"bridge","bridge":"br1","ipam":%s},{"type":"tuning","capabilities":{"mac":true}}]}`, local("203.0.113.0/24")), nil)
	return s
}

// pod creates a pod object, with readiness gates if there are some, and its sandbox. passed reports whether the runtime
// passes the annotations.
func (s *site) pod(t *testing.T, name string, annotations map[string]string, passed bool, gates ...string) *node.Pod {
	t.Helper()
	uid := s.api.CreatePod(t, s.ns, name, annotations, gates...)
	if !passed {
		annotations = nil
	} else if annotations == nil {
		annotations = map[string]string{}
	}
	return s.NewPod(t, s.ns, name, uid, annotations)
}

type element struct {
	Name      string   `json:"name"`
	Interface string   `json:"interface"`
	IPs       []string `json:"ips"`
	Mac       string   `json:"mac"`
	Default   bool     `json:"default"`
	Gateway   []string `json:"gateway"`
}

func (s *site) status(t *testing.T, pod string) []element {
	t.Helper()
	var out []element
	if value := s.statusText(t, pod); json.Unmarshal([]byte(value), &out) != nil {
		t.Fatalf("network-status %q", value)
	}
	return out
}

// statusText waits until a pod has a network status, and returns it. The ADD of a thick plugin does not wait for it.
func (s *site) statusText(t *testing.T, pod string) (value string) {
	t.Helper()
	s.eventually(t, "network-status of "+pod, func() (ok bool) {
		value, ok = s.api.Annotation(t, s.ns, pod, status)
		return ok
	})
	return value
}

// three requests all three networks: one by name only, one with an interface name and one with a MAC address.
const three = `[{"name":"mac"},{"name":"dev","interface":"sriov0"},{"name":"br","mac":"02:00:00:00:01:01"}]`

// TestMainJob checks the main job: a pod is attached, its network status is written by one PATCH (behaviour D120), and
// DEL frees everything.
func TestMainJob(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newSite(t, kind, node.Options{})
			p := s.pod(t, "web", map[string]string{networks: three}, false)
			before := s.api.Requests(t, "multus")
			res, err := s.Add(t, s.Conf(), p)
			if err != nil {
				t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
			}
			if got := res.IPs[0].Address.IP.String(); !strings.HasPrefix(got, "10.244.0.") {
				t.Errorf("the runtime got %s, not the cluster network's address", got)
			}
			if d := cmp.Diff([]string{"eth0", "net1", "net3", "sriov0"}, testnet.Interfaces(t, p.NS)); d != "" {
				t.Errorf("interfaces in the pod (-want +got):\n%s", d)
			}
			got := s.status(t, "web")
			var names []string
			for _, e := range got {
				names = append(names, e.Name+" "+e.Interface)
			}
			want := []string{"cluster eth0", s.ns + "/mac net1", s.ns + "/dev sriov0", s.ns + "/br net3"}
			if d := cmp.Diff(want, names); d != "" {
				t.Errorf("network-status (-want +got):\n%s", d)
			}
			if !got[0].Default || got[1].Default || len(got[1].IPs) != 2 || got[3].Mac != "02:00:00:00:01:01" {
				t.Errorf("network-status: %+v", got)
			}
			for _, addr := range []string{"192.0.2.1", "2001:db8:1::1", "198.51.100.1", "10.244.0.1"} {
				if err := testnet.Ping(p.NS, addr); err != nil {
					t.Errorf("ping: %v", err)
				}
			}
			var after map[string]int
			s.eventually(t, "the PATCH is counted", func() bool {
				after = s.api.Requests(t, "multus")
				return after["PATCH pods/status"] > before["PATCH pods/status"]
			})
			if n := after["PATCH pods/status"] - before["PATCH pods/status"]; n != 1 {
				t.Errorf("%d PATCH pods/status, want 1 (all requests: %v)", n, after)
			}
			if n := after["PUT pods/status"]; n != 0 {
				t.Errorf("%d PUT pods/status", n)
			}
			if err := s.Check(t, s.Conf(), p); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			s.delete(t, p)
			if left := testnet.Interfaces(t, s.NS); !strings.Contains(strings.Join(left, " "), "nic1") {
				t.Errorf("nic1 is not back on the node: %v", left)
			}
		})
	}
}

// delete runs DEL and checks that nothing is left.
func (s *site) delete(t *testing.T, p *node.Pod) {
	t.Helper()
	if err := s.Del(t, s.Conf(), p); err != nil {
		t.Errorf("DEL: %v\n%s", err, s.DaemonLog())
	}
	if left := s.Left(t); len(left) > 0 {
		t.Errorf("left after DEL: %v", left)
	}
	if left := testnet.Interfaces(t, p.NS); len(left) > 0 {
		t.Errorf("interfaces left in the pod: %v", left)
	}
}

// TestDelWithoutDaemonAndAPIServer checks that DEL frees everything after the definitions and the pod were deleted and
// the daemon was stopped (behaviour D50-D72; multus-cni#1449, multus-cni#669).
func TestDelWithoutDaemonAndAPIServer(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newSite(t, kind, node.Options{})
			p := s.pod(t, "gone", map[string]string{networks: three}, true)
			if _, err := s.Add(t, s.Conf(), p); err != nil {
				t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
			}
			for _, n := range []string{"mac", "dev", "br"} {
				s.api.DeleteNetwork(t, s.ns, n)
			}
			s.api.DeletePod(t, s.ns, "gone")
			s.StopDaemon(t)
			s.delete(t, p)
		})
	}
}

// TestPlainPodWithoutDaemonAndAPIServer checks that without daemon and API server a plain pod is attached, and that an
// annotated pod fails with code 11 and leaves nothing (docs/architecture.md, "What happens when something is missing";
// behaviour E31; multus-cni#1387, multus-cni#1361).
func TestPlainPodWithoutDaemonAndAPIServer(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			proxy := server(t).Proxy(t)
			s := newSite(t, kind, node.Options{
				Kubeconfig: proxy.Kubeconfig(t), API: proxy.Addr(),
				Conf: map[string]any{"plainPods": "local", "daemonTimeout": "1s"},
			})
			plain := s.pod(t, "plain", nil, true)
			annotated := s.pod(t, "annotated", map[string]string{networks: "mac"}, true)
			s.StopDaemon(t)
			proxy.Down()
			if _, err := s.Add(t, s.Conf(), plain); err != nil {
				t.Fatalf("ADD of a plain pod: %v", err)
			}
			_, err := s.Add(t, s.Conf(), annotated)
			var ce *types.Error
			if !errors.As(err, &ce) || ce.Code != types.ErrTryAgainLater {
				t.Fatalf("ADD of an annotated pod: got %v, want code 11", err)
			}
			if !strings.Contains(ce.Msg, s.ns+"/annotated") {
				t.Errorf("the error does not name the pod: %s", ce.Msg)
			}
			if kind == node.Thick && !strings.Contains(ce.Msg, s.SocketDir()) {
				t.Errorf("the error does not name the socket: %s", ce.Msg)
			}
			if left := testnet.Interfaces(t, annotated.NS); len(left) > 0 {
				t.Errorf("left in the annotated pod: %v", left)
			}
			if _, err := os.Stat(filepath.Join(s.State(), annotated.ContainerID)); err == nil {
				t.Error("the annotated pod has a record")
			}
			if err := s.Del(t, s.Conf(), annotated); err != nil {
				t.Errorf("DEL of a pod that was never attached: %v", err)
			}
			if kind == node.Thick {
				s.statusLater(t, proxy)
			}
			s.delete(t, plain)
		})
	}
}

// statusLater makes daemon and API server available again. Then the network status of the plain pod is written.
func (s *site) statusLater(t *testing.T, proxy *kubetest.Proxy) {
	t.Helper()
	s.StartDaemon(t)
	proxy.Up()
	if got := s.status(t, "plain"); len(got) != 1 || got[0].Interface != "eth0" || !got[0].Default {
		t.Errorf("network-status: %+v", got)
	}
}
