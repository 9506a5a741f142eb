package neighbours

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// neighbour is one plugin, or one combination of plugins, to which Multus delegates.
type neighbour struct {
	// name is the name of the subtest and of the network definition.
	name string
	// software is the project. Its version is that of the module in tools.
	software software
	// runs is the text on the page about what was run.
	runs string
	// config returns the configuration of an additional network.
	config func(s *site) string
	// primary returns the configuration of the cluster network, if it is the neighbour. dir is the node's directory.
	primary func(dir string) string
	// networks is the annotation of the pod, if it differs from the name of the definition.
	networks string
	// needs skips the test if a requirement is missing, and starts what the plugin needs.
	needs func(t *testing.T, s *site)
	// ping is an address that the pod must reach. With inbound, the pod must be reachable from there instead: sbr removes
	// the routes of connections that are not bound to an address of the interface.
	ping    string
	inbound bool
	// left returns what is left when no pod is attached, for plugins with a store of their own.
	left func(t *testing.T, s *site) []string
	// limits is the text on the page about what this does not show.
	limits string
}

// software is a project and how it takes part in the tests.
type software struct {
	name string
	// module is the Go module, and tool the directory of tools that pins it. Both are empty for a stand-in.
	module, tool string
}

var (
	reference   = software{"reference plugins", "github.com/containernetworking/plugins", "cni"}
	whereabouts = software{"whereabouts", "github.com/k8snetworkplumbingwg/whereabouts", "whereabouts"}
)

// standIns describes what standin replaces of each plugin.
var standIns = map[string]string{
	"ovs":                 "result with the host's interface first; up to 1.0.0; no GC",
	"bond":                "DEL fails without its slaves, or with a namespace that is gone; up to 1.0.0; no GC",
	"route-override":      "CHECK refuses a route without gateway; up to 1.0.0; no GC",
	"flannel":             "delegates to bridge, file for DEL; up to 1.0.0; no GC",
	"calico":              "result with the host's interface only, addresses without interface",
	"cilium-cni":          "result with the host's interface first",
	"aws-cni":             "result with an interface `dummyX` that does not exist; up to 1.0.0; no GC",
	"ovn-k8s-cni-overlay": "second interface `ovn-udn1` in the pod; up to 1.0.0; no GC",
	"istio-cni":           "chained, passes the result on",
	"old-only":            "chained; refuses the version 1.1.0 at ADD, DEL and GC",
	"no-gc":               "supports 1.1.0, fails GC with `missing containerID`",
	"ipam-gc":             "supports 1.1.0, passes GC on to host-local",
}

func played(name string) software { return software{name: name} }

// on returns a plugin's configuration of version 1.0.0 with host-local. more is added to the plugin's object.
func on(plugin, subnet, more string) func(*site) string {
	return func(s *site) string {
		return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%[1]q,"type":%[2]q,"ipam":%[3]s%[4]s}`, "n-"+subnet[:len(subnet)-3],
			plugin, s.ipam(subnet, ""), more)
	}
}

// chained returns the configuration of bridge or macvlan with host-local, and of a plugin after it.
func chained(first, subnet, route, second string) func(*site) string {
	return func(s *site) string {
		return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{%s,"ipam":%s},{%s}]}`, "n-"+subnet[:len(subnet)-3],
			first, s.ipam(subnet, route), second)
	}
}

const (
	macvlan = `"type":"macvlan","master":"uplink0","mode":"bridge"`
	byRoute = `,"routes":[{"dst":"0.0.0.0/0"}]`
)

func aBridge(name string) string {
	return fmt.Sprintf(`"type":"bridge","bridge":%q,"isGateway":true`, name)
}

// neighbours is the table that TestNeighbours runs and that docs/ecosystem.md shows.
var neighbours = slices.Concat(referencePlugins, whereaboutsNetworks, playedPlugins, clusterNetworks)

