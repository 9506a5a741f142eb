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
	// maxNodes is the largest number of nodes of a cluster.
	maxNodes = 5
	// peerPrefix is the prefix of the names of links between nodes.
	peerPrefix = "to-"
)

// nodeName returns node-a, node-b and so on.
func nodeName(i int) string { return "node-" + string(rune('a'+i)) }

func nodeAddress(i int) string { return fmt.Sprintf("192.0.2.%d", 10+i) }

// podSubnet returns the subnet of the pods of one node, if there are several nodes.
func podSubnet(i int) string { return fmt.Sprintf("10.244.%d.0/24", i) }

// address returns the address of the node.
func (c *Cluster) address() string { return nodeAddress(c.index) }

// primary returns the configuration of the cluster network. With several nodes, each node has a subnet of its own.
func (c *Cluster) primary() string {
	if c.options.Nodes == 1 {
		return Primary
	}
	return strings.Replace(Primary, "10.244.0.0/16", podSubnet(c.index), 1)
}

// join starts a further node and connects it with all others. It returns when the node is ready and has the images.
func (c *Cluster) join(ctx context.Context, i int) error {
	n := &Cluster{
		Node: nodeName(i), index: i, first: c, options: c.options, root: c.root, dir: filepath.Join(c.dir, nodeName(i)),
		cgroup: fmt.Sprintf("%s-%d", c.cgroup, i), servers: map[string]*proc.Process{}, Client: c.Client, Dynamic: c.Dynamic,
	}
	before := append([]*Cluster{c}, c.Others...)
	c.Others = append(c.Others, n) // Stop ends it with the first node, even if a step below fails
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

// connectTo creates a link between two nodes, and the routes over it to the address of the other node, to its pods, and
// to the API server.
func (c *Cluster) connectTo(other *Cluster) error {
	here, there := peerPrefix+other.Node, peerPrefix+c.Node
	err := c.onNode(func() error {
		// The PID is resolved in the PID namespace of this process: setns to a PID namespace affects only children.
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

// routeTo adds the routes to another node.
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
