package lint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ipam checks the "ipam" object of a plugin.
func (n *network) ipam(p *tree) {
	ipam := p.get("ipam")
	if ipam == nil || ipam.kind() != isObject || len(ipam.members) == 0 {
		return
	}
	typ := ipam.get("type").text()
	if typ == "" {
		n.add(n.config.at(ipam.offset), Error, "ipam", `add "type": "host-local", "static" or "dhcp"`, "ipam has no type")
		return
	}
	n.routes(ipam)
	known, ok := ipams[typ]
	if !ok {
		return
	}
	n.keys(ipam, "ipam "+typ, known)
	switch typ {
	case "host-local":
		n.hostLocal(ipam)
	case "static":
		n.static(ipam)
	}
}

func (n *network) routes(ipam *tree) {
	for _, r := range ipam.get("routes").list() {
		dst, gw := r.get("dst"), r.get("gw")
		if dst == nil {
			n.add(n.config.at(r.offset), Error, "ipam", `add "dst"`, "a route has no dst")
		} else if _, err := netip.ParsePrefix(dst.text()); err != nil {
			n.add(n.config.at(dst.offset), Error, "ipam", `write a prefix, such as "198.51.100.0/24"`,
				"route dst %q is not a prefix", dst.text())
		}
		if gw.text() != "" {
			if _, err := netip.ParseAddr(gw.text()); err != nil {
				n.add(n.config.at(gw.offset), Error, "ipam", "write an IP address", "route gw %q is not an address", gw.text())
			}
		}
	}
}

func (n *network) static(ipam *tree) {
	for _, a := range ipam.get("addresses").list() {
		address, gw := a.get("address"), a.get("gateway")
		if address == nil {
			n.add(n.config.at(a.offset), Error, "ipam", `add "address"`, "an entry of addresses has no address")
			continue
		}
		prefix, err := netip.ParsePrefix(address.text())
		if err != nil {
			n.add(n.config.at(address.offset), Error, "ipam", `write address and prefix length, such as "192.0.2.7/24"`,
				"address %q is not an address with a prefix length", address.text())
			continue
		}
		if g, err := netip.ParseAddr(gw.text()); gw.text() != "" && (err != nil || !prefix.Contains(g)) {
			n.add(n.config.at(gw.offset), Error, "ipam", "write an address of "+prefix.Masked().String(),
				"gateway %q is not in the subnet of address %s", gw.text(), prefix)
		}
	}
}

// span is a range of addresses of host-local.
type span struct {
	first, last netip.Addr
	subnet      netip.Prefix
	at          mark
}

func (s span) contains(a netip.Addr) bool {
	return a.BitLen() == s.first.BitLen() && a.Compare(s.first) >= 0 && a.Compare(s.last) <= 0
}

func (s span) overlaps(o span) bool {
	return s.first.BitLen() == o.first.BitLen() && s.first.Compare(o.last) <= 0 && o.first.Compare(s.last) <= 0
}

func (s span) String() string { return fmt.Sprintf("%s-%s", s.first, s.last) }

func (n *network) hostLocal(ipam *tree) {
	if ipam.get("ranges") == nil && ipam.get("subnet") == nil {
		n.add(n.config.at(ipam.offset), Error, "ipam", `add "ranges": [[{"subnet": "192.0.2.0/24"}]]`,
			"host-local has no ranges")
	}
	for _, set := range ipam.get("ranges").list() {
		if set.kind() != isList {
			n.add(n.config.at(set.offset), Error, "ipam", "put it into one more pair of brackets: ranges is a list of lists",
				"ranges must be a list of lists, not of %s", set.kind())
		}
	}
	var all []span
	for _, r := range ranges(ipam) {
		s, ok := n.checkRange(r)
		if !ok {
			continue
		}
		if i := slices.IndexFunc(all, s.overlaps); i >= 0 {
			n.add(s.at, Error, "ipam-range", "make the ranges disjoint", "range %s overlaps range %s of the same network", s,
				all[i])
		}
		all = append(all, s)
	}
}

// ranges returns the objects that describe ranges, in both forms.
func ranges(ipam *tree) []*tree {
	var out []*tree
	if ipam.get("subnet") != nil {
		out = append(out, ipam)
	}
	for _, set := range ipam.get("ranges").list() {
		out = append(out, set.list()...)
	}
	return out
}

