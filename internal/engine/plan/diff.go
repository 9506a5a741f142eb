package plan

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"multus/internal/config"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/netsel"
)

// Owner says who requests an attachment of a record. It decides whether the attachment goes when the pod's annotation
// no longer names its network.
type Owner string

// The owners of attachments. UnknownOwner is that of an attachment which another version of Multus recorded.
const (
	UnknownOwner Owner = ""
	OwnedByPod   Owner = "pod"
	OwnedByNode  Owner = "node"
)

// OwnerOf returns the owner of an attachment with an origin.
func OwnerOf(o Origin) Owner {
	if o == FromAnnotation || o == FromDefaultAnnotation {
		return OwnedByPod
	}
	return OwnedByNode
}

// Attached is one attachment of a running sandbox, as its record describes it.
type Attached struct {
	// Name and IfName are those of the plan of its ADD.
	Name    string
	IfName  string
	Primary bool
	Owner   Owner
	// Resource and Device are set if the kubelet gave the pod a device for this network.
	Resource string
	Device   string
	// RuntimeConfig is what was passed by capability, and CNIArgs what the configuration has in args.cni.
	RuntimeConfig map[string]json.RawMessage
	CNIArgs       map[string]json.RawMessage
	// Size is the size of the configuration in bytes.
	Size int
	// Lost reports whether its interface no longer exists, so that the network status lacks it.
	Lost bool
}

// Changes is what makes the networks of a running sandbox those that its pod requests.
type Changes struct {
	Pod request.Pod
	// Remove has the attachments to delete, as indexes of what Diff was given, in the order of their deletion: the reverse
	// of their order in the sandbox. They are deleted before anything is added.
	Remove []int
	// Add has the attachments to make, in the order of the annotation. None of them depends on one that is not recorded.
	Add []Attachment
	// Refused lists the networks that cannot be added.
	Refused []Unplugged
	// Stale reports whether the pod's network status is not about what it has, or the condition of its readiness gate is
	// outdated, so that they have to be written again.
	Stale bool
	// Ignored lists attachments whose element of the annotation has changed, which changes nothing in a running pod.
	Ignored []Ignored
}

// Unplugged is a network that a running pod requests and cannot get.
type Unplugged struct {
	// Name is namespace/name of the network definition, or a value of defaultNetworks.
	Name string
	// IfName is the requested interface, or "" if the pod leaves the choice to Multus.
	IfName string
	Err    error
}

// Ignored is an attachment that stays as it is although its element of the annotation has changed.
type Ignored struct {
	Name, IfName string
	// Keys are the changed keys of the element.
	Keys []string
}

// String says what stays as it is, and what to do instead.
func (i Ignored) String() string {
	return fmt.Sprintf("interface %s of network %s stays as it is: a change of %s in the annotation has no effect on a "+
		"running pod; remove the element and add it again, or create the pod again", i.IfName, i.Name,
		strings.Join(i.Keys, ", "))
}

// None reports whether there is nothing to do and nothing to say.
func (c *Changes) None() bool {
	return len(c.Remove) == 0 && len(c.Add) == 0 && len(c.Refused) == 0 && len(c.Ignored) == 0 && !c.Stale
}

// Diff compares what a running sandbox has with what its pod requests now, in its annotation and by defaultNetworks.
// req is the ADD that the runtime would send now, without the annotations of the sandbox's creation in its
// configuration.
//
// Elements of the annotation are identified by network and interface, and those without interface by their network, in
// their order. A network that is attached is not looked up: its definition may be gone. A network that cannot be added
// does not keep others from being added. The cluster network is never changed, and the cluster's other networks are
// never removed.
//
// The error is that of a pod or an annotation that cannot be read. Nothing must be changed then.
func (r *Resolver) Diff(ctx context.Context, req *request.Request, conf *config.Plugin, has []Attached) (*Changes,
	error,
) {
	d, elements, err := r.compare(ctx, req, conf, has)
	if err != nil {
		return nil, err
	}
	d.match(elements)
	d.remove()
	d.reserveNames(elements)
	d.addDefaults(ctx)
	for i := range elements {
		if !d.found[i] {
			d.addElement(ctx, &elements[i])
		}
	}
	if err := d.additions(); err != nil {
		return nil, err
	}
	d.changes.Stale = d.isStale() || d.isReady()
	return d.changes, nil
}

// compare returns the state of a new diff, and the elements of the pod's annotation.
func (r *Resolver) compare(ctx context.Context, req *request.Request, conf *config.Plugin, has []Attached) (*diffing,
	[]netsel.Element, error,
) {
	p := &planning{Resolver: r, req: req, conf: conf, running: true}
	var err error
	if p.pod, err = r.pod(ctx, req, conf); err != nil {
		return nil, nil, err
	}
	d := &diffing{
		planning: p, has: has, wanted: make([]bool, len(has)), taken: map[string]string{}, requested: map[string]bool{},
		changes: &Changes{},
	}
	if p.pod != nil {
		d.changes.Pod = p.pod.Identity()
	}
	elements, err := d.elements()
	return d, elements, err
}

