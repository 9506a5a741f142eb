package publish

import (
	"encoding/json"
	"net"
	"net/netip"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"

	"multus/internal/engine/request"
)

// maxOwnAddresses limits how many addresses of one attachment that its plugin did not report are in its status.
const maxOwnAddresses = 32

// Observation is what a running sandbox has: what its plugins reported, and what the kernel has now.
type Observation struct {
	// Pod is as the runtime named it.
	Pod         request.Pod
	ContainerID string
	Netns       string
	// Attached lists the attachments with the results of their plugins.
	Attached []Attached
	// Devices has the interfaces of the attachments with a device of the node. Such an interface may never have existed in
	// the kernel: a program in the pod drives the device itself.
	Devices []string
	// Unfinished has the interfaces of the attachments that were being made again when that failed or was killed.
	Unfinished []string
	// Interfaces are those of the kernel. Others than the results name may be left out.
	Interfaces []Interface
	// Pending reports whether a change has left an attachment that is neither made nor deleted. Only Pod and ContainerID
	// are set then.
	Pending bool
}

// Interface is an interface of the kernel.
type Interface struct {
	Name     string
	AltNames []string
	MAC      string
	MTU      int
	// Addresses has all that the interface has.
	Addresses []Address
}

// Address is an address of an interface. Lasting reports whether it stays until it is removed, and is used outside of
// its link.
type Address struct {
	Prefix  netip.Prefix
	Lasting bool
}

// Size returns the size of the results in bytes.
func (o *Observation) Size() int { return (&Report{Attached: o.Attached}).size() }

// Restored returns the event of an interface that is as it was attached again.
func Restored(name, ifName, containerID string) Event {
	return Event{
		Type: Normal, Reason: InterfaceRestored, ContainerID: containerID,
		Message: "interface " + ifName + " of network " + name + " is restored",
	}
}

// Actual returns the attachments with results that describe what the kernel has (behaviour R26), and the interfaces of
// those that have lost all of their interfaces. The result of such an attachment is empty, so that it has no element in
// a network status. saw reports whether an interface was seen earlier. It may be nil. An interface that was not seen is
// lost only if the plugin reported its MAC address and the attachment has no device.
//
// A result without a difference is returned as it is. What a result does not say is not added to it: the addresses of
// an interface to which the plugin gives none are those of the programs in the pod.
func (o *Observation) Actual(saw func(name string) bool) (attached []Attached, lost []string, err error) {
	results, err := (&Report{Attached: o.Attached}).results()
	if err != nil {
		return nil, nil, err
	}
	attached = slices.Clone(o.Attached)
	moved := o.addressesMoved(results)
	for i, res := range results {
		a := &attached[i]
		n := len(res.Interfaces)
		c := &correction{res: res, pod: make([]bool, n), gone: make([]bool, n), states: make([]*Interface, n)}
		left := o.match(c, a, saw)
		c.describe()
		if !moved {
			c.readdress()
		}
		if c.anyGone() {
			c.remove()
			if !left {
				lost = append(lost, a.IfName)
				*res = current.Result{CNIVersion: res.CNIVersion}
			}
		}
		if !c.changed {
			continue
		}
		if a.Result, err = json.Marshal(res); err != nil {
			return nil, nil, err
		}
	}
	return attached, lost, nil
}

// addressesMoved reports whether the interface of the cluster network has no address at all. Then the container runtime
// has moved the addresses of all interfaces into a network stack of its own, as gVisor does.
func (o *Observation) addressesMoved(results []*current.Result) bool {
	for i, res := range results {
		if !o.Attached[i].Primary || len(res.IPs) == 0 {
			continue
		}
		for _, itf := range res.Interfaces {
			if state := o.find(itf.Name); inPod(itf, o.Netns) && state != nil {
				return !slices.ContainsFunc(state.Addresses, func(a Address) bool {
					return a.Lasting || slices.ContainsFunc(res.IPs, func(ip *current.IPConfig) bool { return a.is(ip) })
				})
			}
		}
	}
	return false
}

func (o *Observation) find(name string) *Interface {
	for i := range o.Interfaces {
		if s := &o.Interfaces[i]; s.Name == name || slices.Contains(s.AltNames, name) {
			return s
		}
	}
	return nil
}

