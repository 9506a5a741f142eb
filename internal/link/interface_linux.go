package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// dumpTries bounds the number of repetitions of a dump that the kernel interrupted because the listed objects changed.
// Only a namespace under constant change on a busy node needs more than two. A repetition takes a fraction of a
// millisecond.
const dumpTries = 100

// HasInterface reports whether name is in use in the namespace, as the name or an alternative name of an interface.
func (n *Namespace) HasInterface(name string) (bool, error) {
	_, err := n.find(name)
	if errors.Is(err, ErrNoInterface) {
		return false, nil
	}
	return err == nil, err
}

// Interfaces lists the interfaces of the namespace, lo included, in the order of their index.
func (n *Namespace) Interfaces() ([]Interface, error) {
	links, addrs, err := n.dumpLinks()
	if err != nil {
		return nil, err
	}
	interfaces := make([]Interface, 0, len(links))
	for _, link := range links {
		interfaces = append(interfaces, toInterface(link, addrs))
	}
	return interfaces, nil
}

// dumpLinks returns the links of the namespace, and their addresses by index.
func (n *Namespace) dumpLinks() ([]netlink.Link, map[int][]netip.Prefix, error) {
	links, addrs, err := n.dumpAll()
	if err != nil {
		return nil, nil, err
	}
	byIndex := make(map[int][]netip.Prefix)
	for _, addr := range addrs {
		if prefix, ok := toPrefix(addr.IPNet); ok {
			byIndex[addr.LinkIndex] = append(byIndex[addr.LinkIndex], prefix)
		}
	}
	return links, byIndex, nil
}

// dumpAll returns the links and the addresses of the namespace.
func (n *Namespace) dumpAll() ([]netlink.Link, []netlink.Addr, error) {
	handle, err := n.netlink()
	if err != nil {
		return nil, nil, err
	}
	links, err := dump(handle.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	return links, addrs, nil
}

func toInterface(link netlink.Link, addrs map[int][]netip.Prefix) Interface {
	attrs := link.Attrs()
	return Interface{
		Index: attrs.Index,
		Name:  attrs.Name,
		MAC:   attrs.HardwareAddr.String(),
		MTU:   attrs.MTU,
		Type:  link.Type(),
		Up:    attrs.Flags&net.FlagUp != 0,
		Addrs: addrs[attrs.Index],
	}
}

// find returns the interface with a name. Index zero stands for all interfaces in netlink, so a name that does not
// exist must never be used as an index (behaviour D36).
func (n *Namespace) find(name string) (netlink.Link, error) {
	handle, err := n.netlink()
	if err != nil {
		return nil, err
	}
	// On kernels that cannot look up names, this is a dump.
	link, err := dump(func() (netlink.Link, error) { return handle.LinkByName(name) })
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return nil, fmt.Errorf("find interface %q in %q: %w", name, n.path, ErrNoInterface)
	}
	if err != nil {
		return nil, fmt.Errorf("find interface %q in %q: %w", name, n.path, err)
	}
	return link, nil
}

// dump repeats a request whose result changed while it was read, because such a result is incomplete.
func dump[T any](request func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		answer, err := request()
		if err == nil || try == dumpTries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return answer, err
		}
	}
}

// toPrefix keeps the host part: 10.0.0.7/24, not 10.0.0.0/24.
func toPrefix(ipnet *net.IPNet) (netip.Prefix, bool) {
	if ipnet == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(ipnet.IP)
	bits, _ := ipnet.Mask.Size()
	return netip.PrefixFrom(addr, bits), ok
}
