package lint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ipam returns the "ipam" object of a plugin. It returns nil for an empty one, which requests no IPAM.
func (p plugin) ipam() *tree {
	if t := p.get("ipam"); t != nil && len(t.members) > 0 {
		return t
	}
	return nil
}

// checkIPAM checks the "ipam" object of a plugin, except ranges.
func checkIPAM(r *reporter, p plugin) {
	ipam := p.ipam()
	if ipam == nil {
		return
	}
	typ := ipam.get("type").text()
	if typ == "" {
		p.add(r, ipam, `add "type": "host-local", "static" or "dhcp"`, "ipam has no type")
		return
	}
	checkRoutes(r, p)
	switch typ {
	case "host-local":
		checkHostLocal(r, p)
	case "static":
		checkStatic(r, p)
	}
}

func checkRoutes(r *reporter, p plugin) {
	for _, route := range p.ipam().get("routes").list() {
		dst, gw := route.get("dst"), route.get("gw")
		if dst == nil {
			p.add(r, route, `add "dst"`, "a route has no dst")
		} else if _, err := netip.ParsePrefix(dst.text()); err != nil {
			p.add(r, dst, `write a prefix, such as "198.51.100.0/24"`, "route dst %q is not a prefix", dst.text())
		}
		if gw.text() != "" {
			if _, err := netip.ParseAddr(gw.text()); err != nil {
				p.add(r, gw, "write an IP address", "route gw %q is not an address", gw.text())
			}
		}
	}
}

func checkHostLocal(r *reporter, p plugin) {
	sets := p.ipam().get("ranges")
	if sets == nil && p.ipam().get("subnet") == nil {
		p.add(r, p.ipam(), `add "ranges": [[{"subnet": "192.0.2.0/24"}]]`, "host-local has no ranges")
	}
	for _, set := range sets.list() {
		if set.kind() != isList {
			p.add(r, set, "put it into one more pair of brackets: ranges is a list of lists",
				"ranges must be a list of lists, not of %s", set.kind())
		}
	}
}

func checkStatic(r *reporter, p plugin) {
	for _, a := range p.ipam().get("addresses").list() {
		address, gw := a.get("address"), a.get("gateway")
		if address == nil {
			p.add(r, a, `add "address"`, "an entry of addresses has no address")
			continue
		}
		prefix, err := netip.ParsePrefix(address.text())
		if err != nil {
			p.add(r, address, `write address and prefix length, such as "192.0.2.7/24"`,
				"address %q is not an address with a prefix length", address.text())
			continue
		}
		if g, err := netip.ParseAddr(gw.text()); gw.text() != "" && (err != nil || !prefix.Contains(g)) {
			// A warning, because the plugin accepts it, as in the example of its documentation, and needs it for a route only.
			r.warn(p.object, p.place(gw), "write an address of "+prefix.Masked().String(),
				"gateway %q is not in the subnet of address %s", gw.text(), prefix)
		}
	}
}

// span is a range of addresses of host-local.
type span struct {
	first, last netip.Addr
	at          mark
}

func (s span) contains(a netip.Addr) bool {
	return a.BitLen() == s.first.BitLen() && a.Compare(s.first) >= 0 && a.Compare(s.last) <= 0
}

func (s span) overlaps(o span) bool {
	return s.first.BitLen() == o.first.BitLen() && s.first.Compare(o.last) <= 0 && o.first.Compare(s.last) <= 0
}

func (s span) String() string { return fmt.Sprintf("%s-%s", s.first, s.last) }

// ranges returns the objects that describe ranges of host-local, in both forms.
func (p plugin) ranges() []*tree {
	ipam := p.ipam()
	if ipam.get("type").text() != "host-local" {
		return nil
	}
	var out []*tree
	if ipam.get("subnet") != nil {
		out = append(out, ipam)
	}
	for _, set := range ipam.get("ranges").list() {
		out = append(out, set.list()...)
	}
	return out
}

// checkRanges checks the ranges of a plugin, each by itself and against the others.
func checkRanges(r *reporter, p plugin) {
	var all []span
	for _, t := range p.ranges() {
		s, bad := p.parseRange(t)
		if bad != nil {
			r.add(p.object, bad.at, bad.fix, "%s", bad.message)
			continue
		}
		if i := slices.IndexFunc(all, s.overlaps); i >= 0 {
			r.add(p.object, s.at, "make the ranges disjoint", "range %s overlaps range %s of the same network", s, all[i])
		}
		all = append(all, s)
	}
}

