package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// Addresses behind the gateway of network mac. They are reachable only by a default route.
const (
	beyond4 = "198.51.100.1"
	beyond6 = "2001:db8:99::1"
)

// clusters are configurations of a cluster network by the families with a default route. In nogw the default routes
// have no gateway.
var clusters = map[string]string{
	"v4":   `"isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"$DIR","ranges":[[{"subnet":"10.4.0.0/24"}]]}`,
	"v6":   `"isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"$DIR","ranges":[[{"subnet":"fd00:6::/64"}]]}`,
	"dual": `"isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"$DIR","ranges":[[{"subnet":"10.46.0.0/24"}],[{"subnet":"fd00:46::/64"}]]}`,
	"nogw": `"ipam":{"type":"static","addresses":[{"address":"10.9.0.9/24"},{"address":"fd00:9::9/64"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}`,
}

// useCluster replaces the cluster network of the node by one of clusters. more are further plugins of its list.
func (s *site) useCluster(t *testing.T, name string, more ...string) {
	t.Helper()
	first := fmt.Sprintf(`{"type":"bridge","bridge":"cni-%s",%s}`, name,
		strings.ReplaceAll(clusters[name], "$DIR", s.Reservations()))
	text := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cluster-%s","plugins":[%s]}`, name,
		strings.Join(append([]string{first}, more...), ","))
	path := filepath.Join(s.Dir, "net.d", "10-primary.conflist")
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// newRouted returns a site with two more networks: two, which has gateways, and own, whose plugin sets default routes
// itself.
func newRouted(t *testing.T, kind node.Kind) *site {
	t.Helper()
	s := newSite(t, kind, node.Options{})
	testnet.Addr(t, s.outside, "peer1", beyond6+"/64")
	s.api.CreateNetwork(t, s.ns, "two", fmt.Sprintf(
		`{"cniVersion":"1.0.0","type":"bridge","bridge":"br2","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"198.18.2.0/24"}],[{"subnet":"fd00:2::/64"}]]}}`,
		s.Reservations()), nil)
	s.api.CreateNetwork(t, s.ns, "own", fmt.Sprintf(
		`{"cniVersion":"1.0.0","type":"macvlan","master":"uplink0","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"192.0.2.0/24","rangeStart":"192.0.2.100"}],[{"subnet":"2001:db8:1::/64","rangeStart":"2001:db8:1::100"}]],
		"routes":[{"dst":"0.0.0.0/0","gw":"192.0.2.1"},{"dst":"::/0","gw":"2001:db8:1::1"}]}}`, s.Reservations()), nil)
	return s
}

// kernelDefaults returns the default routes of a namespace as "interface gateway".
func kernelDefaults(t *testing.T, ns *testnet.NS) []string {
	t.Helper()
	var out []string
	ns.Do(t, func() {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Dst != nil && !isEverywhere(*r.Dst) {
				continue
			}
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, strings.TrimSpace(link.Attrs().Name+" "+family(r.Dst, r.Gw)))
		}
	})
	slices.Sort(out)
	return out
}

func isEverywhere(n net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

// family returns the gateway, or the family of a route without one.
func family(dst *net.IPNet, gw net.IP) string {
	switch {
	case gw != nil:
		return gw.String()
	case dst != nil && dst.IP.To4() == nil:
		return "v6"
	}
	return "v4"
}

// defaults returns the default routes of a result as "interface gateway".
func defaults(ifName string, routes []*types.Route) []string {
	var out []string
	for _, r := range routes {
		if isEverywhere(r.Dst) {
			out = append(out, ifName+" "+family(&r.Dst, r.GW))
		}
	}
	slices.Sort(out)
	return out
}

// cached returns the routes of the pod's results that libcni has cached in a directory, by interface.
func cached(t *testing.T, dir string, p *node.Pod) map[string][]*types.Route {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "results", "*-"+p.ContainerID+"-*"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]*types.Route{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var entry struct {
			IfName string `json:"ifName"`
			Result struct {
				Routes []*types.Route `json:"routes"`
			} `json:"result"`
		}
		if err := json.Unmarshal(b, &entry); err != nil {
			t.Fatal(err)
		}
		out[entry.IfName] = entry.Result.Routes
	}
	return out
}

