package lint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
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
const standIn = `{"cniVersion":"1.0.0","name":"stand-in","type":"macvlan"}`

// source has the objects of one plan.
type source struct {
	pod     *plan.Pod
	network func(plan.Ref) (*plan.Definition, error)
	devices map[string][]string
}

// Pod returns the pod of the plan.
func (s *source) Pod(context.Context, plan.Ref) (*plan.Pod, error) { return s.pod, nil }

// Network returns a definition.
func (s *source) Network(_ context.Context, ref plan.Ref) (*plan.Definition, error) {
	return s.network(ref)
}

// Devices returns the devices that the kubelet would give to the pod.
func (s *source) Devices(context.Context, plan.Ref, string) (map[string][]string, error) {
	return s.devices, nil
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

// refused is what ADD refuses, and its position: an element or a whole annotation of a pod, or a definition.
type refused struct {
	plan.Refusal
	object
	at mark
	// network is the definition. It is nil if a pod is refused.
	network *network
	pod     *pod
	// element is nil if the annotation is refused as a whole.
	element *selected
}

// plan resolves every definition and every pod as ADD does.
func (l *linter) plan() {
	conf := l.options.plugin()
	for _, n := range l.order {
		if n.given() {
			l.refused = append(l.refused, n.plan(conf)...)
		}
	}
	for _, p := range l.pods {
		l.refused = append(l.refused, p.plan(conf)...)
	}
}

// plan resolves a pod that requests the definition alone.
func (n *network) plan(conf *config.Plugin) []refused {
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
	var out []refused
	for _, r := range refusals {
		out = append(out, refused{Refusal: r, object: n.object, at: n.config.start, network: n})
	}
	return out
}

// plan resolves the pod. Definitions that are refused by themselves are replaced, so that they are not reported for
// each pod.
func (p *pod) plan(conf *config.Plugin) []refused {
	annotations := map[string]string{}
	for key, value := range p.annotations {
		annotations[key] = value.value
	}
	if p.hostNetwork {
		delete(annotations, netsel.Networks)
	}
	s := source{
		pod:     &plan.Pod{Ref: plan.Ref{Namespace: p.namespace, Name: "any"}, Annotations: annotations},
		devices: map[string][]string{},
		network: func(ref plan.Ref) (*plan.Definition, error) {
			n, ok := p.networks[ref]
			switch {
			case !ok:
				return nil, plan.ErrNotFound
			case !n.usable:
				return &plan.Definition{Ref: ref, Config: standIn, ResourceName: n.resource.value}, nil
			}
			return &plan.Definition{Ref: ref, Config: n.config.value, ResourceName: n.resource.value}, nil
		},
	}
	for _, n := range p.networks {
		if r := n.resource.value; !p.hasContainers || p.resources[r] {
			s.devices[r] = slices.Repeat([]string{"0000:00:00.0"}, conf.NetworkLimit())
		}
	}
	attachments, refusals := s.check(conf)
	p.attachments = attachments
	var out []refused
	for _, r := range refusals {
		x := refused{Refusal: r, object: p.object, pod: p, at: p.annotations[p.key(r.Origin)].start}
		if e := p.element(r); e != nil {
			x.element, x.at = e, e.at
		}
		out = append(out, x)
	}
	return out
}

// key returns the key of an annotation.
func (*pod) key(o plan.Origin) string {
	if o == plan.FromDefaultAnnotation {
		return netsel.DefaultNetwork
	}
	return netsel.Networks
}

// element returns the element that is refused, or nil for the whole annotation.
func (p *pod) element(r plan.Refusal) *selected {
	switch {
	case r.Attachment < 0:
		return nil
	case r.Origin == plan.FromDefaultAnnotation:
		return &p.replacement[0]
	}
	return &p.selected[r.Attachment-1] // the first attachment is the cluster network
}

// report adds a finding at the position of what is refused.
func (x *refused) report(at mark, fix, format string, args ...any) {
	x.add(at, Error, string(x.Rule), fix, format, args...)
}

// describe reports a refusal.
func (x *refused) describe() {
	switch {
	case x.network != nil && x.Rule == plan.RuleConfig:
		x.badConfig()
	case x.network != nil && x.Rule == plan.RuleAmbiguous:
		x.ambiguous()
	case x.network != nil && x.Rule == plan.RuleNetworkName:
		x.networkName()
	case x.network != nil && x.Rule == plan.RuleRecursion:
		x.recursion()
	case x.Rule == plan.RuleVersion: // the rule cni-version of lint refuses more
	case x.Rule == plan.RuleAnnotation:
		x.badAnnotation()
	case x.Rule == plan.RuleIsolation:
		x.report(x.at, x.next(), "a pod of namespace %s may not use network %s", x.pod.namespace, x.element.ref)
	case x.Rule == plan.RuleMissing:
		x.missing()
	case x.Rule == plan.RuleInterfaceName:
		x.report(x.element.interfaceAt(), x.next(), "network %s: the kernel does not accept the interface name %q",
			x.element.Name, x.pod.attachments[x.Attachment].IfName)
	case x.Rule == plan.RuleDuplicateName:
		x.duplicateName()
	case x.Rule == plan.RuleDefaultRoute:
		x.defaultRoute()
	case x.Rule == plan.RuleDevice:
		r := x.pod.networks[x.element.ref].resource.value
		x.report(x.at, fmt.Sprintf("request %s in resources.limits of a container", r),
			"network %s needs a device of %s, and no container requests one", x.element.ref, r)
	default:
		x.report(x.at, x.next(), "%v", x.Err)
	}
}

// next returns the fix that ADD suggests.
func (x *refused) next() string {
	if f, ok := errors.AsType[*fault.Error](x.Err); ok {
		return f.Next
	}
	return "correct the object"
}

// badConfig reports a configuration that cannot be read.
func (x *refused) badConfig() {
	cause, value := errors.Unwrap(x.Err), x.network.config
	if x.network.list != nil {
		for _, t := range x.network.types() {
			if cniconf.CheckTypes([]string{t.text()}) != nil {
				x.report(value.at(t.offset), "write the name of the binary only", "type %q is not the name of a file", t.text())
				return
			}
		}
		x.report(value.at(x.network.tree.get("plugins").offsetOr(0)), "remove plugins that the network does not need", "%v",
			cause)
		return
	}
	at := errorOffset(cause, value.value)
	if t, err := parseTree(value.value); err == nil && json.Valid([]byte(value.value)) {
		at = invalidMember(t)
	}
	x.report(value.at(at), fixFor(cause, value.value), "%v", cause)
}

// ambiguous reports two keys that differ only in case, at the second one.
func (x *refused) ambiguous() {
	at := x.at
	x.network.tree.duplicates(func(first, second member) {
		if first.key != second.key {
			at = x.network.config.at(second.offset)
		}
	})
	x.report(at, x.next(), "%v", errors.Unwrap(x.Err))
}

func (x *refused) networkName() {
	x.report(x.network.config.at(x.network.tree.get("name").offset),
		"use letters, digits, _ . and - only, and a letter or digit first", "CNI does not allow the network name %q",
		x.network.list.Name())
}

func (x *refused) recursion() {
	for _, t := range x.network.types() {
		if cniconf.IsMultus(t.text()) {
			x.report(x.network.config.at(t.offset), "name the plugin that makes the interface",
				"the network delegates to Multus itself")
		}
	}
}

// badAnnotation reports an annotation that cannot be read, and a network in it that has no name.
func (x *refused) badAnnotation() {
	key, cause := x.pod.key(x.Origin), errors.Unwrap(x.Err)
	value := x.pod.annotations[key]
	switch {
	case x.element == nil && len(x.pod.replacement) > 1 && x.Origin == plan.FromDefaultAnnotation:
		x.report(x.pod.replacement[1].at, "name one network", "annotation %s names more than one network", key)
	case x.element == nil && strings.TrimSpace(value.value) == "":
		x.report(x.at, "name one network, or remove the annotation", "annotation %s is empty", key)
	case x.element == nil:
		x.report(errorPlace(value, cause),
			"see the syntax: name, namespace/name, name@interface, or a JSON list of objects", "annotation %s: %v", key, cause)
	case x.element.Name == "":
		x.report(x.at, "name a network, or remove the comma", "annotation %s: element %d has no name", key,
			max(x.Attachment, 1))
	default:
		namespace, name, _ := strings.Cut(x.element.Name, "/")
		x.report(x.element.part("name"), fmt.Sprintf(`write "namespace": %q, "name": %q`, namespace, name),
			"the name %q has a slash", x.element.Name)
	}
}

// missing reports a network that no file defines, if that is probably a mistake.
func (x *refused) missing() {
	ref, near := x.element.ref, ""
	for _, other := range slices.SortedFunc(maps.Keys(x.networks),
		func(a, b plan.Ref) int { return strings.Compare(a.String(), b.String()) }) {
		sameName := other.Name == ref.Name
		sameSpace := other.Namespace == ref.Namespace
		if sameName && x.element.Namespace == "" || sameSpace && nearest(ref.Name, []string{other.Name}) != "" {
			near = other.String()
		}
	}
	switch {
	case near != "":
		x.add(x.at, Warning, string(x.Rule), "did you mean "+near+"?", "no file defines network %s", ref)
	case x.options.Complete:
		x.report(x.at, "create the definition, or correct the annotation", "no file defines network %s", ref)
	}
}

// duplicateName reports an interface name that an earlier network has. Without a name in the annotation, it is the
// default name, which may be another one at ADD, because defaultNetworks may shift the index.
func (x *refused) duplicateName() {
	name := x.pod.attachments[x.Attachment].IfName
	first := slices.IndexFunc(x.pod.attachments, func(a plan.Attachment) bool { return a.IfName == name })
	other := "the cluster network"
	if first > 0 {
		other = "network " + x.pod.selected[first-1].Name
	}
	x.report(x.element.interfaceAt(), "give each network another interface", "network %s: interface %s is that of %s",
		x.element.Name, name, other)
}

func (x *refused) defaultRoute() {
	owner := x.element.Name
	for _, gw := range *x.element.DefaultRoute {
		i := slices.IndexFunc(x.pod.attachments, func(a plan.Attachment) bool { return a.Routes.Gateway(gw.Is6()).IsValid() })
		if i != x.Attachment {
			owner = x.pod.attachments[i].Request.Name
		}
	}
	x.report(x.element.part("default-route"), "leave one gateway of each family, on one network",
		"network %s asks for one more default route; network %s has one", x.element.Name, owner)
}