func (a *Address) is(ip *current.IPConfig) bool {
	addr, ok := netip.AddrFromSlice(ip.Address.IP)
	return ok && addr.Unmap() == a.Prefix.Addr().Unmap()
}

// correction is the change of one result.
type correction struct {
	res *current.Result
	// pod marks the interfaces of the result that are in the pod. states has that of the kernel for each, or nil, and gone
	// marks those that are lost.
	pod, gone []bool
	states    []*Interface
	changed   bool
}

// match finds the interfaces of a result. It reports whether one of the pod is left.
func (o *Observation) match(c *correction, a *Attached, saw func(name string) bool) (left bool) {
	for i, itf := range c.res.Interfaces {
		if c.pod[i] = inPod(itf, o.Netns); !c.pod[i] {
			continue
		}
		c.states[i] = o.find(itf.Name)
		c.gone[i] = c.states[i] == nil && (itf.Mac != "" && !slices.Contains(o.Devices, a.IfName) ||
			saw != nil && saw(itf.Name))
		left = left || !c.gone[i]
	}
	return left
}

func (c *correction) anyGone() bool { return slices.Contains(c.gone, true) }

// describe corrects what the result says about interfaces.
func (c *correction) describe() {
	for i, itf := range c.res.Interfaces {
		state := c.states[i]
		if state == nil {
			continue
		}
		if itf.Mac != "" && !sameMAC(itf.Mac, state.MAC) {
			itf.Mac, c.changed = state.MAC, true
		}
		if itf.Mtu != 0 && state.MTU != itf.Mtu {
			itf.Mtu, c.changed = state.MTU, true
		}
	}
}

// sameMAC reports whether two hardware addresses are equal. Addresses of different kinds cannot be compared.
func sameMAC(a, b string) bool {
	x, errX := net.ParseMAC(a)
	y, errY := net.ParseMAC(b)
	return errX != nil || errY != nil || len(x) != len(y) || slices.Equal(x, y)
}

// owner returns the index of the interface to which a status assigns an address, or -1.
func (c *correction) owner(ip *current.IPConfig) int {
	switch {
	case len(c.res.Interfaces) == 1:
		return 0
	case ip.Interface == nil:
		for i := range slices.Backward(c.pod) {
			if c.pod[i] {
				return i
			}
		}
	case *ip.Interface >= 0 && *ip.Interface < len(c.states):
		return *ip.Interface
	}
	return -1
}

// readdress removes the addresses that an interface no longer has, and adds those that it got in the meantime.
func (c *correction) readdress() {
	named := make([][]*current.IPConfig, len(c.states))
	ips := c.res.IPs[:0:0]
	for _, ip := range c.res.IPs {
		at := c.owner(ip)
		if at >= 0 {
			named[at] = append(named[at], ip)
		}
		if at >= 0 && c.states[at] != nil &&
			!slices.ContainsFunc(c.states[at].Addresses, func(a Address) bool { return a.is(ip) }) {
			c.changed = true
			continue
		}
		ips = append(ips, ip)
	}
	for i, state := range c.states {
		if state == nil || len(named[i]) == 0 {
			continue
		}
		added := 0
		for _, a := range state.Addresses {
			addr := a.Prefix.Addr()
			if !a.Lasting || !addr.IsValid() || added == maxOwnAddresses || slices.ContainsFunc(named[i], a.is) {
				continue
			}
			added++
			ips = append(ips, &current.IPConfig{Interface: new(i), Address: net.IPNet{
				IP: addr.AsSlice(), Mask: net.CIDRMask(a.Prefix.Bits(), addr.BitLen()),
			}})
			c.changed = true
		}
	}
	c.res.IPs = ips
}

// remove removes the interfaces that are lost, and their addresses.
func (c *correction) remove() {
	var interfaces []*current.Interface
	place := make([]int, len(c.gone))
	for i, itf := range c.res.Interfaces {
		place[i] = len(interfaces)
		if !c.gone[i] {
			interfaces = append(interfaces, itf)
		}
	}
	var ips []*current.IPConfig
	for _, ip := range c.res.IPs {
		at := c.owner(ip)
		if at >= 0 && c.gone[at] {
			continue
		}
		if at >= 0 {
			ip.Interface = new(place[at])
		}
		ips = append(ips, ip)
	}
	c.res.Interfaces, c.res.IPs, c.changed = interfaces, ips, true
}