var referencePlugins = []neighbour{
	{
		name:     "bridge",
		software: reference,
		runs:     "bridge, host-local",
		config:   on("bridge", "10.1.0.0/24", `,"bridge":"br1","isGateway":true`),
		ping:     "10.1.0.1",
	},
	{
		name: "macvlan", software: reference, runs: "macvlan, host-local",
		config: on("macvlan", "10.2.0.0/24", `,"master":"uplink0","mode":"bridge"`),
		needs:  gateway("10.2.0.1/24"),
		ping:   "10.2.0.1",
	},
	{
		name: "static", software: reference, runs: "macvlan, static", needs: gateway("10.3.0.1/24"), ping: "10.3.0.1",
		config: func(*site) string {
			return `{"cniVersion":"1.0.0","name":"static",` + macvlan + `,"ipam":{"type":"static",` +
				`"addresses":[{"address":"10.3.0.9/24"}]}}`
		},
	},
	{
		name:     "dhcp",
		software: reference,
		runs:     "macvlan, dhcp with its daemon; dnsmasq of Debian is the server",
		needs:    dhcp,
		ping:     "10.4.0.1",
		config: func(s *site) string {
			return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"dhcp",`+macvlan+`,"ipam":{"type":"dhcp",`+
				`"daemonSocketPath":%q}}`, dhcpSocket(s))
		},
		limits: "skipped without dnsmasq",
	},
	{name: "ptp", software: reference, runs: "ptp, host-local", config: on("ptp", "10.5.0.0/24", ""), ping: "10.5.0.1"},
	{
		name:     "tap",
		software: reference,
		runs:     "tap, host-local",
		config:   on("tap", "10.6.0.0/24", ""),
		needs:    kernel("tap"),
		limits:   "no traffic: a tap needs a program behind it",
	},
	{
		name:     "dummy",
		software: reference,
		runs:     "dummy, host-local",
		config:   on("dummy", "10.7.0.0/24", ""),
		needs:    kernel("dummy"),
		limits:   "skipped where the kernel has no dummy",
	},
	{
		name:     "vlan",
		software: reference,
		runs:     "vlan, host-local",
		config:   on("vlan", "10.8.0.0/24", `,"master":"uplink0","vlanId":7`),
		needs:    kernel("vlan"),
		limits:   "skipped where the kernel has no vlan; no traffic",
	},
	{
		name:     "sbr",
		software: reference,
		runs:     "macvlan, host-local with a default route, then sbr",
		needs:    gateway("10.9.0.1/24"),
		ping:     "10.9.0.2",
		inbound:  true,
		config:   chained(macvlan, "10.9.0.0/24", byRoute, `"type":"sbr"`),
	},
	{
		name:     "sbr-static",
		software: reference,
		runs:     "macvlan, static with a gateway, then sbr",
		needs:    gateway("10.10.0.1/24"),
		ping:     "10.10.0.9",
		inbound:  true,
		config: func(*site) string {
			return `{"cniVersion":"1.0.0","name":"sbr-static","plugins":[{` + macvlan +
				`,"ipam":{"type":"static","addresses":[{"address":"10.10.0.9/24","gateway":"10.10.0.1"}],` +
				`"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"sbr"}]}`
		},
	},
	{
		name:     "vrf",
		software: reference,
		runs:     "bridge, host-local, then vrf",
		config:   chained(aBridge("br11"), "10.11.0.0/24", "", `"type":"vrf","vrfname":"red"`),
		needs:    kernel("vrf"), limits: "skipped where the kernel has no vrf; no traffic",
	},
	{
		name:     "tuning",
		software: reference,
		runs:     "bridge, host-local, then tuning with a sysctl and a MAC address",
		ping:     "10.12.0.1",
		config: chained(aBridge("br12"), "10.12.0.0/24", "", `"type":"tuning",`+
			`"sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1"},"mac":"02:00:00:00:12:01"`),
	},
	{
		name:     "bandwidth",
		software: reference,
		runs:     "bridge, host-local, then bandwidth",
		ping:     "10.13.0.1",
		needs:    kernel("ifb"),
		config: chained(aBridge("br13"), "10.13.0.0/24", "", `"type":"bandwidth","ingressRate":8000000,`+
			`"ingressBurst":8000000,"egressRate":8000000,"egressBurst":8000000`),
		limits: "the rate itself is not measured",
	},
	{
		name:     "firewall",
		software: reference,
		runs:     "bridge, host-local, then firewall with iptables",
		ping:     "10.14.0.1",
		needs:    program("iptables", "-t", "filter", "-L"),
		config:   chained(aBridge("br14"), "10.14.0.0/24", "", `"type":"firewall","backend":"iptables"`),
		limits:   "skipped without iptables; firewalld is not run",
	},
	{
		name:     "portmap",
		software: reference,
		runs:     "bridge, host-local, then portmap with nftables",
		ping:     "10.15.0.1",
		needs:    program("nft", "list", "ruleset"),
		config: chained(aBridge("br15"), "10.15.0.0/24", "", `"type":"portmap","backend":"nftables",`+
			`"snat":true,"capabilities":{"portMappings":true}`),
		networks: `[{"name":"portmap","portMappings":[{"hostPort":18080,"containerPort":80,"protocol":"tcp"}]}]`,
		left:     mappedPorts,
		limits:   "skipped without nft; no traffic through the mapped port",
	},
}

var whereaboutsNetworks = []neighbour{
	{
		name:     "whereabouts",
		software: whereabouts,
		runs:     "macvlan, whereabouts, its pools in a real API server",
		needs:    pools("10.20.0.1/24"),
		ping:     "10.20.0.1",
		config:   pool("whereabouts", `"range":"10.20.0.0/24","range_start":"10.20.0.10"`),
		left:     allocations,
		limits:   "not with `networksDir`: it needs the API server",
	},
	{
		name:     "whereabouts-dual",
		software: whereabouts,
		runs:     "macvlan, whereabouts with an IPv4 and an IPv6 range",
		needs:    pools("10.21.0.1/24", "2001:db8:21::1/64"),
		ping:     "2001:db8:21::1",
		config: pool("whereabouts-dual", `"ipRanges":[{"range":"10.21.0.0/24","range_start":"10.21.0.10"},`+
			`{"range":"2001:db8:21::/64","range_start":"2001:db8:21::10"}]`),
		left: allocations, limits: "not with `networksDir`",
	},
}

var playedPlugins = []neighbour{
	{name: "ovs", software: played("ovs"), runs: "ovs, host-local", config: on("ovs", "10.30.0.0/24", "")},
	{
		name: "bond", software: played("bond"), runs: "two macvlan networks, then bond over both",
		networks: `[{"name":"macvlan"},{"name":"macvlan"},{"name":"bond","interface":"bond0"}]`,
		config:   on("bond", "10.31.0.0/24", `,"links":[{"name":"net1"},{"name":"net2"}]`),
	},
	{
		name:     "route-override",
		software: played("route-override"),
		runs:     "macvlan, host-local, then route-override with a route without gateway",
		needs:    gateway("10.32.0.1/24"),
		ping:     "10.32.0.1",
		config: chained(macvlan, "10.32.0.0/24", "", `"type":"route-override","flushgateway":true,`+
			`"addroutes":[{"dst":"203.0.113.0/24"}]`),
	},
	{
		name:     "old-only",
		software: played("old-only"),
		runs:     "bridge, host-local, then a plugin up to 1.0.0, in a list of 1.0.0",
		ping:     "10.35.0.1",
		config:   chained(aBridge("br35"), "10.35.0.0/24", "", `"type":"old-only"`),
	},
	{
		name:     "ipam-gc",
		software: played("ipam-gc"),
		runs:     "a plugin of 1.1.0 that passes GC on to host-local",
		config:   collected("ipam-gc", "10.34.0.0/24"),
	},
	{
		name: "no-gc", software: played("no-gc"), runs: "a plugin of 1.1.0 without GC, host-local",
		config: func(s *site) string {
			return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"no-gc","type":"no-gc","ipam":%s}`, s.ipam("10.33.0.0/24", ""))
		},
	},
}

// collected returns the configuration of a network whose plugin passes GC on to host-local.
func collected(name, subnet string) func(*site) string {
	return func(s *site) string {
		return fmt.Sprintf(`{"cniVersion":"1.1.0","name":%q,"type":"ipam-gc","ipam":%s}`, name, s.ipam(subnet, ""))
	}
}

// collectedPrimary is like collected, for the cluster network.
func collectedPrimary(dir string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"cluster","plugins":[{"type":"ipam-gc",`+
		`"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.244.0.0/16"}]]}}]}`,
		filepath.Join(dir, "ipam"))
}

var clusterNetworks = []neighbour{
	{name: "flannel", software: played("flannel"), runs: "cluster network", primary: func(dir string) string {
		return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"flannel","subnetFile":%q,`+
			`"dataDir":%q,"delegate":{"bridge":"cni0","isDefaultGateway":true}}]}`,
			filepath.Join(dir, "subnet.env"), filepath.Join(dir, "flannel"))
	}, needs: subnetFile, ping: "10.42.0.1"},
	{
		name:     "calico",
		software: played("calico"),
		runs:     "cluster network of version 0.3.1",
		primary:  agent("0.3.1", "k8s-pod-network", "calico", ""),
	},
	{
		name:     "cilium",
		software: played("cilium-cni"),
		runs:     "cluster network",
		primary:  agent("0.3.1", "cilium", "cilium-cni", ""),
	},
	{
		name:     "aws-vpc",
		software: played("aws-cni"),
		runs:     "cluster network",
		primary:  agent("0.4.0", "aws-cni", "aws-cni", ""),
	},
	{
		name:     "ovn-kubernetes",
		software: played("ovn-k8s-cni-overlay"),
		runs:     "cluster network",
		primary:  agent("0.4.0", "ovn-kubernetes", "ovn-k8s-cni-overlay", ""),
	},
	{
		name:     "istio",
		software: played("istio-cni"),
		runs:     "chained after the cluster network",
		primary:  agent("0.3.1", "k8s-pod-network", "calico", `,{"type":"istio-cni"}`),
	},
}

// agent returns a configuration as the agent of a cluster network writes it.
func agent(version, name, plugin, more string) func(dir string) string {
	return func(dir string) string {
		return fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[{"type":%q,"ipam":{"type":"host-local",`+
			`"dataDir":%q,"ranges":[[{"subnet":"10.43.0.0/16"}]]}}%s]}`,
			version, name, plugin, filepath.Join(dir, "ipam"), more)
	}
}