// checkRange checks one range and returns it.
func (n *network) checkRange(r *tree) (span, bool) {
	n.rangeKeys(r)
	subnet := r.get("subnet")
	if subnet == nil {
		n.add(n.config.at(r.offset), Error, "ipam-range", `add "subnet"`, "a range has no subnet")
		return span{}, false
	}
	prefix, err := netip.ParsePrefix(subnet.text())
	if err != nil {
		n.add(n.config.at(subnet.offset), Error, "ipam-range", `write a prefix, such as "192.0.2.0/24"`,
			"subnet %q is not a prefix", subnet.text())
		return span{}, false
	}
	if prefix.Masked() != prefix {
		n.add(n.config.at(subnet.offset), Error, "ipam-range", "write "+prefix.Masked().String(),
			"subnet %s has host bits set", prefix)
		return span{}, false
	}
	if prefix.Bits() > prefix.Addr().BitLen()-2 {
		n.add(n.config.at(subnet.offset), Error, "ipam-range", "use a larger subnet", "subnet %s has no usable address",
			prefix)
		return span{}, false
	}
	s := span{first: prefix.Addr().Next(), last: lastOf(prefix), subnet: prefix, at: n.config.at(subnet.offset)}
	var gateway netip.Addr
	for _, limit := range []struct {
		key string
		to  *netip.Addr
	}{{"rangeStart", &s.first}, {"rangeEnd", &s.last}, {"gateway", &gateway}} {
		v := r.get(limit.key)
		if v.text() == "" {
			continue
		}
		a, err := netip.ParseAddr(v.text())
		if err != nil || !prefix.Contains(a) {
			n.add(n.config.at(v.offset), Error, "ipam-range", "write an address of "+prefix.String(),
				"%s %q is not in subnet %s", limit.key, v.text(), prefix)
			return span{}, false
		}
		*limit.to = a
	}
	if s.first.Compare(s.last) > 0 {
		n.add(n.config.at(r.get("rangeStart").offsetOr(subnet.offset)), Error, "ipam-range", "swap rangeStart and rangeEnd",
			"rangeStart %s is after rangeEnd %s", s.first, s.last)
		return span{}, false
	}
	return s, true
}

func (n *network) rangeKeys(r *tree) {
	if r.get("type") == nil { // the older form is checked as part of ipam
		n.keys(r, "a range of host-local",
			keys{"subnet": isText, "rangeStart": isText, "rangeEnd": isText, "gateway": isText})
	}
}

func (t *tree) offsetOr(other int) int {
	if t == nil {
		return other
	}
	return t.offset
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

// spans returns the valid host-local ranges of all plugins of a network. It reports nothing.
func (n *network) spans() []span {
	var out []span
	for _, p := range n.plugins() {
		ipam := p.get("ipam")
		if ipam.get("type").text() != "host-local" {
			continue
		}
		silent := &network{object: object{linter: &linter{}}, config: n.config}
		for _, r := range ranges(ipam) {
			if s, ok := silent.checkRange(r); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// plugins returns the plugins of the chain. It returns none if the configuration is invalid.
func (n *network) plugins() []*tree {
	switch {
	case n.list == nil:
		return nil
	case n.list.Single():
		return []*tree{n.tree}
	}
	return n.tree.get("plugins").list()
}

// types returns the type of each plugin, and of its IPAM plugin.
func (n *network) types() []*tree {
	var out []*tree
	for _, p := range n.plugins() {
		for _, t := range []*tree{p.get("type"), p.get("ipam").get("type")} {
			if t != nil {
				out = append(out, t)
			}
		}
	}
	return out
}

// wire identifies what the network is connected to, so that two networks on the same wire can be compared. It returns
// "" if that is unknown, or if nothing is shared.
func (n *network) wire() string {
	for _, p := range n.plugins() {
		switch typ := p.get("type").text(); typ {
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

// compareNetworks reports overlapping ranges of two networks on one wire, from which an address could be assigned
// twice. host-local stores its reservations by network name, so that networks of the same name share them.
func (l *linter) compareNetworks() {
	for i, n := range l.order {
		for _, m := range l.order[:i] {
			if n.list == nil || m.list == nil || n.ref == m.ref || n.wire() == "" || n.wire() != m.wire() ||
				n.networkName() == m.networkName() {
				continue
			}
			for _, s := range n.spans() {
				for _, o := range m.spans() {
					if s.overlaps(o) {
						n.add(s.at, Error, "overlap", "make the ranges disjoint",
							"range %s overlaps range %s of network %s on %s: the same address can be given to two pods", s, o, m.ref,
							n.wire())
					}
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
