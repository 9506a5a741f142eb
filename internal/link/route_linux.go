package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dropPasses bounds how often DropDefault lists the remaining routes. The second pass finds routes that were learnt
// during the first one. Further passes are for kernels that delete less than was requested.
const dropPasses = 4

// DefaultRoutes lists the default routes of one family in the main table through the interface, or through any
// interface if name is "", with any protocol and metric. Routes without a destination (blackhole, unreachable) are not
// included. If the interface does not exist, the error wraps ErrNoInterface.
func (n *Namespace) DefaultRoutes(name string, f Family) ([]Route, error) {
	var index int
	if name != "" {
		link, err := n.find(name)
		if err != nil {
			return nil, fmt.Errorf("list %s default routes: %w", f, err)
		}
		index = link.Attrs().Index
	}
	hops, err := n.hops(f)
	if err != nil {
		return nil, err
	}
	interfaces, err := n.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list %s default routes: %w", f, err)
	}
	names := make(map[int]string, len(interfaces))
	for _, i := range interfaces {
		names[i.Index] = i.Name
	}
	var routes []Route
	for _, hop := range hops {
		if dev, there := names[hop.index]; there && (name == "" || hop.index == index) {
			routes = append(routes, hop.route(dev))
		}
	}
	return routes, nil
}

// DropDefault deletes all default routes of one family through one interface, with any protocol and metric. Of a
// multipath route it deletes only the nexthops on that interface. For IPv6 it first stops the kernel from learning
// default routes from router advertisements on that interface, because they would come back within minutes
// (multus-cni#749). It returns nil if the interface has no default route.
//
// If the interface does not exist, the error wraps ErrNoInterface (behaviour D36). If a route cannot be deleted, the
// others are still tried, and the error names each route that is left.
func (n *Namespace) DropDefault(name string, f Family) error {
	link, err := n.find(name)
	if err != nil {
		return fmt.Errorf("drop %s default routes: %w", f, err)
	}
	name = link.Attrs().Name // it may have been found by an alternative name
	var learning error
	if f == IPv6 {
		learning = n.stopLearning(name)
	}
	var failed []error
	for pass := 0; ; pass++ {
		hops, err := n.hops(f)
		if err != nil {
			return errors.Join(learning, err)
		}
		hops = slices.DeleteFunc(hops, func(h hop) bool { return h.index != link.Attrs().Index })
		if len(hops) == 0 {
			return learning
		}
		if pass == dropPasses {
			return errors.Join(learning, errors.Join(failed...))
		}
		failed = failed[:0]
		for _, h := range hops {
			err := n.deleteHop(h)
			if err == nil {
				err = errors.New("it comes back")
			}
			failed = append(failed, fmt.Errorf("delete %s route %q: %w", f, h.route(name), err))
		}
	}
}