// kernel returns a function that skips the test if the kernel does not support links of this kind.
func kernel(kind string) func(*testing.T, *site) {
	return func(t *testing.T, _ *site) {
		t.Helper()
		testnet.RequireKernel(t, kind)
	}
}

// program returns a function that skips the test if a program is missing or does not work in a network namespace.
func program(name string, args ...string) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		t.Helper()
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("no %s: apt-get install it", name)
		}
		var out []byte
		s.Do(t, func() { out, err = exec.CommandContext(t.Context(), path, args...).CombinedOutput() })
		if err != nil {
			t.Skipf("%s does not work here: %v: %s", name, err, out)
		}
	}
}

// gateway adds addresses to the node's peer, so that pods on the uplink can reach them.
func gateway(cidr ...string) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		t.Helper()
		testnet.Addr(t, s.outside, "up0", cidr...)
	}
}

func subnetFile(t *testing.T, s *site) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(s.Dir, "subnet.env"),
		[]byte("FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.0/24\nFLANNEL_MTU=1450\n"), 0o644))
}

// mappedPorts returns the rules of the port that portmap maps.
func mappedPorts(t *testing.T, s *site) []string {
	t.Helper()
	var out []byte
	var err error
	s.Do(t, func() { out, err = exec.CommandContext(t.Context(), "nft", "list", "ruleset").CombinedOutput() })
	check(t, err)
	var left []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "18080") {
			left = append(left, strings.TrimSpace(line))
		}
	}
	return left
}