// badRange is the reason why a range is invalid.
type badRange struct {
	at           mark
	fix, message string
}

// parseRange parses a range of host-local.
func (n *network) parseRange(t *tree) (span, *badRange) {
	bad := func(at *tree, fix, format string, args ...any) (span, *badRange) {
		return span{}, &badRange{n.place(at), fix, fmt.Sprintf(format, args...)}
	}
	subnet := t.get("subnet")
	if subnet == nil {
		return bad(t, `add "subnet"`, "a range has no subnet")
	}
	prefix, err := netip.ParsePrefix(subnet.text())
	switch {
	case err != nil:
		return bad(subnet, `write a prefix, such as "192.0.2.0/24"`, "subnet %q is not a prefix", subnet.text())
	case prefix.Masked() != prefix:
		return bad(subnet, "write "+prefix.Masked().String(), "subnet %s has host bits set", prefix)
	case prefix.Bits() > prefix.Addr().BitLen()-2:
		return bad(subnet, "use a larger subnet", "subnet %s has no usable address", prefix)
	}
	s := span{first: prefix.Addr().Next(), last: lastOf(prefix), at: n.place(subnet)}
	var gateway netip.Addr
	for _, limit := range []struct {
		key string
		to  *netip.Addr
	}{{"rangeStart", &s.first}, {"rangeEnd", &s.last}, {"gateway", &gateway}} {
		v := t.get(limit.key)
		if v.text() == "" {
			continue
		}
		a, err := netip.ParseAddr(v.text())
		if err != nil || !prefix.Contains(a) {
			return bad(v, "write an address of "+prefix.String(), "%s %q is not in subnet %s", limit.key, v.text(), prefix)
		}
		*limit.to = a
	}
	if s.first.Compare(s.last) > 0 {
		at := subnet
		if start := t.get("rangeStart"); start != nil {
			at = start
		}
		return bad(at, "swap rangeStart and rangeEnd", "rangeStart %s is after rangeEnd %s", s.first, s.last)
	}
	return s, nil
}

// lastOf returns the last address that host-local assigns. For IPv4 that is the address before the broadcast address.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b)
	if last.Is4() {
		return last.Prev()
	}
	return last
}

// spans returns the valid host-local ranges of all plugins of a network.
func (n *network) spans() []span {
	var out []span
	for _, p := range n.plugins() {
		for _, t := range p.ranges() {
			if s, bad := n.parseRange(t); bad == nil {
				out = append(out, s)
			}
		}
	}
	return out
}

// wire identifies what the network is connected to, so that two networks on the same wire can be compared. It returns
// "" if that is unknown, or if nothing is shared.
func (n *network) wire() string {
	for _, p := range n.plugins() {
		switch p.typ {
		case "macvlan", "ipvlan":
			if m := p.get("master").text(); m != "" {
				return "interface " + m
			}
		case "vlan":
			id, _ := p.get("vlanId").integer()
			return fmt.Sprintf("VLAN %d of interface %s", id, p.get("master").text())
		case "bridge":
			id, _ := p.get("vlan").integer()
			name := p.get("bridge").text()
			if name == "" {
				name = "cni0"
			}
			return strings.TrimSuffix(fmt.Sprintf("bridge %s, VLAN %d", name, id), ", VLAN 0")
		}
	}
	return ""
}

// checkOverlap reports ranges that overlap those of an earlier network on the same wire, so that an address could be
// assigned twice. host-local stores its reservations by network name, so that networks of the same name share them.
func checkOverlap(r *reporter, n *network) {
	for _, m := range r.defined[:slices.Index(r.defined, n)] {
		if m.list == nil || n.ref == m.ref || n.wire() == "" || n.wire() != m.wire() || n.networkName() == m.networkName() {
			continue
		}
		for _, s := range n.spans() {
			for _, o := range m.spans() {
				if s.overlaps(o) {
					r.add(n.object, s.at, "make the ranges disjoint",
						"range %s overlaps range %s of network %s on %s: the same address can be given to two pods", s, o, m.ref,
						n.wire())
				}
			}
		}
	}
}

func (n *network) networkName() string {
	if name := n.list.Name(); name != "" {
		return name
	}
	return n.ref.Name
}
