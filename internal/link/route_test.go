package link_test

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"multus/internal/link"
	"multus/internal/testutil/testnet"
)

var families = []link.Family{link.IPv4, link.IPv6}

// pod is a namespace without a default route. It has two dual-stack interfaces: eth0 (192.0.2.0/24, 2001:db8:0::/64)
// and net1 (198.51.100.0/24, 2001:db8:1::/64).
type pod struct {
	*testnet.NS
	router *testnet.NS
	ns     *link.Namespace
}

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{NS: testnet.New(t), router: testnet.New(t)}
	testnet.Veth(t, p.NS, "eth0", p.router, "r0")
	testnet.Veth(t, p.NS, "net1", p.router, "r1")
	testnet.Addr(t, p.NS, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	testnet.Addr(t, p.NS, "net1", "198.51.100.2/24", "2001:db8:1::2/64")
	testnet.Addr(t, p.router, "r0", "192.0.2.1/24", "2001:db8::1/64")
	testnet.Addr(t, p.router, "r1", "198.51.100.1/24", "2001:db8:1::1/64")
	p.ns = open(t, p.NS)
	return p
}

// add appends routes, as ip route append does: several default routes of one metric are possible.
func (p *pod) add(t *testing.T, specs ...spec) {
	t.Helper()
	p.Do(t, func() {
		for _, s := range specs {
			if err := netlink.RouteAppend(s.route(t)); err != nil {
				t.Fatalf("add route %+v: %v", s, err)
			}
		}
	})
}

// spec is a default route to add.
type spec struct {
	family link.Family
	dev    string
	via    string
	metric int
	proto  int
	table  int
	more   []spec // nexthops of a multipath route: dev and via
}

func (s spec) route(t *testing.T) *netlink.Route {
	t.Helper()
	all := netip.MustParsePrefix("0.0.0.0/0")
	if s.family == link.IPv6 {
		all = netip.MustParsePrefix("::/0")
	}
	dst, err := netlink.ParseIPNet(all.String())
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{Dst: dst, Priority: s.metric, Protocol: netlink.RouteProtocol(s.proto), Table: s.table}
	for _, hop := range s.more {
		r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: indexOf(t, hop.dev), Gw: gateway(hop.via)})
	}
	if len(s.more) == 0 {
		r.LinkIndex, r.Gw = indexOf(t, s.dev), gateway(s.via)
		if s.via == "" && s.family == link.IPv4 {
			r.Scope = netlink.SCOPE_LINK
		}
	}
	return r
}

func gateway(via string) []byte {
	if via == "" {
		return nil
	}
	return netip.MustParseAddr(via).AsSlice()
}