// TestNeighbours runs every neighbour under every deployment, with the calls of CRI-O and with those of containerd.
func TestNeighbours(t *testing.T) {
	each(t, func(t *testing.T, d deployment) {
		t.Parallel() // each deployment has nodes of its own
		shared := newSite(t, d, node.Options{})
		// bond needs the network macvlan, which may come later in the table.
		for _, n := range neighbours {
			if n.config != nil && n.software != whereabouts {
				shared.define(t, n.name, n.config(shared))
			}
		}
		for _, n := range neighbours {
			t.Run(n.name, func(t *testing.T) {
				s := shared
				if n.primary != nil {
					dir := tempDir(t)
					s = newSite(t, d, node.Options{Dir: dir, Primary: n.primary(dir)})
				}
				n.run(t, s)
			})
		}
	})
}

func (n *neighbour) run(t *testing.T, s *site) {
	t.Helper()
	if n.needs != nil {
		n.needs(t, s)
	}
	networks := n.networks
	if networks == "" && n.primary == nil {
		networks = n.name
	}
	if n.software == whereabouts {
		s.define(t, n.name, n.config(s))
	}
	n.asCRIO(t, s, s.with(t, networks))
	p := s.with(t, networks)
	(&containerd{s}).run(t, p, func() { n.reaches(t, s, p) })
	n.nothingLeft(t, s)
}