// agree checks that these are the only default routes in the kernel, in the result that the runtime got and cached, in
// libcni's cached results and in the network status.
func (s *site) agree(t *testing.T, p *node.Pod, result []*types.Route, want []string) {
	t.Helper()
	slices.Sort(want)
	if d := cmp.Diff(want, kernelDefaults(t, p.NS)); d != "" {
		t.Errorf("kernel (-want +got):\n%s", d)
	}
	first := slices.DeleteFunc(slices.Clone(want), func(r string) bool { return !strings.HasPrefix(r, "eth0 ") })
	if d := cmp.Diff(first, append([]string{}, defaults("eth0", result)...)); d != "" {
		t.Errorf("result (-want +got):\n%s", d)
	}
	if d := cmp.Diff(first, append([]string{},
		defaults("eth0", cached(t, filepath.Join(s.Dir, "runtime"), p)["eth0"])...)); d != "" {
		t.Errorf("the runtime's cache (-want +got):\n%s", d)
	}
	var got []string
	all := cached(t, s.State(), p)
	for _, ifName := range slices.Sorted(maps.Keys(all)) {
		got = append(got, defaults(ifName, all[ifName])...)
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("cached results (-want +got):\n%s", d)
	}
	got = []string{}
	for _, e := range s.status(t, p.Name) {
		for _, gw := range e.Gateway {
			got = append(got, e.Interface+" "+gw)
		}
	}
	slices.Sort(got)
	shown := slices.DeleteFunc(slices.Clone(want),
		func(r string) bool { return strings.HasSuffix(r, " v4") || strings.HasSuffix(r, " v6") })
	if d := cmp.Diff(shown, got); d != "" {
		t.Errorf("network-status (-want +got):\n%s", d)
	}
}

// TestDefaultRoutes moves default routes by the requested families in real namespaces. All results agree with the
// kernel, and CHECK, whose plugins compare the routes with the cached results, succeeds (behaviour D27, D30-D38, D41;
// D118).
func TestDefaultRoutes(t *testing.T) {
	const (
		gw4, gw6   = "192.0.2.1", "2001:db8:1::1"
		two4, two6 = "198.18.2.1", "fd00:2::1"
	)
	route := func(network string, gateways ...string) string {
		b, _ := json.Marshal(append([]string{}, gateways...)) // strings can always be encoded
		return fmt.Sprintf(`{"name":%q,"default-route":%s}`, network, b)
	}
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newRouted(t, kind)
			for i, tc := range []struct {
				name, cluster, networks string
				want                    []string
			}{
				{"IPv4", "v4", route("mac", gw4), []string{"net1 " + gw4}},
				{"IPv6", "v6", route("mac", gw6), []string{"net1 " + gw6}},
				{"not requested", "dual", `{"name":"mac"}`, []string{"eth0 10.46.0.1", "eth0 fd00:46::1"}},
				{"dual stack, IPv4 only", "dual", route("mac", gw4), []string{"net1 " + gw4, "eth0 fd00:46::1"}},
				{"dual stack, IPv6 only", "dual", route("mac", gw6), []string{"eth0 10.46.0.1", "net1 " + gw6}},
				{"dual stack, both", "dual", route("mac", gw4, gw6), []string{"net1 " + gw4, "net1 " + gw6}},
				{
					"split over two networks", "dual", route("mac", gw6) + "," + route("two", two4),
					[]string{"net2 " + two4, "net1 " + gw6},
				},
				{
					"on the second network", "dual", `{"name":"mac"},` + route("two", two4, two6),
					[]string{"net2 " + two4, "net2 " + two6},
				},
				{"empty list", "dual", route("mac"), []string{"eth0 10.46.0.1", "eth0 fd00:46::1"}},
				{"a family without a cluster network", "v4", route("mac", gw6), []string{"eth0 10.4.0.1", "net1 " + gw6}},
				{
					"the plugin's own routes, moved to itself", "dual", route("own", gw4, gw6),
					[]string{"net1 " + gw4, "net1 " + gw6},
				},
				{
					"the plugin's own route of the other family stays", "v4", route("own", gw4),
					[]string{"net1 " + gw4, "net1 " + gw6},
				},
				{
					"the plugin's own routes, another network requests them", "v4", `{"name":"own"},` + route("two", two4, two6),
					[]string{"net2 " + two4, "net2 " + two6},
				},
				{"without gateway, not requested", "nogw", `{"name":"mac"}`, []string{"eth0 v4", "eth0 v6"}},
				{"without gateway, IPv4 only", "nogw", route("mac", gw4), []string{"net1 " + gw4, "eth0 v6"}},
				{"without gateway, both", "nogw", route("mac", gw4, gw6), []string{"net1 " + gw4, "net1 " + gw6}},
			} {
				if kind == node.Thin && i%4 != 3 {
					continue // the engine is the same: some cases suffice to check the plan
				}
				t.Run(tc.name, func(t *testing.T) {
					s.useCluster(t, tc.cluster)
					p := s.pod(t, fmt.Sprintf("p%d", i), map[string]string{networks: "[" + tc.networks + "]"}, i%2 == 0)
					res, err := s.Add(t, s.Conf(), p)
					if err != nil {
						t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
					}
					s.agree(t, p, res.Routes, tc.want)
					for gw, beyond := range map[string]string{gw4: beyond4, gw6: beyond6} {
						if !slices.Contains(tc.want, "net1 "+gw) {
							continue
						}
						if err := testnet.Ping(p.NS, beyond); err != nil {
							t.Error(err)
						}
					}
					if err := s.Check(t, s.Conf(), p); err != nil {
						t.Errorf("CHECK: %v", err)
					}
					s.delete(t, p)
				})
			}
			t.Run("unreachable gateway", func(t *testing.T) {
				s.useCluster(t, "dual")
				p := s.pod(t, "unreachable", map[string]string{networks: "[" + route("mac", "203.0.113.77", gw6) + "]"}, false)
				if _, err := s.Add(t, s.Conf(), p); err == nil || !strings.Contains(err.Error(), "203.0.113.77") {
					t.Errorf("ADD: %v, want an error that names the gateway (D37)", err)
				}
				if left := testnet.Interfaces(t, p.NS); len(left) > 0 {
					t.Errorf("attached: %v (D40)", left)
				}
				s.delete(t, p)
			})
		})
	}
}

