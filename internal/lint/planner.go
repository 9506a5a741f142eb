package lint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/netsel"
)

// standIn is the configuration of networks that lint does not see: the cluster network, and definitions that are
// reported by themselves.
const standIn = `{"cniVersion":"1.0.0","name":"cluster-network","type":"macvlan"}`

// source has the objects of one plan.
type source struct {
	pod     *plan.Pod
	network func(plan.Ref) (*plan.Definition, error)
	devices map[string][]string
	// claimed has a device for each element that names a claim of the pod.
	claimed []plan.ClaimedDevice
}

// Pod returns the pod of the plan.
func (s *source) Pod(context.Context, plan.Ref) (*plan.Pod, error) { return s.pod, nil }

// Network returns a definition.
func (s *source) Network(_ context.Context, ref plan.Ref) (*plan.Definition, error) {
	return s.network(ref)
}

// Devices returns the devices that the kubelet would give to the pod.
func (s *source) Devices(context.Context, plan.Ref, string) (*plan.Allocation, error) {
	return &plan.Allocation{IDs: s.devices}, nil
}

// Describe does nothing: the devices are known.
func (s *source) Describe(context.Context, []plan.ClaimedDevice) error { return nil }

// Claims returns the devices that elements select.
func (s *source) Claims(context.Context, plan.Ref, string) ([]plan.ClaimedDevice, error) {
	return s.claimed, nil
}

// check returns the attachments of the pod and the reasons for which ADD refuses it. There are no other errors: nothing
// is looked up elsewhere.
func (s *source) check(conf *config.Plugin) ([]plan.Attachment, []plan.Refusal) {
	resolver := plan.Resolver{Networks: s, Pods: s, Devices: s, Log: slog.New(slog.DiscardHandler)}
	attachments, refusals, _ := resolver.Check(context.Background(), &request.Request{
		Command: request.Add, ContainerID: "lint", Netns: "/run/netns/lint", IfName: "eth0",
		Args: request.Args{{request.PodNamespace, s.pod.Namespace}, {request.PodName, s.pod.Name}},
	}, conf)
	return attachments, refusals
}

// refused is what ADD refuses, and its position.
type refused struct {
	plan.Refusal
	*object
	at mark
	// network is the definition that is refused, or nil.
	network *network
	// pod is the pod that is refused, or nil, and element its element, or nil for a whole annotation.
	pod     *pod
	element *element
	key     string // of the annotation
}

// plan resolves every definition and every pod as ADD does.
func (l *linter) plan() {
	alone, together := l.options.plugin(), l.options.plugin()
	alone.MaxNetworks = 0
	for _, n := range l.defined {
		if n.given() {
			l.planNetwork(n, alone)
		}
	}
	together.AllowedTypes, together.AllowInUseNamespaces = nil, nil // what these refuse was reported for the definitions
	for _, p := range l.pods {
		l.planPod(p, together)
	}
}

// planNetwork resolves a pod that requests the definition alone.
func (l *linter) planNetwork(n *network, conf *config.Plugin) {
	ref := n.ref
	if !subdomain.MatchString(ref.Name) {
		ref.Name = "network" // the rule about names reports it
	}
	annotation, err := json.Marshal([]netsel.Element{{Name: ref.Name, Namespace: ref.Namespace}})
	if err != nil { // strings always encode
		panic(err)
	}
	s := source{
		pod: &plan.Pod{
			Ref:         plan.Ref{Namespace: ref.Namespace, Name: "any"},
			Annotations: map[string]string{netsel.Networks: string(annotation)},
		},
		network: func(plan.Ref) (*plan.Definition, error) {
			return &plan.Definition{Ref: ref, Config: n.config.value}, nil
		},
	}
	_, refusals := s.check(conf)
	n.usable = len(refusals) == 0
	for _, x := range refusals {
		l.refused = append(l.refused, &refused{Refusal: x, object: n.object, at: n.config.start, network: n})
	}
}

// claimed returns a device for each element that names a claim of the pod.
func (p *pod) claimed() (out []plan.ClaimedDevice) {
	for _, elements := range p.elements {
		for _, e := range elements {
			if c := e.ResourceClaim; c != nil && slices.Contains(p.claims, c.Name) {
				out = append(out, plan.ClaimedDevice{
					Claim: c.Name, PodClaim: c.Name, Request: c.Request, Device: "any", ID: strconv.Itoa(len(out)),
				})
			}
		}
	}
	return out
}

