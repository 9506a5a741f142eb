package inject

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"multus/internal/fault"
	"multus/internal/netsel"
)

// needs are what the networks of a pod need.
type needs struct {
	// devices are how many devices of each resource.
	devices map[string]int64
	// labels are those of the nodes.
	labels map[string]string
}

// needs returns what the networks of the pod need, or nil if that does not matter.
func (r *review) needs() *needs {
	elements := r.elements()
	if r.pod.Spec.HostNetwork {
		if len(elements) > 0 {
			r.warn("the pod has hostNetwork, so its networks are not attached and no device is requested for them")
		}
		return nil
	}
	n := &needs{devices: map[string]int64{}, labels: map[string]string{}}
	for i := range elements {
		r.need(n, &elements[i])
	}
	return n
}

// need adds what one network needs.
func (r *review) need(n *needs, e *netsel.Element) {
	name := fault.Clip(e.Namespace+"/"+e.Name, fault.MaxName)
	annotations, ok := r.definition(e)
	if !ok {
		r.unknown(name)
		return
	}
	if e.ResourceClaim == nil { // else the element selects its device
		for _, key := range r.options.Keys() {
			resource := annotations[key]
			switch {
			case resource == "":
			case !isResource(resource):
				r.deny("network %s: annotation %s of its definition is %q, which is not the name of a resource: write "+
					"DOMAIN/NAME, such as vendor.example/nic", name, key, fault.Clip(resource, fault.MaxName))
			default:
				n.devices[resource]++
			}
		}
	}
	labels, err := parseLabels(annotations[NodeSelector])
	if err != nil {
		r.deny("network %s: annotation %s of its definition: %v: write KEY=VALUE, several pairs with commas", name,
			NodeSelector, err)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if old, ok := n.labels[key]; ok && old != labels[key] {
			r.warn("network %s is on nodes with %s=%s, and another network of the pod on nodes with %s=%s: the former counts",
				name, key, labels[key], key, old)
		}
		n.labels[key] = labels[key]
	}
}

// definition returns the annotations of an element's definition, and reports whether it exists. It is looked up once.
func (r *review) definition(e *netsel.Element) (map[string]string, bool) {
	// The JSON form of the annotation may have any string, and the names may become the path of a request.
	if validation.IsDNS1123Label(e.Namespace) != nil || validation.IsDNS1123Subdomain(e.Name) != nil {
		return nil, false
	}
	name := e.Namespace + "/" + e.Name
	d, asked := r.definitions[name]
	if !asked {
		d.annotations, d.exists = r.look.Definition(e.Namespace, e.Name)
		r.definitions[name] = d
	}
	return d.annotations, d.exists
}

// unknown handles a network that does not exist.
func (r *review) unknown(name string) {
	switch text := "network " + name + " does not exist: correct the annotation, or create the " +
		"NetworkAttachmentDefinition and then the pod"; r.options.UnknownNetwork {
	case Ignore:
	case Deny:
		r.deny("%s", text)
	case Warn, "":
		r.warn("%s", text)
	}
}

// deny denies the pod for a reason. The first reason is kept.
func (r *review) deny(format string, args ...any) {
	if r.denied == "" {
		r.denied = fmt.Sprintf(format, args...)
	}
}

// Keys returns the annotations of definitions with the name of a resource.
func (o *Options) Keys() []string {
	if len(o.ResourceNameKeys) == 0 {
		return []string{netsel.ResourceName}
	}
	return o.ResourceNameKeys
}

// isResource reports whether the API server accepts a name as that of an extended resource.
func isResource(name string) bool {
	return strings.Contains(name, "/") && !strings.HasPrefix(name, "requests.") &&
		len(validation.IsQualifiedName("requests."+name)) == 0
}

// parseLabels parses labels of nodes: pairs KEY=VALUE or KEY, separated by commas.
func parseLabels(value string) (map[string]string, error) {
	out := map[string]string{}
	for pair := range strings.SplitSeq(value, ",") {
		key, v, _ := strings.Cut(pair, "=")
		key, v = strings.TrimSpace(key), strings.TrimSpace(v)
		if key == "" && v == "" {
			continue
		}
		problems := slices.Concat(validation.IsQualifiedName(key), validation.IsValidLabelValue(v))
		if len(problems) > 0 {
			return nil, fmt.Errorf("%q is not a label: %s", fault.Clip(strings.TrimSpace(pair), fault.MaxName), problems[0])
		}
		if out[key] = v; len(out) > maxLabels {
			return nil, fmt.Errorf("it has more than %d labels", maxLabels)
		}
	}
	return out, nil
}

// addNodeSelector adds the labels of nodes to spec.nodeSelector. They replace other values of the pod, because the
// network is not on other nodes.
func (r *review) addNodeSelector(n *needs) {
	set := map[string]string{}
	for key, value := range n.labels {
		old, ok := r.pod.Spec.NodeSelector[key]
		if ok && old == value {
			continue
		}
		if ok {
			r.warn("nodeSelector %s=%s is replaced by %s=%s, where the pod's networks are", key, old, key, value)
		}
		set[key] = value
	}
	r.patch = append(r.patch, setAll("/spec/nodeSelector", r.pod.Spec.NodeSelector, set)...)
}