// additions completes the attachments to add.
func (d *diffing) additions() error {
	for i := range d.out {
		if err := d.arguments(&d.out[i]); err != nil {
			return err
		}
	}
	d.changes.Add = d.out
	return nil
}

// diffing is the state while one diff is made. The attachments to add are planning.out.
type diffing struct {
	*planning
	// has lists what the sandbox has; planning.attached is what of it stays.
	has []Attached
	// wanted and found have one entry per attachment and per element: whether they belong together.
	wanted, found []bool
	// taken has the network of each interface that stays or was added. requested has the interfaces that stay or that
	// the annotation names.
	taken     map[string]string
	requested map[string]bool
	// prefix is that of the generated names of interfaces.
	prefix  string
	changes *Changes
}

// elements returns the elements of the pod's annotation, each with its namespace.
func (d *diffing) elements() ([]netsel.Element, error) {
	if d.pod == nil {
		return nil, nil
	}
	limit := d.conf.NetworkLimit()
	for i := range d.has {
		if !d.isPods(&d.has[i]) {
			limit--
		}
	}
	elements, err := netsel.ParseMax(d.pod.Annotations[netsel.Networks], max(limit, 0))
	switch {
	case errors.Is(err, netsel.ErrTooMany):
		return nil, fault.TooManyNetworks.New(d.pod.Ref, d.conf.NetworkLimit())
	case err != nil:
		return nil, fault.AnnotationInvalid.Wrap(err, netsel.Networks, d.pod.Ref)
	}
	for i := range elements {
		if elements[i].Name == "" { // an ADD fails then, and here the other elements may be incomplete, too
			return nil, fault.AnnotationInvalid.Wrap(fmt.Errorf("element %d has no name", i+1), netsel.Networks, d.pod.Ref)
		}
		elements[i].Namespace = cmp.Or(elements[i].Namespace, d.pod.Namespace)
	}
	d.found, d.annotation = make([]bool, len(elements)), elements
	return elements, nil
}

// isPods reports whether an attachment goes when the annotation no longer names it. If its owner is not recorded, the
// networks that have no definition and those of defaultNetworks are the cluster's.
func (d *diffing) isPods(a *Attached) bool {
	if a.Primary || a.Owner != UnknownOwner {
		return !a.Primary && a.Owner == OwnedByPod
	}
	namespace, name, defined := strings.Cut(a.Name, "/")
	return defined && (namespace != d.conf.MultusNamespace || !slices.Contains(d.conf.DefaultNetworks, name))
}

// match finds the attachment of each element. Elements with an interface choose first, so that one without does not
// take the attachment of another.
func (d *diffing) match(elements []netsel.Element) {
	for _, named := range []bool{true, false} {
		for n := range elements {
			if e := &elements[n]; (e.Interface != "") == named {
				d.found[n] = d.matchElement(e)
			}
		}
	}
}

func (d *diffing) matchElement(e *netsel.Element) bool {
	for i := range d.has {
		a := &d.has[i]
		if d.wanted[i] || !d.isPods(a) || a.Name != refOf(e).String() || e.Interface != "" && a.IfName != e.Interface {
			continue
		}
		d.wanted[i] = true
		if keys := changedKeys(e, a); len(keys) > 0 {
			d.changes.Ignored = append(d.changes.Ignored, Ignored{a.Name, a.IfName, keys})
		}
		return true
	}
	return false
}

func refOf(e *netsel.Element) Ref { return Ref{Namespace: e.Namespace, Name: e.Name} }

// changedKeys returns the keys of an element whose values are not those with which it was attached. A key of cni-args
// that was removed is not noticed, because the configuration may have it from the definition.
func changedKeys(e *netsel.Element, a *Attached) []string {
	now := map[string]json.RawMessage{}
	if err := Requested(now, e); err != nil {
		return nil // it was decoded from JSON
	}
	var keys []string
	for key, name := range map[string]string{
		"ips": "ips", "mac": "mac", "infinibandGUID": "infiniband-guid", "portMappings": "portMappings",
		"bandwidth": "bandwidth",
	} {
		if !sameJSON(now[key], a.RuntimeConfig[key]) {
			keys = append(keys, name)
		}
	}
	for key, value := range e.CNIArgs {
		if !sameJSON(value, a.CNIArgs[key]) {
			keys = append(keys, "cni-args."+key)
		}
	}
	slices.Sort(keys)
	return keys
}

// sameJSON reports whether two values are equal apart from white space.
func sameJSON(a, b json.RawMessage) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// remove lists the attachments that the pod no longer requests, and those that stay.
func (d *diffing) remove() {
	for i := range slices.Backward(d.has) {
		a := &d.has[i]
		if d.isPods(a) && !d.wanted[i] {
			d.changes.Remove = append(d.changes.Remove, i)
			continue
		}
		d.keep(a)
	}
}

// keep notes an attachment that stays.
func (d *diffing) keep(a *Attached) {
	d.taken[a.IfName] = a.Name
	d.attached = append(d.attached, *a)
}