// planPod resolves a pod. Definitions that are refused by themselves are replaced, so that they are not reported for
// each pod.
func (l *linter) planPod(p *pod, conf *config.Plugin) {
	s := source{
		pod: &plan.Pod{
			Ref: plan.Ref{Namespace: p.namespace, Name: cmp.Or(p.name, "any")}, Annotations: map[string]string{},
		},
		devices: map[string][]string{},
		network: func(ref plan.Ref) (*plan.Definition, error) {
			n, ok := l.networks[ref]
			if l.unjudged[ref] {
				return &plan.Definition{Ref: ref, Config: standIn}, nil
			}
			if !ok {
				return nil, plan.ErrNotFound
			}
			def := &plan.Definition{Ref: ref, Config: standIn, ResourceName: n.resource}
			if n.usable {
				def.Config = n.config.value
			}
			return def, nil
		},
	}
	for key, value := range p.annotations {
		if key != netsel.Networks || !p.hostNetwork {
			s.pod.Annotations[key] = value.value
		}
	}
	for _, n := range l.networks {
		if n.resource == "" {
			continue
		}
		count := conf.NetworkLimit()
		if p.hasContainers && len(p.claims) == 0 {
			count = min(count, p.resources[n.resource])
		}
		s.devices[n.resource] = slices.Repeat([]string{"0000:00:00.0"}, count)
	}
	s.claimed = p.claimed()
	attachments, refusals := s.check(conf)
	p.attachments = attachments
	for _, refusal := range refusals {
		x := &refused{Refusal: refusal, object: p.object, pod: p, key: netsel.Networks}
		if x.Origin == plan.FromDefaultAnnotation {
			x.key = netsel.DefaultNetwork
		}
		x.at = p.annotations[x.key].start
		for _, e := range p.elements[x.key] {
			if e.index == x.Attachment {
				x.element, x.at = e, e.at
			}
		}
		l.refused = append(l.refused, x)
	}
}

// next returns the fix that ADD suggests.
func (x *refused) next() string {
	if f, ok := errors.AsType[*fault.Error](x.Err); ok {
		return f.Next
	}
	return "correct the object"
}

// describe reports a refusal with the text of ADD.
func describe(r *reporter, x *refused) {
	r.add(x.object, x.at, x.next(), "%s", strings.TrimSpace(x.Err.Error()))
}

// describeAllowed is describe at the type or the key that the cluster does not allow.
func describeAllowed(r *reporter, x *refused) {
	allowed := r.options.plugin().AllowedTypes
	for _, t := range slices.Backward(x.network.types()) {
		if len(allowed) > 0 && !slices.Contains(allowed, t.text()) {
			x.at = x.network.place(t)
		}
	}
	if x.at == x.network.config.start {
		for _, p := range x.network.plugins() {
			if t := p.get("allowInUse"); t.isTrue() {
				x.at = x.network.place(t)
			}
		}
	}
	describe(r, x)
}

// describeInterface is describe at the name of the interface. Without a name in the annotation, the planner refuses the
// default name, which may be another one at ADD, because defaultNetworks may shift the index.
func describeInterface(r *reporter, x *refused) {
	x.at = x.element.part("interface", "interfaceRequest")
	describe(r, x)
}

func describeDefaultRoute(r *reporter, x *refused) {
	x.at = x.element.part("default-route")
	describe(r, x)
}

// describeConfig reports a configuration that cannot be read.
func describeConfig(r *reporter, x *refused) {
	n, cause := x.network, errors.Unwrap(x.Err)
	if n == nil {
		describe(r, x)
		return
	}
	if n.list != nil {
		for _, t := range n.types() {
			if cniconf.CheckTypes([]string{t.text()}) != nil {
				n.add(r, t, "write the name of the binary only", "type %q is not the name of a file", t.text())
				return
			}
		}
		n.add(r, n.tree.get("plugins"), "remove what the network does not need", "%v", cause)
		return
	}
	at := errorOffset(cause, n.config.value)
	if t, err := parseTree(n.config.value); err == nil && json.Valid([]byte(n.config.value)) {
		at = invalidMember(t)
	}
	r.add(n.object, n.config.at(at), fixFor(cause, n.config.value), "%v", cause)
}

