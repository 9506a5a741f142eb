package lint

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// checkPod checks the annotations of one pod against the definitions.
func (l *linter) checkPod(p *pod) {
	names := map[string]string{"eth0": "the cluster network"}
	gateways := map[bool]string{}
	if value, ok := p.annotations[netsel.DefaultNetwork]; ok {
		elements := p.elements(netsel.DefaultNetwork, value)
		switch {
		case strings.TrimSpace(value.value) == "":
			p.add(value.start, Error, "annotation", "name one network, or remove the annotation", "annotation %s is empty",
				netsel.DefaultNetwork)
		case len(elements) > 1:
			p.add(elements[1].at, Error, "annotation", "name one network", "annotation %s names more than one network",
				netsel.DefaultNetwork)
		case len(elements) == 1:
			p.check(elements[0], cmp.Or(l.options.MultusNamespace, "kube-system"), gateways)
		}
	}
	value, ok := p.annotations[netsel.Networks]
	if !ok {
		return
	}
	if p.hostNetwork && strings.TrimSpace(value.value) != "" {
		p.add(value.start, Warning, "host-network", "remove the annotation, or hostNetwork: true",
			"the pod is in the network of its node (hostNetwork): the runtime calls no CNI plugin, and it gets none of these "+
				"networks")
		return
	}
	elements := p.elements(netsel.Networks, value)
	for i, e := range elements {
		p.check(e, p.namespace, gateways)
		p.interfaceName(e, i+1, names)
	}
	p.order(elements)
}

// order reports a network on an interface of the pod (linkInContainer) that a later network creates.
func (p *pod) order(elements []selected) {
	made := map[string]int{} // interface -> index of its element
	for i, e := range elements {
		made[cmp.Or(e.Interface, fmt.Sprintf("net%d", i+1))] = i
	}
	for i, e := range elements {
		n := p.networks[plan.Ref{Namespace: cmp.Or(e.Namespace, p.namespace), Name: e.Name}]
		if n == nil || n.list == nil {
			continue
		}
		for _, t := range n.plugins() {
			master := t.get("master").text()
			at, ok := made[master]
			if !t.get("linkInContainer").isTrue() || !ok || at <= i {
				continue
			}
			p.add(e.at, Error, "order", fmt.Sprintf("name network %s before network %s", elements[at].Name, e.Name),
				"network %s is on interface %s of the pod, which network %s makes later", e.Name, master, elements[at].Name)
		}
	}
}

// selected is one element of an annotation and its position.
type selected struct {
	netsel.Element
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

// elements parses an annotation.
func (p *pod) elements(key string, value text) []selected {
	parsed, err := netsel.Parse(value.value)
	if err != nil {
		p.add(errorPlace(value, err), Error, "annotation",
			"see the syntax: name, namespace/name, name@interface, or a JSON list of objects", "annotation %s: %v", key, err)
		return nil
	}
	root, err := parseTree(value.value)
	inJSON := err == nil && root.kind() == isList && len(root.items) == len(parsed)
	var out []selected
	offset := 0
	for i, e := range parsed {
		s := selected{Element: e, value: value}
		if inJSON {
			s.tree = root.items[i]
			s.at = value.at(s.tree.offset)
			p.elementKeys(s)
		} else {
			s.at = value.at(offset)
			if comma := strings.IndexByte(value.value[offset:], ','); comma >= 0 {
				offset += comma + 1
			}
		}
		if e.Name == "" {
			p.add(s.at, Error, "annotation", "name a network, or remove the comma", "annotation %s: element %d has no name", key,
				i+1)
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
func (p *pod) check(s selected, namespace string, gateways map[bool]string) {
	if s.Name == "" {
		return
	}
	if namespace, name, ok := strings.Cut(s.Name, "/"); ok {
		p.add(s.part("name"), Error, "annotation", fmt.Sprintf(`write "namespace": %q, "name": %q`, namespace, name),
			"the name %q has a slash", s.Name)
		return
	}
	ref := plan.Ref{Namespace: cmp.Or(s.Namespace, namespace), Name: s.Name}
	p.isolation(s, ref)
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
	if s.DefaultRoute != nil {
		for _, gw := range *s.DefaultRoute {
			if other, ok := gateways[gw.Is6()]; ok {
				p.add(s.part("default-route"), Error, "default-route", "leave one gateway of each family, on one network",
					"network %s asks for one more default route; network %s has one", s.Name, other)
			}
			gateways[gw.Is6()] = s.Name
		}
	}
	n, ok := p.networks[ref]
	if !ok {
		p.unknown(s, ref)
		return
	}
	if n.list == nil {
		return
	}
	p.capable(s, n)
	p.addresses(s, n)
	p.device(s, n)
}

// isolation reports a reference that namespaceIsolation rejects (behaviour C40, C41).
func (p *pod) isolation(s selected, ref plan.Ref) {
	o := p.options
	if o.Isolation && ref.Namespace != p.namespace && !slices.Contains(o.Exceptions, ref.Namespace) {
		p.add(s.at, Error, "isolation",
			"use a definition in the pod's own namespace, or add the namespace to globalNamespaces",
			"a pod of namespace %s may not use network %s", p.namespace, ref)
	}
}

// unknown reports a network that no file defines, if that is probably a mistake.
func (p *pod) unknown(s selected, ref plan.Ref) {
	var near string
	for _, other := range slices.SortedFunc(maps.Keys(p.networks),
		func(a, b plan.Ref) int { return strings.Compare(a.String(), b.String()) }) {
		sameName := other.Name == ref.Name
		sameSpace := other.Namespace == ref.Namespace
		if sameName && s.Namespace == "" || sameSpace && nearest(ref.Name, []string{other.Name}) != "" {
			near = other.String()
		}
	}
	switch {
	case near != "":
		p.add(s.at, Warning, "unknown-network", "did you mean "+near+"?", "no file defines network %s", ref)
	case p.options.Complete:
		p.add(s.at, Error, "unknown-network", "create the definition, or correct the annotation",
			"no file defines network %s", ref)
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

// device reports a network with a device that no container requests (behaviour H20, H21).
func (p *pod) device(s selected, n *network) {
	if r := n.resource.value; r != "" && p.hasContainers && !p.resources[r] {
		p.add(s.at, Error, "device", fmt.Sprintf("request %s in resources.limits of a container", r),
			"network %s needs a device of %s, and no container requests one", n.ref, r)
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

// interfaceName checks the name of the pod's interface against those of earlier networks (behaviour C80-C82).
func (p *pod) interfaceName(s selected, index int, names map[string]string) {
	at := s.part("interface")
	if s.tree.get("interface") == nil {
		at = s.part("interfaceRequest")
	}
	if s.Interface == "" {
		// The default name. It may be another one at ADD, because defaultNetworks may shift the index.
		s.Interface = fmt.Sprintf("net%d", index)
	}
	if err := utils.ValidateInterfaceName(s.Interface); err != nil {
		p.add(at, Error, "interface-name", "use at most 15 characters, without / : and spaces",
			"network %s: interface %q: %s", s.Name, s.Interface, err.Msg)
		return
	}
	if other, ok := names[s.Interface]; ok {
		p.add(at, Error, "interface-duplicate", "give each network another interface",
			"network %s: interface %s is that of %s", s.Name, s.Interface, other)
		return
	}
	names[s.Interface] = "network " + s.Name
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
