package lint

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// checkPod checks what the annotations of a pod request of the networks.
func (p *pod) checkPod() {
	if value := p.annotations[netsel.Networks]; p.hostNetwork && strings.TrimSpace(value.value) != "" {
		p.add(value.start, Warning, "host-network", "remove the annotation, or hostNetwork: true",
			"the pod is in the network of its node (hostNetwork): the runtime calls no CNI plugin, and it gets none of these "+
				"networks")
		p.selected = nil
	}
	for _, e := range slices.Concat(p.replacement, p.selected) {
		p.check(e)
	}
	p.order()
}

// order reports a network on an interface of the pod (linkInContainer) that a later network creates.
func (p *pod) order() {
	for i, e := range p.selected {
		n := p.networks[e.ref]
		if n == nil || n.list == nil {
			continue
		}
		for _, t := range n.plugins() {
			master := t.get("master").text()
			made := slices.IndexFunc(p.attachments, func(a plan.Attachment) bool { return a.IfName == master })
			if !t.get("linkInContainer").isTrue() || made <= i+1 {
				continue
			}
			later := p.selected[made-1].Name
			p.add(e.at, Error, "order", fmt.Sprintf("name network %s before network %s", later, e.Name),
				"network %s is on interface %s of the pod, which network %s makes later", e.Name, master, later)
		}
	}
}

// selected is one element of an annotation and its position.
type selected struct {
	netsel.Element
	ref   plan.Ref
	at    mark
	value text
	tree  *tree // nil in the comma form
}

// part returns the position of a member of the element.
func (s selected) part(key string) mark {
	if t := s.tree.get(key); t != nil {
		return s.value.at(t.offset)
	}
	return s.at
}

// interfaceAt returns the position of the name of the interface.
func (s selected) interfaceAt() mark {
	if s.tree.get("interface") == nil {
		return s.part("interfaceRequest")
	}
	return s.part("interface")
}