// SetDefault sets each gateway as the default gateway of its family on the interface. It replaces the default route of
// the same metric on any interface. IPv4-mapped gateways count as IPv4. There may be at most one gateway per family,
// because multipath default routes are not supported (behaviour D30). A second gateway of a family, an invalid
// address and an interface that does not exist are errors before anything is changed.
//
// If a gateway cannot be reached, the error names it and the interface. The other gateway is still set, and all errors
// are returned (behaviour D37).
func (n *Namespace) SetDefault(name string, gateways []netip.Addr) error {
	link, err := n.find(name)
	if err != nil {
		return fmt.Errorf("set default routes: %w", err)
	}
	byFamily, err := perFamily(gateways, name)
	if err != nil {
		return fmt.Errorf("set default routes on interface %q: %w", name, err)
	}
	handle, err := n.netlink()
	if err != nil {
		return err
	}
	var failed []error
	for _, f := range []Family{IPv4, IPv6} {
		gateway, asked := byFamily[f]
		if !asked {
			continue
		}
		err := handle.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index,
			Dst:       everywhere(f),
			Gw:        gateway.AsSlice(),
		})
		if err != nil {
			err = fmt.Errorf("set default route via %s on interface %q: %w", gateway, name, err)
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// perFamily returns the gateways by family, and an error for two of one family.
func perFamily(gateways []netip.Addr, name string) (map[Family]netip.Addr, error) {
	byFamily := make(map[Family]netip.Addr, 2)
	for _, gateway := range gateways {
		if !gateway.IsValid() {
			return nil, errors.New("a gateway is not an address")
		}
		if zone := gateway.Zone(); zone != "" && zone != name {
			return nil, fmt.Errorf("gateway %s is on interface %q", gateway, zone)
		}
		gateway = gateway.WithZone("").Unmap()
		f := IPv6
		if gateway.Is4() {
			f = IPv4
		}
		if first, two := byFamily[f]; two {
			return nil, fmt.Errorf("two %s gateways, %s and %s", f, first, gateway)
		}
		byFamily[f] = gateway
	}
	return byFamily, nil
}

// hop is one nexthop of a default route. A plain route has one.
type hop struct {
	whole netlink.Route // the route to which it belongs
	index int
	gw    net.IP
	via   netlink.Destination // the gateway, if its family differs from that of the route
}

// route returns the hop for display. dev is the name of its interface.
func (h hop) route(dev string) Route {
	r := Route{Metric: h.whole.Priority, Protocol: int(h.whole.Protocol), Interface: dev}
	gw := h.gw
	if via, ok := h.via.(*netlink.Via); ok && gw == nil {
		gw = via.Addr
	}
	r.Gateway, _ = netip.AddrFromSlice(gw) // no gateway, no address
	return r
}

// hops lists the nexthops of all default routes of the main table.
func (n *Namespace) hops(f Family) ([]hop, error) {
	handle, err := n.netlink()
	if err != nil {
		return nil, err
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return handle.RouteListFiltered(int(f), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list %s routes: %w", f, err)
	}
	var hops []hop
	for _, r := range routes {
		if !isDefault(r) {
			continue
		}
		if len(r.MultiPath) == 0 {
			hops = append(hops, hop{whole: r, index: r.LinkIndex, gw: r.Gw, via: r.Via})
		}
		for _, nexthop := range r.MultiPath {
			hops = append(hops, hop{whole: r, index: nexthop.LinkIndex, gw: nexthop.Gw, via: nexthop.Via})
		}
	}
	return hops, nil
}

// isDefault reports whether a route is a default route. netlink reports a default route without a destination or, since
// version 1.2, with a destination of zero bits. A check of only one form made the deletion ineffective for several
// releases (behaviour D34).
func isDefault(r netlink.Route) bool {
	if r.Type != unix.RTN_UNICAST {
		return false
	}
	if r.Dst == nil {
		return true
	}
	bits, _ := r.Dst.Mask.Size()
	return bits == 0
}

// everywhere returns the destination of a default route.
func everywhere(f Family) *net.IPNet {
	if f == IPv4 {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// deleteHop deletes one nexthop.
func (n *Namespace) deleteHop(h hop) error {
	handle, err := n.netlink()
	if err != nil {
		return err
	}
	if h.whole.Family == unix.AF_INET && len(h.whole.MultiPath) > 0 {
		return shrink(handle, h)
	}
	// Only the identifying attributes: the kernel compares each attribute of the request.
	return handle.RouteDel(&netlink.Route{
		LinkIndex: h.index,
		Dst:       everywhere(Family(h.whole.Family)),
		Gw:        h.gw,
		Via:       h.via,
		Priority:  h.whole.Priority,
		Protocol:  h.whole.Protocol,
		Tos:       h.whole.Tos,
		Table:     unix.RT_TABLE_MAIN,
		Scope:     netlink.SCOPE_NOWHERE, // any
	})
}

// shrink removes all nexthops on the interface of h from an IPv4 multipath route, which the kernel can only delete as a
// whole. It first adds the remaining nexthops, so that there is always a route. A second nexthop on the same interface
// is then already gone, and the next pass of DropDefault has nothing to do.
func shrink(handle *netlink.Handle, h hop) error {
	smaller := h.whole
	smaller.Flags &= unix.RTNH_F_ONLINK // the other flags are state, which the kernel does not accept
	smaller.MultiPath = nil
	for _, nexthop := range h.whole.MultiPath {
		if nexthop.LinkIndex == h.index {
			continue
		}
		kept := *nexthop
		kept.Flags &= unix.RTNH_F_ONLINK
		smaller.MultiPath = append(smaller.MultiPath, &kept)
	}
	if len(smaller.MultiPath) > 0 {
		if err := handle.RouteAppend(&smaller); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("keep its other nexthops: %w", err)
		}
	}
	return handle.RouteDel(&h.whole)
}

// stopLearning makes the kernel ignore the default route in router advertisements, and nothing else in them. A kernel
// without IPv6 or without this setting learns none.
func (n *Namespace) stopLearning(name string) error {
	sysctl := filepath.Join("/proc/sys/net/ipv6/conf", name, "accept_ra_defrtr")
	err := n.Do(func() error {
		old, err := os.ReadFile(sysctl)
		if err != nil || strings.TrimSpace(string(old)) == "0" {
			return err // /proc/sys may be read-only, which does not matter if the setting is off
		}
		return os.WriteFile(sysctl, []byte("0"), 0)
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stop learning IPv6 default routes on %q: %w", name, err)
	}
	return nil
}
