package wirev1

import (
	"net/netip"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// PathObserved is the path for what sandboxes have: POST with an Observed returns ObservedAnswer. The runner sends it
// after a Work with Observe set.
const PathObserved = "/v1/observed"

// Observed is the body of POST PathObserved: what the recorded sandboxes of the node have.
type Observed struct {
	Sandboxes []Sandbox `json:"sandboxes"`
	// Pending has the pods in whose sandboxes a change has left a network that is neither attached nor deleted. They are
	// not compared. They are in the first Observed of an observation.
	Pending []Pod `json:"pending,omitempty"`
	// More reports whether another Observed with other sandboxes follows. The comparison ends with the last one.
	More bool `json:"more,omitempty"`
}

// Sandbox is what a running sandbox has.
type Sandbox struct {
	Pod         Pod    `json:"pod"`
	ContainerID string `json:"containerID"`
	Netns       string `json:"netns"`
	// Attached lists the attachments with the results of their plugins.
	Attached []Attached `json:"attached,omitempty"`
	// Devices has the interfaces of the attachments with a device of the node, and Unfinished those of the attachments
	// that were being made again when that failed or was killed.
	Devices    []string `json:"devices,omitempty"`
	Unfinished []string `json:"unfinished,omitempty"`
	// Interfaces are those of the kernel that the results name.
	Interfaces []Interface `json:"interfaces,omitempty"`
}

// Interface is an interface of the kernel.
type Interface struct {
	Name      string    `json:"name"`
	AltNames  []string  `json:"altNames,omitempty"`
	MAC       string    `json:"mac,omitempty"`
	MTU       int       `json:"mtu,omitempty"`
	Addresses []Address `json:"addresses,omitempty"`
}

// Address is an address of an interface, with the length of its prefix.
type Address struct {
	Prefix netip.Prefix `json:"address"`
	// Lasting reports whether the address is of global scope and stays until it is removed.
	Lasting bool `json:"lasting,omitempty"`
}

// ObservedAnswer is the answer to POST PathObserved.
type ObservedAnswer struct {
	// Reattach has the sandboxes in which networks have to be attached again, because their interfaces are lost.
	Reattach []Reattach `json:"reattach,omitempty"`
}

// Reattach is a sandbox in which networks have to be attached again.
type Reattach struct {
	// Pod is as the API server has it.
	Pod         Pod    `json:"pod"`
	ContainerID string `json:"containerID"`
	// IfNames are the interfaces of the attachments, as they are recorded.
	IfNames []string `json:"ifNames"`
}

// FromObservation returns the message for an observation. Both share the parts that they refer to.
func FromObservation(o *publish.Observation) Sandbox {
	m := Sandbox{
		Pod: Pod(o.Pod), ContainerID: o.ContainerID, Netns: o.Netns, Devices: o.Devices, Unfinished: o.Unfinished,
	}
	for i := range o.Attached {
		m.Attached = append(m.Attached, fromAttached(&o.Attached[i]))
	}
	for i := range o.Interfaces {
		itf := &o.Interfaces[i]
		out := Interface{Name: itf.Name, AltNames: itf.AltNames, MAC: itf.MAC, MTU: itf.MTU}
		for _, a := range itf.Addresses {
			out.Addresses = append(out.Addresses, Address(a))
		}
		m.Interfaces = append(m.Interfaces, out)
	}
	return m
}

// ToObservation returns the observation of the message. Both share the parts that they refer to. The message is
// untrusted: results are checked where they are used.
func (m *Sandbox) ToObservation() *publish.Observation {
	o := &publish.Observation{
		Pod: request.Pod(m.Pod), ContainerID: m.ContainerID, Netns: m.Netns, Devices: m.Devices, Unfinished: m.Unfinished,
	}
	for i := range m.Attached {
		o.Attached = append(o.Attached, m.Attached[i].toAttached())
	}
	for i := range m.Interfaces {
		itf := &m.Interfaces[i]
		out := publish.Interface{Name: itf.Name, AltNames: itf.AltNames, MAC: itf.MAC, MTU: itf.MTU}
		for _, a := range itf.Addresses {
			out.Addresses = append(out.Addresses, publish.Address(a))
		}
		o.Interfaces = append(o.Interfaces, out)
	}
	return o
}