// describeAmbiguous reports the second of two keys that differ only in case.
func describeAmbiguous(r *reporter, x *refused) {
	x.network.tree.duplicates(func(first, second member) {
		if first.key != second.key {
			x.at = x.network.config.at(second.offset)
		}
	})
	r.add(x.object, x.at, x.next(), "%v", errors.Unwrap(x.Err))
}

func describeNetworkName(r *reporter, x *refused) {
	n := x.network
	if n == nil {
		describe(r, x) // the name is that of the definition, which a pod cannot use
		return
	}
	n.add(r, n.tree.get("name"), "use letters, digits, _ . and - only, and a letter or digit first",
		"CNI does not allow the network name %q", n.list.Name())
}

func describeRecursion(r *reporter, x *refused) {
	for _, t := range x.network.types() {
		if cniconf.IsMultus(t.text()) {
			x.network.add(r, t, "name the plugin that makes the interface",
				"the network delegates to Multus itself")
		}
	}
}

// describeAnnotation reports an annotation that cannot be read, and a network in it that has no name.
func describeAnnotation(r *reporter, x *refused) {
	cause, value, elements := errors.Unwrap(x.Err), x.pod.annotations[x.key], x.pod.elements[x.key]
	switch {
	case x.element == nil && x.key == netsel.DefaultNetwork && len(elements) > 1:
		r.add(x.object, elements[1].at, "name one network", "annotation %s names more than one network", x.key)
	case x.element == nil && strings.TrimSpace(value.value) == "":
		r.add(x.object, x.at, "name one network, or remove the annotation", "annotation %s is empty", x.key)
	case x.element == nil:
		r.add(x.object, errorPlace(value, cause),
			"see the syntax: name, namespace/name, name@interface, or a JSON list of objects", "annotation %s: %v", x.key, cause)
	case x.element.Name == "":
		r.add(x.object, x.at, "name a network, or remove the comma", "annotation %s: element %d has no name", x.key,
			max(x.Attachment, 1))
	default:
		namespace, name, _ := strings.Cut(x.element.Name, "/")
		r.add(x.object, x.element.part("name"), fmt.Sprintf(`write "namespace": %q, "name": %q`, namespace, name),
			"the name %q has a slash", x.element.Name)
	}
}

func describeIsolation(r *reporter, x *refused) {
	r.add(x.object, x.at, x.next(), "a pod of namespace %s may not use network %s", x.pod.namespace, x.element.ref)
}

// describeMissing reports a network that no file defines, if that is probably a mistake.
func describeMissing(r *reporter, x *refused) {
	ref, near := x.element.ref, ""
	for _, other := range slices.SortedFunc(maps.Keys(r.networks),
		func(a, b plan.Ref) int { return strings.Compare(a.String(), b.String()) }) {
		sameName := other.Name == ref.Name
		sameSpace := other.Namespace == ref.Namespace
		if sameName && x.element.Namespace == "" || sameSpace && nearest(ref.Name, []string{other.Name}) != "" {
			near = other.String()
		}
	}
	switch {
	case r.review:
		r.add(x.object, x.at, "create the definition, or correct the annotation", "network definition %s does not exist", ref)
	case near != "":
		r.warn(x.object, x.at, "did you mean "+near+"?", "no file defines network %s", ref)
	case r.options.Complete:
		r.add(x.object, x.at, "create the definition, or correct the annotation", "no file defines network %s", ref)
	}
}

func describeDevice(r *reporter, x *refused) {
	if c := x.element.ResourceClaim; c != nil {
		r.add(x.object, x.at, x.next(), "network %s: resourceClaim %q is not in spec.resourceClaims of the pod",
			x.element.ref, c.Name)
		return
	}
	resource := r.networks[x.element.ref].resource
	r.add(x.object, x.at, x.next(), "network %s needs a device of %s, and none is left: the containers request %d",
		x.element.ref, resource, x.pod.resources[resource])
}
