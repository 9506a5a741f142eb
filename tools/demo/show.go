package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attached is one interface of the pod. The network is the reported one, the rest is read from the kernel.
type attached struct {
	name      string
	network   string
	mac       string
	addresses []netip.Prefix
	gateways  []gateway
}

// gateway is a route of the interface with a gateway.
type gateway struct {
	addr netip.Addr
	to   string // "" for the default route
}

// interfaces returns the interfaces in the pod.
func (d *demo) interfaces(reported []status) ([]attached, error) {
	all, err := links(d.sandbox.Handle)
	if err != nil {
		return nil, err
	}
	var out []attached
	for name, link := range all {
		if _, before := d.before.pod[name]; before {
			continue
		}
		a := attached{name: name, mac: link.Attrs().HardwareAddr.String()}
		if i := slices.IndexFunc(reported, func(s status) bool { return s.Interface == name }); i >= 0 {
			a.network = reported[i].Name
		}
		if a.addresses, err = addresses(d.sandbox.Handle, link); err != nil {
			return nil, err
		}
		if a.gateways, err = gateways(d.sandbox.Handle, link); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b attached) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}

// addresses returns the global addresses of an interface, or of all interfaces if link is nil.
func addresses(h *netlink.Handle, link netlink.Link) ([]netip.Prefix, error) {
	list, err := again(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Prefix
	for i := range list {
		addr, ok := netip.AddrFromSlice(list[i].IP)
		if !ok || list[i].Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		bits, _ := list[i].Mask.Size()
		out = append(out, netip.PrefixFrom(addr.Unmap(), bits))
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, nil
}

func gateways(h *netlink.Handle, link netlink.Link) ([]gateway, error) {
	filter := &netlink.Route{LinkIndex: link.Attrs().Index}
	list, err := again(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []gateway
	for i := range list {
		addr, ok := netip.AddrFromSlice(list[i].Gw)
		if !ok {
			continue
		}
		g := gateway{addr: addr.Unmap()}
		if dst := list[i].Dst; dst != nil && !dst.IP.IsUnspecified() {
			g.to = dst.String()
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b gateway) int { return a.addr.Compare(b.addr) })
	return out, nil
}

// expected compares the pod's networks, the network status, the result of ADD and the interfaces in the pod with each
// other.
func (d *demo) expected(have []attached, reported []status) error {
	want, err := d.pod.names()
	if err != nil {
		return err
	}
	if len(have) != len(want) || len(reported) != len(want) {
		return fmt.Errorf("the pod requests %d networks %q, but it has %d interfaces, and its network status has %d elements",
			len(want), want, len(have), len(reported))
	}
	for i, s := range reported {
		if s.Name != want[i] || s.Default != (i == 0) {
			return fmt.Errorf("element %d of the network status is network %q (default: %t), want %q", i, s.Name, s.Default,
				want[i])
		}
		at := slices.IndexFunc(have, func(a attached) bool { return a.name == s.Interface })
		if at < 0 {
			return fmt.Errorf("the network status has an interface %q, which is not in the pod", s.Interface)
		}
		if !strings.EqualFold(have[at].mac, s.MAC) || !same(have[at].addresses, s.IPs) {
			return fmt.Errorf("%s has MAC address %s and addresses %v, but the network status has %s and %v", s.Interface,
				have[at].mac, have[at].addresses, s.MAC, s.IPs)
		}
		if s.Default != hasDefault(have[at].gateways) {
			return fmt.Errorf("%s of network %s has the gateways %v, but its default in the network status is %t", s.Interface,
				s.Name, have[at].gateways, s.Default)
		}
	}
	var result []string
	for _, ip := range d.runtime.result.IPs {
		result = append(result, ip.Address.IP.String())
	}
	if !same(have[0].addresses, result) || have[0].name != clusterInterface {
		return fmt.Errorf("%s has the addresses %v, but the result of ADD has %v for %s", have[0].name, have[0].addresses,
			result, clusterInterface)
	}
	return nil
}

func hasDefault(gws []gateway) bool {
	return slices.ContainsFunc(gws, func(g gateway) bool { return g.to == "" })
}

// same reports whether two sets of addresses are equal and not empty.
func same(have []netip.Prefix, want []string) bool {
	var a, b []string
	for _, p := range have {
		a = append(a, p.Addr().String())
	}
	for _, text := range want {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return false
		}
		b = append(b, addr.String())
	}
	slices.Sort(a)
	slices.Sort(b)
	return len(a) > 0 && slices.Equal(a, b)
}

func printTable(out io.Writer, interfaces []attached) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "INTERFACE\tNETWORK\tMAC\tADDRESS\tGATEWAY")
	for _, a := range interfaces {
		for i, addr := range a.addresses {
			name, network, mac := "", "", ""
			if i == 0 {
				name, network, mac = a.name, a.network, a.mac
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, network, mac, addr, a.gatewayFor(addr))
		}
	}
	w.Flush()
}

// gatewayFor returns the gateways of the address's family.
func (a *attached) gatewayFor(addr netip.Prefix) string {
	var found []string
	for _, g := range a.gateways {
		if g.addr.Is6() == addr.Addr().Is6() {
			found = append(found, g.String())
		}
	}
	if len(found) == 0 {
		return "-"
	}
	return strings.Join(found, ", ")
}

// String returns the address and the destination.
func (g gateway) String() string {
	if g.to == "" {
		return g.addr.String() + " (default)"
	}
	return fmt.Sprintf("%s (%s)", g.addr, g.to)
}

func printStatus(out io.Writer, text string) {
	fmt.Fprintf(out, "\n%s, as multus-daemon wrote it:\n", statusAnnotation)
	for line := range strings.Lines(text) {
		fmt.Fprintf(out, "    %s", line)
	}
	fmt.Fprint(out, "\n\n")
}

// peers returns the addresses that reply: those outside, and those that the plugins assigned to the node.
func (d *demo) peers() ([]netip.Addr, error) {
	outside, err1 := addresses(d.outside.Handle, nil)
	node, err2 := addresses(d.node, nil)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, p := range append(outside, node...) {
		out = append(out, p.Addr())
	}
	return out, nil
}