// TestAdvertisedRoute checks that a default route that a router advertises on eth0 does not return after another
// network got the default route. A pod without a requested default route learns the advertised one (multus-cni#749).
func TestAdvertisedRoute(t *testing.T) {
	const prefix = "2001:db8:b::/64"
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newRouted(t, kind)
			s.useCluster(t, "v4", `{"type":"tuning","sysctl":{"net.ipv6.conf.IFNAME.accept_ra":"1"}}`)
			plain := s.pod(t, "plain", nil, false)
			moved := s.pod(t, "moved", map[string]string{networks: `[{"name":"mac","default-route":["2001:db8:1::1"]}]`}, false)
			if _, err := s.Add(t, s.Conf(), plain); err != nil {
				t.Fatal(err)
			}
			testnet.Addr(t, s.NS, "cni-v4", "fe80::1/64")
			stop := testnet.Advertise(t, s.NS, "cni-v4", prefix)
			s.eventually(t, "the route in the pod that requested nothing", func() bool {
				return slices.Contains(kernelDefaults(t, plain.NS), "eth0 fe80::1")
			})
			// The router also advertises while the pod is being attached.
			res, err := s.Add(t, s.Conf(), moved)
			if err != nil {
				t.Fatal(err)
			}
			// The kernel processes the router before the prefix of an advertisement. If the prefix is there, the router has been
			// ignored.
			s.eventually(t, "the prefix in the pod whose route moved", func() bool { return hasRoute(t, moved.NS, prefix) })
			stop()
			s.agree(t, moved, res.Routes, []string{"eth0 10.4.0.1", "net1 2001:db8:1::1"})
			if err := testnet.Ping(moved.NS, beyond6); err != nil {
				t.Error(err)
			}
			for _, p := range []*node.Pod{moved, plain} {
				if err := s.Check(t, s.Conf(), p); err != nil {
					t.Errorf("CHECK: %v", err)
				}
				if err := s.Del(t, s.Conf(), p); err != nil {
					t.Errorf("DEL: %v", err)
				}
			}
			if left := s.Left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// hasRoute reports whether there is an IPv6 route to exactly dst.
func hasRoute(t *testing.T, ns *testnet.NS, dst string) (found bool) {
	t.Helper()
	ns.Do(t, func() {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		found = slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == dst })
	})
	return found
}