func (n *neighbour) asCRIO(t *testing.T, s *site, p *node.Pod) {
	t.Helper()
	c := &crio{s: s}
	if _, err := c.setUp(t, p); err != nil {
		t.Errorf("the pod does not start on CRI-O: %v\n%s", err, s.log())
		s.gone(t, p)
		return
	}
	n.reaches(t, s, p)
	before := s.addresses(t, p)
	lost, err := c.restart(t)
	if len(lost) > 0 {
		t.Errorf("a restart of CRI-O removes the sandbox of the pod: %v", lost)
	}
	if err != nil {
		t.Errorf("GC: %v", err)
	}
	if after := s.addresses(t, p); !slices.Equal(before, after) {
		t.Errorf("addresses after GC: %v, before: %v", after, before)
	}
	n.reaches(t, s, p)
	if err := c.tearDown(t, p); err != nil {
		t.Errorf("%v\n%s", err, s.log())
	}
	s.gone(t, p)
	n.nothingLeft(t, s)
}

func (n *neighbour) reaches(t *testing.T, s *site, p *node.Pod) {
	t.Helper()
	if n.ping == "" {
		return
	}
	from, to := p.NS, n.ping
	if n.inbound {
		from = s.outside
		for _, a := range s.addresses(t, p) {
			if network, address, _ := strings.Cut(a, "/"); network != "cluster" {
				to = address
			}
		}
	}
	if err := testnet.Ping(from, to); err != nil {
		t.Error(err)
	}
}

// nothingLeft checks that the node has no interface of a pod and that the plugin's store is empty.
func (n *neighbour) nothingLeft(t *testing.T, s *site) {
	t.Helper()
	notOfPod := func(name string) bool {
		return !slices.ContainsFunc([]string{"veth", "sv", "bwp"},
			func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	}
	// The kernel removes the other end of a veth pair in the background.
	eventually.Within(t, waitTimeout, "no interface of a pod is left on the node",
		func() bool { return len(slices.DeleteFunc(testnet.Interfaces(t, s.NS), notOfPod)) == 0 })
	if n.left == nil {
		return
	}
	if left := n.left(t, s); len(left) > 0 {
		t.Errorf("left in the plugin's store: %v", left)
	}
}
