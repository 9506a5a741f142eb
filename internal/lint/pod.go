package lint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// element is one element of an annotation and its position.
type element struct {
	*pod
	netsel.Element
	ref   plan.Ref
	at    mark
	value text
	tree  *tree // nil in the comma form
	// index is that of the attachment.
	index int
}

// attachment is an element with its network.
type attachment struct {
	*element
	network *network
}

// part returns the position of the first of the keys that the element has, or that of the element.
func (e *element) part(keys ...string) mark {
	for _, key := range keys {
		if t := e.tree.get(key); t != nil {
			return e.value.at(t.offset)
		}
	}
	return e.at
}

// item returns the position of the item of a list, or that of the list.
func (e *element) item(key string, i int) mark {
	if items := e.tree.get(key).list(); i < len(items) {
		return e.value.at(items[i].offset)
	}
	return e.part(key)
}

// parse returns the elements of an annotation, or nil if the annotation cannot be read, or if it has more elements than
// most, which the planner refuses. An element without a namespace
// gets namespace.
func (p *pod) parse(key, namespace string, most int) []*element {
	value := p.annotations[key]
	parsed, err := netsel.ParseMax(value.value, most)
	if err != nil {
		return nil // the planner refuses it
	}
	root, err := parseTree(value.value)
	inJSON := err == nil && root.kind() == isList && len(root.items) == len(parsed)
	var out []*element
	offset := 0
	for i, selected := range parsed {
		e := &element{
			pod: p, Element: selected, ref: plan.Ref{Namespace: cmp.Or(selected.Namespace, namespace), Name: selected.Name},
			at: value.at(offset), value: value, index: i,
		}
		if key == netsel.Networks {
			e.index++ // the first attachment is the cluster network
		}
		if inJSON {
			e.tree = root.items[i]
			e.at = value.at(e.tree.offset)
		} else if comma := strings.IndexByte(value.value[offset:], ','); comma >= 0 {
			offset += comma + 1
		}
		out = append(out, e)
	}
	return out
}

// used returns the elements for which the runtime calls CNI plugins.
func (p *pod) used() []*element {
	if p.hostNetwork {
		return p.elements[netsel.DefaultNetwork]
	}
	return slices.Concat(p.elements[netsel.DefaultNetwork], p.elements[netsel.Networks])
}

// errorPlace returns the position at which the annotation becomes invalid: in the JSON, or of an element.
func errorPlace(value text, err error) mark {
	var element *netsel.ElementError
	if !errors.As(err, &element) {
		return value.at(errorOffset(err, value.value))
	}
	if root, err := parseTree(value.value); err == nil && element.Index < len(root.items) {
		return value.at(root.items[element.Index].offset)
	}
	offset := 0
	for range element.Index {
		offset += strings.IndexByte(value.value[offset:], ',') + 1
	}
	return value.at(offset)
}

func checkHostNetwork(r *reporter, p *pod) {
	if value := p.annotations[netsel.Networks]; p.hostNetwork && strings.TrimSpace(value.value) != "" {
		r.add(p.object, value.start, "remove the annotation, or hostNetwork: true",
			"the pod is in the network of its node (hostNetwork): the runtime calls no CNI plugin, and it gets none of these "+
				"networks")
	}
}

// checkOrder reports a network on an interface of the pod (linkInContainer) that a later network creates.
func checkOrder(r *reporter, e *element) {
	n := r.networks[e.ref]
	if n == nil {
		return
	}
	for _, p := range n.plugins() {
		master := p.get("master").text()
		for _, later := range e.elements[netsel.Networks] {
			if p.get("linkInContainer").isTrue() && later.index > e.index && later.ifName() == master {
				r.add(e.object, e.at, fmt.Sprintf("name network %s before network %s", later.Name, e.Name),
					"network %s is on interface %s of the pod, which network %s makes later", e.Name, master, later.Name)
			}
		}
	}
}

// ifName returns the name of the interface, or "" if the annotation is refused.
func (e *element) ifName() string {
	if e.index < len(e.attachments) {
		return e.attachments[e.index].IfName
	}
	return ""
}