// elements returns the elements of an annotation. There are none if it cannot be read. namespace is that of networks
// without one.
func (p *pod) elements(key, namespace string) []selected {
	value := p.annotations[key]
	parsed, _ := netsel.Parse(value.value) // the planner refuses it
	root, err := parseTree(value.value)
	inJSON := err == nil && root.kind() == isList && len(root.items) == len(parsed)
	var out []selected
	offset := 0
	for i, e := range parsed {
		s := selected{Element: e, ref: plan.Ref{Namespace: cmp.Or(e.Namespace, namespace), Name: e.Name}, value: value}
		if inJSON {
			s.tree = root.items[i]
			s.at = value.at(s.tree.offset)
		} else {
			s.at = value.at(offset)
			if comma := strings.IndexByte(value.value[offset:], ','); comma >= 0 {
				offset += comma + 1
			}
		}
		out = append(out, s)
	}
	return out
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

func (p *pod) elementKeys(s selected) {
	if s.tree == nil {
		return
	}
	for _, m := range s.tree.members {
		known := slices.ContainsFunc(elementKeys, func(k string) bool { return strings.EqualFold(k, m.key) })
		if known {
			continue
		}
		fix := "remove it; the keys are " + strings.Join(elementKeys, ", ")
		if near := nearest(strings.TrimSuffix(m.key, "Request"), elementKeys); near != "" {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		p.add(s.value.at(m.offset), Warning, "unknown-key", fix, "network %s: the key %q has no effect", s.Name, m.key)
	}
}

// check checks the requests of an element.
func (p *pod) check(s selected) {
	p.elementKeys(s)
	if s.MAC != "" {
		p.mac(s.part("mac"), s.MAC)
	}
	p.ports(s)
	if s.IPAMClaim != "" && len(s.IPs) > 0 {
		p.add(s.part("ipam-claim-reference"), Warning, "ipam-claim",
			"keep the addresses or the claim, unless KubeVirt wrote both",
			"network %s asks for addresses (ips) and refers to a claim: the standard excludes the two (NPWG v1.3 §4.1.2.1.11)",
			s.Name)
	}
	if n := p.networks[s.ref]; n != nil && n.list != nil {
		p.capable(s, n)
		p.addresses(s, n)
	}
}

// capable reports requests that are passed to no plugin of the network.
func (p *pod) capable(s selected, n *network) {
	caps, err := n.list.Capabilities()
	if err != nil {
		return // reported for the definition
	}
	for _, want := range []struct {
		asked     bool
		key, name string
	}{
		{len(s.IPs) > 0, "ips", "ips"},
		{s.MAC != "", "mac", "mac"},
		{s.InfinibandGUID != "", "infiniband-guid", "infinibandGUID"},
		{len(s.PortMappings) > 0, "portMappings", "portMappings"},
		{s.Bandwidth != nil, "bandwidth", "bandwidth"},
		{s.DeviceID != "", "deviceID", "deviceID"},
	} {
		if want.asked && !caps[want.name] {
			p.add(s.part(want.key), Warning, "capability",
				fmt.Sprintf(`add "capabilities": {%q: true} to the plugin that provides it, in network %s`, want.name, n.ref),
				"%s is requested of network %s, and none of its plugins declares the capability %q", want.key, n.ref, want.name)
		}
	}
}

// addresses reports requested addresses that the network's IPAM will reject.
func (p *pod) addresses(s selected, n *network) {
	items := s.tree.get("ips").list()
	spans := n.spans()
	for i, ip := range s.IPs {
		at := s.part("ips")
		if i < len(items) {
			at = s.value.at(items[i].offset)
		}
		host, _, prefixed := strings.Cut(ip, "/")
		if !prefixed && slices.ContainsFunc(n.plugins(),
			func(t *tree) bool { return t.get("ipam").get("type").text() == "static" }) {
			p.add(at, Error, "address", "add the prefix length, such as "+ip+"/24",
				"network %s uses static, which needs an address with a prefix length: %q", n.ref, ip)
		}
		a, err := netip.ParseAddr(host)
		if err != nil || len(spans) == 0 {
			continue
		}
		if !slices.ContainsFunc(spans, func(sp span) bool { return sp.contains(a.Unmap()) }) {
			p.add(at, Error, "address", fmt.Sprintf("choose an address of %v", spans), "address %s is in no range of network %s",
				host, n.ref)
		}
	}
}

func (p *pod) ports(s selected) {
	items := s.tree.get("portMappings").list()
	for i, m := range s.PortMappings {
		at := s.part("portMappings")
		if i < len(items) {
			at = s.value.at(items[i].offset)
		}
		for key, port := range map[string]int{"hostPort": m.HostPort, "containerPort": m.ContainerPort} {
			if port < 1 || port > 65535 {
				p.add(at, Error, "port", "write a number from 1 to 65535", "network %s: %s is %d", s.Name, key, port)
			}
		}
		if !slices.Contains([]string{"", "tcp", "udp", "sctp"}, strings.ToLower(m.Protocol)) {
			p.add(at, Error, "port", "write tcp, udp or sctp", "network %s: protocol %q is unknown", s.Name, m.Protocol)
		}
	}
	if b := s.Bandwidth; b != nil &&
		((b.IngressRate > 0) != (b.IngressBurst > 0) || (b.EgressRate > 0) != (b.EgressBurst > 0)) {
		p.add(s.part("bandwidth"), Error, "bandwidth", "give rate and burst of a direction together",
			"network %s: a rate without a burst, or a burst without a rate", s.Name)
	}
}

// mac reports MAC addresses that no interface can have.
func (o object) mac(at mark, value string) {
	hw, err := net.ParseMAC(value)
	const fix = "use a locally administered unicast address, such as 02:00:00:00:00:01"
	switch {
	case err != nil:
		o.add(at, Error, "mac", fix, "%q is not a MAC address", value)
	case len(hw) != 6:
		o.add(at, Error, "mac", fix, "MAC address %s has %d bytes, not 6", value, len(hw))
	case slices.Max(hw) == 0:
		o.add(at, Error, "mac", fix, "MAC address %s is zero", value)
	case hw[0]&1 == 1:
		o.add(at, Error, "mac", fix, "MAC address %s is a multicast address", value)
	}
}