// indexOf returns an index in the current namespace.
func indexOf(t *testing.T, dev string) int {
	t.Helper()
	l, err := netlink.LinkByName(dev)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

// routes returns the routes as sorted strings, for comparison.
func (p *pod) routes(t *testing.T, dev string, families ...link.Family) []string {
	t.Helper()
	texts := []string{}
	for _, f := range families {
		routes, err := p.ns.DefaultRoutes(dev, f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			texts = append(texts, r.String())
		}
	}
	slices.Sort(texts)
	return texts
}

func (p *pod) want(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(append([]string{}, want...), p.routes(t, "", families...)); diff != "" {
		t.Errorf("default routes (-want +got):\n%s", diff)
	}
}

// crowd has every kind of default route on both interfaces.
var crowd = []spec{
	{family: link.IPv4, dev: "eth0", via: "192.0.2.1"},
	{family: link.IPv4, dev: "eth0", via: "192.0.2.3", metric: 100, proto: unix.RTPROT_STATIC},
	{family: link.IPv4, dev: "eth0", metric: 200, proto: unix.RTPROT_KERNEL},
	{family: link.IPv4, dev: "eth0", via: "192.0.2.1", metric: 300, proto: unix.RTPROT_DHCP},
	{family: link.IPv4, dev: "net1", via: "198.51.100.1", metric: 100},
	{family: link.IPv6, dev: "eth0", via: "2001:db8::1", metric: 1024, proto: unix.RTPROT_RA},
	{family: link.IPv6, dev: "eth0", via: "2001:db8::3", metric: 50, proto: unix.RTPROT_STATIC},
	{family: link.IPv6, dev: "eth0", metric: 2000},
	{family: link.IPv6, dev: "net1", via: "2001:db8:1::1", metric: 70, proto: unix.RTPROT_RA},
}

var (
	eth0v4 = []string{
		"default via 192.0.2.1 dev eth0 proto 3",
		"default via 192.0.2.3 dev eth0 proto 4 metric 100",
		"default dev eth0 proto 2 metric 200",
		"default via 192.0.2.1 dev eth0 proto 16 metric 300",
	}
	net1v4 = []string{"default via 198.51.100.1 dev net1 proto 3 metric 100"}
	eth0v6 = []string{
		"default via 2001:db8::1 dev eth0 proto 9 metric 1024",
		"default via 2001:db8::3 dev eth0 proto 4 metric 50",
		"default dev eth0 proto 3 metric 2000",
	}
	net1v6 = []string{"default via 2001:db8:1::1 dev net1 proto 9 metric 70"}
)

func TestDefaultRoutes(t *testing.T) {
	p := newPod(t)
	p.want(t)
	p.add(t, crowd...)
	// These are not default routes of the main table.
	p.add(t, spec{family: link.IPv4, dev: "eth0", via: "192.0.2.9", table: 100},
		spec{family: link.IPv6, dev: "eth0", via: "2001:db8::9", table: 1000})
	p.Do(t, func() {
		for _, dst := range []string{"0.0.0.0/1", "::/1"} {
			half, err := netlink.ParseIPNet(dst)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: indexOf(t, "eth0"), Dst: half}); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range families {
			nowhere := spec{family: f, dev: "lo", metric: 999}.route(t)
			nowhere.Type, nowhere.LinkIndex, nowhere.Scope = unix.RTN_UNREACHABLE, 0, netlink.SCOPE_UNIVERSE
			if err := netlink.RouteAdd(nowhere); err != nil {
				t.Fatal(err)
			}
		}
	})
	p.want(t, slices.Concat(eth0v4, net1v4, eth0v6, net1v6)...)
	for _, tt := range []struct {
		dev    string
		family link.Family
		want   []string
	}{
		{"eth0", link.IPv4, eth0v4},
		{"eth0", link.IPv6, eth0v6},
		{"net1", link.IPv4, net1v4},
		{"net1", link.IPv6, net1v6},
		{"lo", link.IPv4, nil},
	} {
		t.Run(tt.dev+" "+tt.family.String(), func(t *testing.T) {
			want := slices.Sorted(slices.Values(tt.want))
			if diff := cmp.Diff(append([]string{}, want...), p.routes(t, tt.dev, tt.family)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDropDefault(t *testing.T) {
	for _, tt := range []struct {
		dev    string
		family link.Family
		left   []string
	}{
		{"eth0", link.IPv4, slices.Concat(net1v4, eth0v6, net1v6)},
		{"eth0", link.IPv6, slices.Concat(eth0v4, net1v4, net1v6)},
		{"net1", link.IPv4, slices.Concat(eth0v4, eth0v6, net1v6)},
		{"net1", link.IPv6, slices.Concat(eth0v4, net1v4, eth0v6)},
		{"lo", link.IPv4, slices.Concat(eth0v4, net1v4, eth0v6, net1v6)},
		{"lo", link.IPv6, slices.Concat(eth0v4, net1v4, eth0v6, net1v6)},
	} {
		t.Run(tt.dev+" "+tt.family.String(), func(t *testing.T) {
			p := newPod(t)
			p.add(t, crowd...)
			for range 2 { // the second time there is nothing left to do
				if err := p.ns.DropDefault(tt.dev, tt.family); err != nil {
					t.Fatal(err)
				}
				p.want(t, tt.left...)
			}
		})
	}
}

// TestDropDefaultMultipath drops nexthops of routes that have others on another interface.
func TestDropDefaultMultipath(t *testing.T) {
	multipath := []spec{
		{family: link.IPv4, metric: 10, more: []spec{
			{dev: "eth0", via: "192.0.2.1"}, {dev: "net1", via: "198.51.100.1"}, {dev: "eth0", via: "192.0.2.3"},
		}},
		{family: link.IPv4, metric: 20, more: []spec{{dev: "eth0", via: "192.0.2.1"}, {dev: "eth0", via: "192.0.2.3"}}},
		{family: link.IPv6, metric: 10, more: []spec{
			{dev: "eth0", via: "2001:db8::1"}, {dev: "net1", via: "2001:db8:1::1"}, {dev: "eth0", via: "2001:db8::3"},
		}},
		// If the kernel finds a multipath route first, it applies a deletion without a gateway to all its nexthops.
		{family: link.IPv6, metric: 10, dev: "eth0"},
	}
	eth0v4 := []string{
		"default via 192.0.2.1 dev eth0 proto 3 metric 10",
		"default via 192.0.2.3 dev eth0 proto 3 metric 10",
		"default via 192.0.2.1 dev eth0 proto 3 metric 20",
		"default via 192.0.2.3 dev eth0 proto 3 metric 20",
	}
	net1v4 := []string{"default via 198.51.100.1 dev net1 proto 3 metric 10"}
	eth0v6 := []string{
		"default dev eth0 proto 3 metric 10",
		"default via 2001:db8::1 dev eth0 proto 3 metric 10",
		"default via 2001:db8::3 dev eth0 proto 3 metric 10",
	}
	net1v6 := []string{"default via 2001:db8:1::1 dev net1 proto 3 metric 10"}
	for _, tt := range []struct {
		dev    string
		family link.Family
		left   []string
	}{
		{"eth0", link.IPv4, slices.Concat(net1v4, eth0v6, net1v6)},
		{"net1", link.IPv4, slices.Concat(eth0v4, eth0v6, net1v6)},
		{"eth0", link.IPv6, slices.Concat(eth0v4, net1v4, net1v6)},
		{"net1", link.IPv6, slices.Concat(eth0v4, net1v4, eth0v6)},
	} {
		t.Run(tt.dev+" "+tt.family.String(), func(t *testing.T) {
			p := newPod(t)
			p.add(t, multipath...)
			p.want(t, slices.Concat(eth0v4, net1v4, eth0v6, net1v6)...)
			if err := p.ns.DropDefault(tt.dev, tt.family); err != nil {
				t.Fatal(err)
			}
			p.want(t, tt.left...)
		})
	}
}

// TestDropDefaultVia uses an IPv4 route with an IPv6 gateway, as in networks that give pods no IPv4 subnet.
func TestDropDefaultVia(t *testing.T) {
	p := newPod(t)
	p.Do(t, func() {
		r := spec{family: link.IPv4, dev: "eth0", via: ""}.route(t)
		r.Scope = netlink.SCOPE_UNIVERSE
		r.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: gateway("2001:db8::1")}
		if err := netlink.RouteAdd(r); err != nil {
			t.Fatal(err)
		}
	})
	p.want(t, "default via 2001:db8::1 dev eth0 proto 3")
	if err := p.ns.DropDefault("eth0", link.IPv4); err != nil {
		t.Fatal(err)
	}
	p.want(t)
}

func TestDropDefaultStopsLearning(t *testing.T) {
	const switches = "/proc/sys/net/ipv6/conf/"
	p := newPod(t)
	read := func(dev string) (value string) {
		p.Do(t, func() {
			content, err := os.ReadFile(switches + dev + "/accept_ra_defrtr")
			if err != nil {
				t.Fatal(err)
			}
			value = strings.TrimSpace(string(content))
		})
		return value
	}
	if err := p.ns.DropDefault("eth0", link.IPv4); err != nil {
		t.Fatal(err)
	}
	if got := read("eth0"); got != "1" {
		t.Errorf("after dropping IPv4: accept_ra_defrtr = %s, want it untouched", got)
	}
	if err := p.ns.DropDefault("eth0", link.IPv6); err != nil {
		t.Fatal(err)
	}
	for dev, want := range map[string]string{"eth0": "0", "net1": "1", "default": "1"} {
		if got := read(dev); got != want {
			t.Errorf("accept_ra_defrtr of %s = %s, want %s", dev, got, want)
		}
	}
}

// TestDropDefaultNamesWhatIsLeft uses a route that netlink cannot delete: the kernel identifies an IPv4 route with a
// nexthop object by the ID of the object, which netlink does not support.
func TestDropDefaultNamesWhatIsLeft(t *testing.T) {
	p := newPod(t)
	p.add(t, crowd...)
	p.Do(t, func() {
		const id, attrID, attrOIF, attrGateway, routeNexthopID = 7, 1, 5, 6, 30 // linux/nexthop.h, linux/rtnetlink.h
		create := unix.NLM_F_CREATE | unix.NLM_F_EXCL | unix.NLM_F_ACK
		object := nl.NewNetlinkRequest(unix.RTM_NEWNEXTHOP, create)
		object.AddData(message{unix.AF_INET, 0, unix.RTPROT_STATIC, 0, 0, 0, 0, 0}) // struct nhmsg
		object.AddData(nl.NewRtAttr(attrID, nl.Uint32Attr(id)))
		object.AddData(nl.NewRtAttr(attrOIF, nl.Uint32Attr(uint32(indexOf(t, "eth0")))))
		object.AddData(nl.NewRtAttr(attrGateway, gateway("192.0.2.1")))
		if _, err := object.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			t.Skipf("kernel has no nexthop objects: %v", err)
		}
		route := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, create)
		msg := nl.NewRtMsg()
		msg.Family, msg.Protocol = unix.AF_INET, unix.RTPROT_STATIC
		route.AddData(msg)
		route.AddData(nl.NewRtAttr(routeNexthopID, nl.Uint32Attr(id)))
		route.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(77)))
		if _, err := route.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			t.Fatal(err)
		}
	})
	const stuck = "default via 192.0.2.1 dev eth0 proto 4 metric 77"
	p.want(t, slices.Concat(eth0v4, net1v4, eth0v6, net1v6, []string{stuck})...)
	err := p.ns.DropDefault("eth0", link.IPv4)
	if want := `delete IPv4 route "` + stuck + `": no such process`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	// The others are deleted nevertheless.
	p.want(t, slices.Concat(net1v4, eth0v6, net1v6, []string{stuck})...)
}