// kubevirtName matches the interfaces that KubeVirt requests. It takes a pod that has an interface net1 for one of the
// time before these names, and then uses ordinal names for all networks of the pod.
var kubevirtName = regexp.MustCompile(`^pod[0-9a-f]{11}$`)

// reserveNames determines which names of interfaces are not to be generated.
func (d *diffing) reserveNames(elements []netsel.Element) {
	d.prefix = "net"
	note := func(ifName string) {
		d.requested[ifName] = true
		if kubevirtName.MatchString(ifName) {
			d.prefix = "multus"
		}
	}
	for i := range elements {
		note(elements[i].Interface)
	}
	for i := range d.attached {
		note(d.attached[i].IfName)
	}
}

// generatedName returns the lowest free name.
func (d *diffing) generatedName() string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s%d", d.prefix, n)
		if _, taken := d.taken[name]; !taken && !d.requested[name] {
			return name
		}
	}
}

// addDefaults adds the networks of defaultNetworks that the sandbox does not have.
func (d *diffing) addDefaults(ctx context.Context) {
	if d.pod == nil || !defaultNetworksApply(d.pod.Namespace, d.conf) {
		return
	}
	for _, value := range d.conf.DefaultNetworks {
		if d.hasOfNode(Ref{Namespace: d.conf.MultusNamespace, Name: value}.String()) {
			continue
		}
		a, err := d.clusterReference(ctx, value)
		if err != nil {
			d.refuseNetwork(value, "", unavailable(fault.DefaultNetworkUnavailable.Wrap(err, value)))
			continue
		}
		if !d.hasOfNode(a.Name) {
			a.Origin = FromDefaultNetworks
			d.add(a)
		}
	}
}

// hasOfNode reports whether the sandbox has a network that the node's configuration requests.
func (d *diffing) hasOfNode(name string) bool {
	return slices.ContainsFunc(d.attached, func(a Attached) bool { return a.Name == name && !d.isPods(&a) })
}

func (d *diffing) addElement(ctx context.Context, e *netsel.Element) {
	a, err := d.element(ctx, len(d.out), e, FromAnnotation, d.pod.Namespace)
	if err != nil {
		d.refuseNetwork(refOf(e).String(), e.Interface, err)
		return
	}
	d.add(a)
}

// add adds an attachment, unless a rule refuses it.
func (d *diffing) add(a *Attachment) {
	n := len(d.out)
	err := d.attach(a)
	if err == nil {
		err = d.finishAddition(n)
	}
	if err != nil {
		d.out = d.out[:n]
		ifName := ""
		if a.Request != nil {
			ifName = a.Request.Interface
		}
		d.refuseNetwork(a.Name, ifName, err)
		return
	}
	d.taken[d.out[n].IfName] = a.Name
}

// finishAddition checks attachment n and chooses its interface.
func (d *diffing) finishAddition(n int) error {
	if err := d.checkConfigs(n); err != nil {
		return err
	}
	a := &d.out[n]
	a.IfName = d.generatedName()
	if e := a.Request; e != nil {
		if e.DefaultRoute != nil && len(*e.DefaultRoute) > 0 {
			return fault.RunningDefaultRoute.New(a.Name, d.req.Pod())
		}
		a.IfName = cmp.Or(e.Interface, a.IfName)
	}
	if err := checkInterfaceName(a.IfName); err != nil {
		return fault.InterfaceNameInvalid.Wrap(err, a.Name, d.req.Pod(), a.IfName)
	}
	if other, ok := d.taken[a.IfName]; ok {
		return fault.InterfaceNameTaken.New(a.Name, d.req.Pod(), a.IfName, other)
	}
	return nil
}

// isStale reports whether the pod's network status lacks an interface of the pod's networks, or has a network that the
// sandbox does not have. The process that changed them may have been killed before it reported that.
func (d *diffing) isStale() bool {
	if d.pod == nil {
		return false
	}
	var status []struct{ Name, Interface string }
	if json.Unmarshal([]byte(d.pod.Annotations[netsel.Status]), &status) != nil {
		return false // of no ADD that has ended
	}
	for _, s := range status {
		// The interfaces of the node's networks are those of their results.
		if !slices.ContainsFunc(d.has, func(a Attached) bool {
			return a.Name == s.Name && (a.IfName == s.Interface || !d.isPods(&a))
		}) {
			return true
		}
	}
	for i := range d.has {
		a := &d.has[i]
		if d.isPods(a) && !a.Lost && !slices.ContainsFunc(status, func(s struct{ Name, Interface string }) bool {
			return s.Name == a.Name && s.Interface == a.IfName
		}) {
			return true
		}
	}
	return false
}

// isReady reports whether nothing is missing although the condition of the pod's readiness gate says so: the annotation
// no longer names a network that could not be attached. The condition is written with the network status.
func (d *diffing) isReady() bool {
	return d.pod != nil && d.pod.Unready && len(d.out)+len(d.changes.Remove)+len(d.changes.Refused) == 0
}

func (d *diffing) refuseNetwork(name, ifName string, err error) {
	d.changes.Refused = append(d.changes.Refused, Unplugged{name, ifName, err})
}