// addDevices adds the devices that the pod needs and does not request to the requests and limits of one container.
func (r *review) addDevices(n *needs) {
	if len(n.devices) == 0 {
		return
	}
	claimed, all := r.claimed()
	before := map[string]int64{} // not read without HonorResources
	if r.options.HonorResources {
		before = r.injected()
	}
	after := maps.Clone(before)
	missing := map[string]int64{}
	for _, name := range slices.Sorted(maps.Keys(n.devices)) {
		need, has := n.devices[name], r.pod.devices(name)
		switch {
		case slices.Contains(claimed, name):
			r.warn("the networks need %d of %s, which a ResourceClaim of the pod requests: no request is added", need, name)
		case r.options.HonorResources:
			if need > before[name] {
				missing[name], after[name] = need-before[name], need
			}
		case need > has:
			missing[name] = need - has
			if has > 0 {
				r.warn("the containers request %d of %s and the networks need %d: %d added", has, name, need, need-has)
			}
		}
	}
	if len(missing) == 0 {
		return
	}
	if len(r.pod.Spec.ResourceClaims) > len(r.selected()) && (len(claimed) == 0 || !all) {
		r.warn("devices are requested although the pod has ResourceClaims: if these are for its networks, set "+
			"resourceClaim in the element, or the annotation %s: \"false\"", Inject)
	}
	r.request(missing)
	if r.options.HonorResources {
		b, _ := json.Marshal(after) // numbers and strings only
		r.set[Injected] = string(b)
	}
}

// request adds devices to the requests and limits of one container.
func (r *review) request(missing map[string]int64) {
	at, c := r.container()
	set := map[string]string{}
	for name, n := range missing {
		has := c.devices(name)
		set[name] = strconv.FormatInt(max(has, has+n), 10)
	}
	if c.Resources == nil {
		r.patch.add(at+"/resources", map[string]any{"requests": set, "limits": set})
		return
	}
	r.patch = append(r.patch, setAll(at+"/resources/requests", c.Resources.Requests, set)...)
	r.patch = append(r.patch, setAll(at+"/resources/limits", c.Resources.Limits, set)...)
}

// container returns the container that requests the devices, and its path: the one that the pod names, or the first.
func (r *review) container() (string, *container) {
	const first, init = "/spec/containers", "/spec/initContainers"
	name, ok := r.annotation(ResourceContainer)
	for i := range r.pod.Spec.Containers {
		if c := &r.pod.Spec.Containers[i]; ok && c.Name == name {
			return index(first, i), c
		}
	}
	for i := range r.pod.Spec.InitContainers {
		if c := &r.pod.Spec.InitContainers[i]; ok && c.Name == name && c.isSidecar() {
			return index(init, i), c
		}
	}
	c := &r.pod.Spec.Containers[0]
	if ok {
		r.warn("annotation %s: the pod has no container %q that runs as long as the pod: container %q gets the devices",
			ResourceContainer, fault.Clip(name, fault.MaxName), c.Name)
	}
	return index(first, 0), c
}

// injected returns the devices that an earlier call has added to existing requests.
func (r *review) injected() map[string]int64 {
	out := map[string]int64{}
	if json.Unmarshal([]byte(r.pod.Metadata.Annotations[Injected]), &out) != nil || out == nil {
		return map[string]int64{} // not written by this package
	}
	return out
}

// claimed returns the extended resources whose devices ResourceClaims of the pod request. all is false if the pod has
// more claims or DeviceClasses than are looked up. Each is looked up once.
func (r *review) claimed() (names []string, all bool) {
	if r.look.DeviceClasses == nil {
		return nil, true
	}
	claims, classes := map[Claim]bool{}, map[string]bool{}
	for _, c := range r.pod.Spec.ResourceClaims {
		c.Name = "" // several entries may have one claim
		// The name becomes the path of a request.
		name := cmp.Or(c.ResourceClaimName, c.ResourceClaimTemplateName)
		if claims[c] || validation.IsDNS1123Subdomain(name) != nil {
			continue
		}
		if len(claims) == maxClaims {
			return names, false
		}
		claims[c] = true
		for _, class := range r.look.DeviceClasses(r.namespace, c) {
			if classes[class] {
				continue
			}
			if len(classes) == maxClasses {
				return names, false
			}
			classes[class] = true
			if name := r.look.ExtendedResource(class); name != "" {
				names = append(names, name)
			}
		}
	}
	return names, true
}

// selected returns the claims that elements of the pod select.
func (r *review) selected() map[string]bool {
	out := map[string]bool{}
	value, _ := r.annotation(netsel.Networks)
	elements, err := netsel.Parse(value)
	for i := range elements {
		if c := elements[i].ResourceClaim; err == nil && c != nil {
			out[c.Name] = true
		}
	}
	return out
}