// message is a fixed part of a netlink request.
type message []byte

func (m message) Len() int          { return len(m) }
func (m message) Serialize() []byte { return m }

func TestMissingInterface(t *testing.T) {
	p := newPod(t)
	p.add(t, crowd...)
	_, listing := p.ns.DefaultRoutes("net9", link.IPv4)
	for what, err := range map[string]error{
		"list":           listing,
		"drop IPv4":      p.ns.DropDefault("net9", link.IPv4),
		"drop IPv6":      p.ns.DropDefault("net9", link.IPv6),
		"drop no name":   p.ns.DropDefault("", link.IPv4),
		"set":            p.ns.SetDefault("net9", addrs("192.0.2.1")),
		"set no gateway": p.ns.SetDefault("net9", nil),
		"set no name":    p.ns.SetDefault("", addrs("192.0.2.1")),
	} {
		if !errors.Is(err, link.ErrNoInterface) {
			t.Errorf("%s: error %v, want %v", what, err, link.ErrNoInterface)
		}
	}
	p.want(t, slices.Concat(eth0v4, net1v4, eth0v6, net1v6)...)
}

func TestSetDefault(t *testing.T) {
	before := []spec{
		{family: link.IPv4, dev: "eth0", via: "192.0.2.1"},
		{family: link.IPv6, dev: "eth0", via: "2001:db8::1"},
	}
	const (
		old4 = "default via 192.0.2.1 dev eth0 proto 3"
		old6 = "default via 2001:db8::1 dev eth0 proto 3 metric 1024"
		new4 = "default via 198.51.100.1 dev net1 proto 3"
		new6 = "default via 2001:db8:1::1 dev net1 proto 3 metric 1024"

		local = "default via fe80::1 dev net1 proto 3 metric 1024"
	)
	for _, tt := range []struct {
		name     string
		gateways []netip.Addr
		want     []string // routes afterwards
		says     []string // in the error; none for success
	}{
		{"IPv4", addrs("198.51.100.1"), []string{new4, old6}, nil},
		{"IPv4-mapped", addrs("::ffff:198.51.100.1"), []string{new4, old6}, nil},
		{"IPv6", addrs("2001:db8:1::1"), []string{old4, new6}, nil},
		{"both", addrs("2001:db8:1::1", "198.51.100.1"), []string{new4, new6}, nil},
		{"link-local", addrs("fe80::1"), []string{old4, local}, nil},
		{"link-local with zone", addrs("fe80::1%net1"), []string{old4, local}, nil},
		{"none", nil, []string{old4, old6}, nil},
		{"unreachable IPv4", addrs("203.0.113.1"), []string{old4, old6}, []string{"203.0.113.1", `"net1"`}},
		{"unreachable IPv6", addrs("2001:db8:9::1"), []string{old4, old6}, []string{"2001:db8:9::1", `"net1"`}},
		{"unreachable first", addrs("203.0.113.1", "2001:db8:1::1"), []string{old4, new6}, []string{"203.0.113.1"}},
		{"unreachable last", addrs("198.51.100.1", "2001:db8:9::1"), []string{new4, old6}, []string{"2001:db8:9::1"}},
		{
			"unreachable both", addrs("203.0.113.1", "2001:db8:9::1"),
			[]string{old4, old6},
			[]string{"203.0.113.1", "2001:db8:9::1"},
		},
		{
			"two IPv4", addrs("198.51.100.1", "2001:db8:1::1", "198.51.100.3"),
			[]string{old4, old6},
			[]string{"two IPv4 gateways, 198.51.100.1 and 198.51.100.3"},
		},
		{
			"two IPv4, one mapped", addrs("198.51.100.1", "::ffff:198.51.100.3"),
			[]string{old4, old6},
			[]string{"two IPv4 gateways"},
		},
		{"two IPv6", addrs("2001:db8:1::1", "2001:db8:1::3"), []string{old4, old6}, []string{"two IPv6 gateways"}},
		{
			"no address", append(addrs("198.51.100.1"), netip.Addr{}),
			[]string{old4, old6},
			[]string{"not an address", `"net1"`},
		},
		{
			"zone of another interface", addrs("fe80::1%eth0"),
			[]string{old4, old6},
			[]string{`fe80::1%eth0 is on interface "eth0"`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPod(t)
			p.add(t, before...)
			err := p.ns.SetDefault("net1", tt.gateways)
			if (err != nil) != (tt.says != nil) {
				t.Errorf("error %v", err)
			}
			for _, part := range tt.says {
				if err != nil && !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not contain %q", err, part)
				}
			}
			p.want(t, tt.want...)
		})
	}
}

// TestMoveDefault checks with packets what an attachment with default-route does.
func TestMoveDefault(t *testing.T) {
	p := newPod(t)
	p.add(t, crowd...)
	// Remote addresses that the router answers on both interfaces.
	testnet.Addr(t, p.router, "lo", "203.0.113.1/32", "2001:db8:ffff::1/128")
	for _, f := range families {
		if err := p.ns.DropDefault("eth0", f); err != nil {
			t.Fatal(err)
		}
		if err := p.ns.DropDefault("net1", f); err != nil {
			t.Fatal(err)
		}
	}
	for _, addr := range []string{"203.0.113.1", "2001:db8:ffff::1"} {
		if err := testnet.Ping(p.NS, addr); err == nil {
			t.Errorf("%s answers without a default route", addr)
		}
	}
	if err := p.ns.SetDefault("net1", addrs("198.51.100.1", "2001:db8:1::1")); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"203.0.113.1", "2001:db8:ffff::1"} {
		if err := testnet.Ping(p.NS, addr); err != nil {
			t.Error(err)
		}
	}
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}
