package main

import (
	"context"
	"fmt"
	"hash/fnv"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// shape is the form of the result of an attachment.
type shape int

const (
	podOnly shape = iota
	hostFirst
	hostOnly
	withDummy
	withUDN
)

// udn is the second interface that OVN-Kubernetes creates.
const udn = "ovn-udn1"

// hostEnd returns the name of the host's end of an interface.
func hostEnd(args *skel.CmdArgs, name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(args.ContainerID + "/" + name)) // it never fails
	return fmt.Sprintf("sv%08x", h.Sum32())
}

func addPair(s shape) func(*skel.CmdArgs, *netConf) error {
	return func(args *skel.CmdArgs, c *netConf) error {
		res := &current.Result{CNIVersion: current.ImplementedSpecVersion}
		if c.IPAM.Type != "" {
			got, err := invoke.DelegateAdd(context.Background(), c.IPAM.Type, args.StdinData, nil)
			if err != nil {
				return err
			}
			if res, err = current.NewResultFromResult(got); err != nil {
				return err
			}
		}
		mac, err := makePair(args, args.IfName, res.IPs)
		if err != nil {
			return err
		}
		host := &current.Interface{Name: hostEnd(args, args.IfName), Mac: "ee:ee:ee:ee:ee:ee"}
		pod := &current.Interface{Name: args.IfName, Mac: mac, Sandbox: args.Netns}
		at := 0
		switch s {
		case podOnly:
			res.Interfaces = []*current.Interface{pod}
		case hostFirst:
			res.Interfaces, at = []*current.Interface{host, pod}, 1
		case hostOnly:
			res.Interfaces, at = []*current.Interface{host}, -1
		case withDummy:
			dummy := &current.Interface{Name: "dummy" + hostEnd(args, "")[2:], Mac: "0", Sandbox: "0"}
			res.Interfaces, at = []*current.Interface{host, pod, dummy}, 1
		case withUDN:
			mac, err := makePair(args, udn, nil)
			if err != nil {
				return err
			}
			res.Interfaces, at = []*current.Interface{host, pod, {Name: udn, Mac: mac, Sandbox: args.Netns}}, 1
		}
		for _, ip := range res.IPs {
			if ip.Interface = nil; at >= 0 {
				ip.Interface = new(at)
			}
		}
		return types.PrintResult(res, c.CNIVersion)
	}
}

// makePair creates an interface of the pod with these addresses and returns its MAC address.
func makePair(args *skel.CmdArgs, name string, ips []*current.IPConfig) (mac string, err error) {
	target, err := netns.GetFromPath(args.Netns)
	if err != nil {
		return "", fmt.Errorf("open netns %q: %w", args.Netns, err)
	}
	defer target.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = hostEnd(args, name)
	if err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: name,
		PeerNamespace: netlink.NsFd(int(target)),
	}); err != nil {
		return "", fmt.Errorf("create %s: %w", name, err)
	}
	h, err := netlink.NewHandleAt(target)
	if err != nil {
		return "", err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	for _, ip := range ips {
		if err := h.AddrAdd(link, &netlink.Addr{IPNet: &ip.Address}); err != nil {
			return "", fmt.Errorf("add address %s: %w", &ip.Address, err)
		}
	}
	return link.Attrs().HardwareAddr.String(), h.LinkSetUp(link)
}

// delPair removes what addPair created. It ignores interfaces that do not exist.
func delPair(args *skel.CmdArgs, c *netConf) error {
	for _, name := range []string{args.IfName, udn} {
		link, err := netlink.LinkByName(hostEnd(args, name))
		if err != nil {
			continue
		}
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("delete %s: %w", name, err)
		}
	}
	if c.IPAM.Type == "" {
		return nil
	}
	return invoke.DelegateDel(context.Background(), c.IPAM.Type, args.StdinData, nil)
}

func passGC(args *skel.CmdArgs, c *netConf) error {
	return invoke.DelegateGC(context.Background(), c.IPAM.Type, args.StdinData, nil)
}

func addBond(args *skel.CmdArgs, c *netConf) error {
	if err := findSlaves(args, c); err != nil {
		return err
	}
	return addPair(podOnly)(args, c)
}

// delBond releases the address first. It succeeds without a namespace. It fails if a namespace is passed and the
// namespace, or a slave in it, does not exist.
func delBond(args *skel.CmdArgs, c *netConf) error {
	if c.IPAM.Type != "" {
		if err := invoke.DelegateDel(context.Background(), c.IPAM.Type, args.StdinData, nil); err != nil {
			return err
		}
		c.IPAM.Type = ""
	}
	if args.Netns == "" {
		return nil
	}
	if err := findSlaves(args, c); err != nil {
		return err
	}
	return delPair(args, c)
}

// findSlaves returns an error unless all slaves of a bond are in the pod.
func findSlaves(args *skel.CmdArgs, c *netConf) error {
	target, err := netns.GetFromPath(args.Netns)
	if err != nil {
		return fmt.Errorf("Failed to retrieve netNs from path (%s), error: %w", args.Netns, err) //nolint:staticcheck // as bond says it
	}
	defer target.Close()
	h, err := netlink.NewHandleAt(target)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, l := range c.Links {
		if _, err := h.LinkByName(l.Name); err != nil {
			return fmt.Errorf("failed to find slave %s: %w", l.Name, err)
		}
	}
	return nil
}

// inPod runs fn with the pod's interface.
func inPod(args *skel.CmdArgs, fn func(*netlink.Handle, netlink.Link) error) error {
	target, err := netns.GetFromPath(args.Netns)
	if err != nil {
		return fmt.Errorf("open netns %q: %w", args.Netns, err)
	}
	defer target.Close()
	h, err := netlink.NewHandleAt(target)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(args.IfName)
	if err != nil {
		return err
	}
	return fn(h, link)
}

// flushDefault removes the routes of the interface that have a gateway.
func flushDefault(args *skel.CmdArgs) error {
	return inPod(args, func(h *netlink.Handle, link netlink.Link) error {
		routes, err := h.RouteList(link, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for i := range routes {
			if routes[i].Gw == nil {
				continue
			}
			if err := h.RouteDel(&routes[i]); err != nil {
				return fmt.Errorf("delete route: %w", err)
			}
		}
		return nil
	})
}

func addRoutes(args *skel.CmdArgs, routes []*types.Route) error {
	return inPod(args, func(h *netlink.Handle, link netlink.Link) error {
		for _, r := range routes {
			route := netlink.Route{LinkIndex: link.Attrs().Index, Dst: &r.Dst, Gw: r.GW}
			if r.GW == nil {
				route.Scope = netlink.SCOPE_LINK
			}
			if err := h.RouteAdd(&route); err != nil {
				return fmt.Errorf("add route to %s: %w", &r.Dst, err)
			}
		}
		return nil
	})
}
