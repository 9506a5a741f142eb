package link

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// States lists the interfaces of the namespace, in the order of their index.
func (n *Namespace) States() ([]State, error) {
	links, addrs, err := n.dumpAll()
	if err != nil {
		return nil, err
	}
	byIndex := map[int][]Address{}
	for i := range addrs {
		a := &addrs[i]
		if prefix, ok := toPrefix(a.IPNet); ok && a.Flags&unix.IFA_F_DADFAILED == 0 {
			byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], Address{prefix, lasts(a, prefix.Addr())})
		}
	}
	states := make([]State, 0, len(links))
	for _, l := range links {
		attrs := l.Attrs()
		states = append(states, State{toInterface(l, nil), attrs.AltNames, byIndex[attrs.Index]})
	}
	return states, nil
}

func lasts(a *netlink.Addr, ip netip.Addr) bool {
	unwanted := unix.IFA_F_TENTATIVE
	if ip.Is6() {
		unwanted |= unix.IFA_F_TEMPORARY // the same bit marks an ordinary second address of IPv4
	}
	return a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&unix.IFA_F_PERMANENT != 0 && a.Flags&unwanted == 0
}
