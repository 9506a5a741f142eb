package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"multus/internal/testutil/proc"
)

const (
	// maxNodes is how many nodes a cluster may have.
	maxNodes = 5
	// peerPrefix begins the names of the links between nodes.
	peerPrefix = "to-"
)

// nodeName is node-a, node-b and so on.
func nodeName(i int) string { return "node-" + string(rune('a'+i)) }

func nodeAddress(i int) string { return fmt.Sprintf("192.0.2.%d", 10+i) }

// podSubnet is that of the pods of one node among several.
func podSubnet(i int) string { return fmt.Sprintf("10.244.%d.0/24", i) }

// address is the node's.
func (c *Cluster) address() string { return nodeAddress(c.index) }

// primary is the configuration of the cluster network: with several nodes each has a subnet of its own.
func (c *Cluster) primary() string {
	if c.options.Nodes == 1 {
		return Primary
	}
	return strings.Replace(Primary, "10.244.0.0/16", podSubnet(c.index), 1)
}

// join starts a further node, connects it with all others, and returns when it is ready and has the images.
func (c *Cluster) join(ctx context.Context, i int) error {
	n := &Cluster{
		Node: nodeName(i), index: i, first: c, options: c.options, root: c.root, dir: filepath.Join(c.dir, nodeName(i)),
		cgroup: fmt.Sprintf("%s-%d", c.cgroup, i), servers: map[string]*proc.Process{}, Client: c.Client, Dynamic: c.Dynamic,
	}
	before := append([]*Cluster{c}, c.Others...)
	c.Others = append(c.Others, n) // it ends with the first one, whatever happens below
	if err := errors.Join(n.writeFiles(), n.makeCgroups()); err != nil {
		return err
	}
	if err := n.startInit(); err != nil {
		return err
	}
	var err error
	if n.mounts, err = n.mountPoints(); err != nil {
		return err
	}
	for _, other := range before {
		if err := n.connectTo(other); err != nil {
			return fmt.Errorf("connect %s with %s: %w", n.Node, other.Node, err)
		}
	}
	if err := n.startContainerd(ctx); err != nil {
		return err
	}
	if err := n.importOwn(ctx); err != nil {
		return err
	}
	return n.register(ctx)
}

// connectTo makes a link between two nodes, and the routes over it: to the other's address, to its pods, and to the API
// server.
func (c *Cluster) connectTo(other *Cluster) error {
	here, there := peerPrefix+other.Node, peerPrefix+c.Node
	err := c.onNode(func() error {
		// The number is that of this process's PID namespace: entering another one is about children only.
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: here}, PeerName: there,
			PeerNamespace: netlink.NsPid(other.Pid()),
		}
		return netlink.LinkAdd(pair)
	})
	if err != nil {
		return fmt.Errorf("add link: %w", err)
	}
	return errors.Join(c.routeTo(other), other.routeTo(c))
}

// routeTo makes the routes to another node.
func (c *Cluster) routeTo(other *Cluster) error {
	return c.onNode(func() error {
		link, err := netlink.LinkByName(peerPrefix + other.Node)
		if err != nil {
			return fmt.Errorf("find link: %w", err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set link up: %w", err)
		}
		via, own := net.ParseIP(other.address()), net.ParseIP(c.address())
		routes := map[string]*netlink.Route{
			other.address() + "/32": {Scope: netlink.SCOPE_LINK, Src: own},
			podSubnet(other.index):  {Gw: via, Flags: int(netlink.FLAG_ONLINK)},
		}
		if other.first == nil {
			routes[serviceIP+"/32"] = &netlink.Route{Gw: via, Flags: int(netlink.FLAG_ONLINK), Src: own}
		}
		for to, r := range routes {
			_, dst, err := net.ParseCIDR(to)
			if err != nil {
				return fmt.Errorf("parse %s: %w", to, err)
			}
			r.Dst, r.LinkIndex = dst, link.Attrs().Index
			if err := netlink.RouteAdd(r); err != nil {
				return fmt.Errorf("add route to %s: %w", to, err)
			}
		}
		return nil
	})
}