func checkElementKeys(r *reporter, e *element) {
	if e.tree == nil {
		return
	}
	for _, m := range e.tree.members {
		known := slices.ContainsFunc(elementKeys, func(k string) bool { return strings.EqualFold(k, m.key) })
		if known {
			continue
		}
		fix := "remove it; the keys are " + strings.Join(elementKeys, ", ")
		if near := nearest(strings.TrimSuffix(m.key, "Request"), elementKeys); near != "" {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		r.add(e.object, e.value.at(m.offset), fix, "network %s: the key %q has no effect", e.Name, m.key)
	}
}

func checkClaim(r *reporter, e *element) {
	if e.IPAMClaim != "" && len(e.IPs) > 0 {
		r.add(e.object, e.part("ipam-claim-reference"), "keep the addresses or the claim, unless KubeVirt wrote both",
			"network %s asks for addresses (ips) and refers to a claim: the standard excludes the two (NPWG v1.3 §4.1.2.1.11)",
			e.Name)
	}
}

// checkCapabilities reports requests that are passed to no plugin of the network.
func checkCapabilities(r *reporter, a attachment) {
	caps, err := a.network.list.Capabilities()
	requested := map[string]json.RawMessage{}
	if err != nil || plan.Requested(requested, &a.Element) != nil {
		return // the definition is reported
	}
	for _, name := range slices.Sorted(maps.Keys(requested)) {
		if caps[name] {
			continue
		}
		key := name
		if name == "infinibandGUID" {
			key = "infiniband-guid"
		}
		r.add(a.object, a.part(key),
			fmt.Sprintf(`add "capabilities": {%q: true} to the plugin that provides it, in network %s`, name, a.ref),
			"%s is requested of network %s, and none of its plugins declares the capability %q", key, a.ref, name)
	}
}

// checkAddresses reports requested addresses that the network's IPAM will reject.
func checkAddresses(r *reporter, a attachment) {
	spans := a.network.spans()
	static := slices.ContainsFunc(a.network.plugins(),
		func(p plugin) bool { return p.ipam().get("type").text() == "static" })
	for i, ip := range a.IPs {
		host, _, prefixed := strings.Cut(ip, "/")
		if !prefixed && static {
			r.add(a.object, a.item("ips", i), "add the prefix length, such as "+ip+"/24",
				"network %s uses static, which needs an address with a prefix length: %q", a.ref, ip)
		}
		addr, err := netip.ParseAddr(host)
		if err != nil || len(spans) == 0 {
			continue
		}
		if !slices.ContainsFunc(spans, func(s span) bool { return s.contains(addr.Unmap()) }) {
			r.add(a.object, a.item("ips", i), fmt.Sprintf("choose an address of %v", spans),
				"address %s is in no range of network %s", host, a.ref)
		}
	}
}

func checkPorts(r *reporter, e *element) {
	for i, m := range e.PortMappings {
		at := e.item("portMappings", i)
		for key, port := range map[string]int{"hostPort": m.HostPort, "containerPort": m.ContainerPort} {
			if port < 1 || port > 65535 {
				r.add(e.object, at, "write a number from 1 to 65535", "network %s: %s is %d", e.Name, key, port)
			}
		}
		if !slices.Contains([]string{"", "tcp", "udp", "sctp"}, strings.ToLower(m.Protocol)) {
			r.add(e.object, at, "write tcp, udp or sctp", "network %s: protocol %q is unknown", e.Name, m.Protocol)
		}
	}
}

func checkBandwidth(r *reporter, e *element) {
	if b := e.Bandwidth; b != nil &&
		((b.IngressRate > 0) != (b.IngressBurst > 0) || (b.EgressRate > 0) != (b.EgressBurst > 0)) {
		r.add(e.object, e.part("bandwidth"), "give rate and burst of a direction together",
			"network %s: a rate without a burst, or a burst without a rate", e.Name)
	}
}

func checkRequestedMAC(r *reporter, e *element) {
	if e.MAC != "" {
		r.mac(e.object, e.part("mac"), e.MAC)
	}
}

// mac reports MAC addresses that no interface can have.
func (r *reporter) mac(o *object, at mark, value string) {
	hw, err := net.ParseMAC(value)
	const fix = "use a locally administered unicast address, such as 02:00:00:00:00:01"
	switch {
	case err != nil:
		r.add(o, at, fix, "%q is not a MAC address", value)
	case len(hw) != 6:
		r.add(o, at, fix, "MAC address %s has %d bytes, not 6", value, len(hw))
	case slices.Max(hw) == 0:
		r.add(o, at, fix, "MAC address %s is zero", value)
	case hw[0]&1 == 1:
		r.add(o, at, fix, "MAC address %s is a multicast address", value)
	}
}
