// Package inject decides what a pod needs beside its network annotations: requests for the devices of its networks, the
// nodes on which these exist, annotations that the administrator defines by label, and the volume in which programs
// find the annotations. Its input is a pod in JSON, and its output a JSON patch (RFC 6902), warnings, or a denial.
//
// It is pure: it sends no requests, reads no files and has no state. It does not validate the annotations of pods. The
// definitions are returned by the caller. The package internal/admission and the process edges may import it. The rules
// are T1 to T21 of docs/behaviour.md. docs/injection.md compares it with network-resources-injector, whose contract it
// keeps.
package inject

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"multus/internal/config"
	"multus/internal/fault"
	"multus/internal/netsel"
)

// Annotations of pods and definitions.
const (
	// Inject of a pod with the value "false" excludes the pod (behaviour T3).
	Inject = "v1.multus-cni.io/inject"
	// ResourceContainer of a pod names the container that requests the devices (behaviour T9).
	ResourceContainer = "v1.multus-cni.io/resource-container"
	// Injected of a pod has the devices that were added to existing requests, so that they are not added twice
	// (behaviour T12).
	Injected = "v1.multus-cni.io/injected"
	// NodeSelector of a definition has the labels of the nodes with the network (behaviour T15).
	NodeSelector = "k8s.v1.cni.cncf.io/nodeSelector"
	// mirror marks the pod that the kubelet creates for a static pod.
	mirror = "kubernetes.io/config.mirror"
)

// MaxPod is the maximum length of a pod. The API server accepts requests of 3 MiB.
const MaxPod = 3 << 20

const (
	// maxWarnings limits the warnings, which clients print one by one.
	maxWarnings = 8
	// maxWarning limits one warning. The API server shortens all warnings of a request to 4 KiB.
	maxWarning = 400
	// maxLabels limits the labels of nodes in one definition, each of which may be a warning.
	maxLabels = 32
	// maxClaims and maxClasses limit the claims and the DeviceClasses that are looked up for one pod. The API server
	// validates a pod after its admission, so that it may name any number of claims, and a claim may name 256 classes.
	maxClaims  = 16
	maxClasses = 32
)

// Action is what happens to a pod with a network that does not exist.
type Action string

// The actions. The empty string is Warn.
const (
	Ignore Action = "ignore"
	Warn   Action = "warn"
	Deny   Action = "deny"
)

// Options are the settings of the administrator.
type Options struct {
	// ResourceNameKeys are the annotations of a definition with the name of a resource of which a network needs a device.
	// None stands for netsel.ResourceName.
	ResourceNameKeys []string
	// HonorResources adds the devices of networks to existing requests, which are then for other purposes.
	HonorResources bool
	UnknownNetwork Action
	// NoPodInfo leaves out the volume podnetinfo.
	NoPodInfo bool
	// MultusNamespace is the namespace of a default network without one. "" stands for config.DefaultMultusNamespace.
	MultusNamespace string
	// MaxNetworks is the maximum number of elements of an annotation. 0 stands for config.DefaultMaxNetworks.
	MaxNetworks int
	// Injections are annotations for pods that have a label with the value "true", by that label.
	Injections map[string]map[string]string
}

// Claim is an entry of spec.resourceClaims of a pod.
type Claim struct {
	Name                      string `json:"name"`
	ResourceClaimName         string `json:"resourceClaimName"`
	ResourceClaimTemplateName string `json:"resourceClaimTemplateName"`
}

// Lookup has the objects of the cluster.
type Lookup struct {
	// Definition returns the annotations of a network definition, and reports whether it exists. A caller with a cache
	// should send a request for a definition that the cache does not have, because it may just have been created.
	Definition func(namespace, name string) (annotations map[string]string, ok bool)
	// DeviceClasses returns the names of the DeviceClasses that a claim, or the template of a claim, requests. Without it,
	// claims are not looked up.
	DeviceClasses func(namespace string, claim Claim) []string
	// ExtendedResource returns the extendedResourceName of a DeviceClass, or "".
	ExtendedResource func(class string) string
}

// Result is the answer for one pod.
type Result struct {
	// Patch is a JSON patch, or nil if there is nothing to change.
	Patch []byte
	// Warnings are sentences for the client that creates the pod.
	Warnings []string
	// Denied is the reason why the pod must not be created, or "". There is no patch then.
	Denied string
}

// Review returns what has to be injected into a pod. namespace is that of the request, because a pod may be sent
// without one. A pod that has everything gets no patch, so a second call with the patched pod changes nothing. The
// error is about a pod that is not a JSON object, or too large.
func Review(pod []byte, namespace string, look Lookup, o Options) (Result, error) {
	if len(pod) > MaxPod {
		return Result{}, fmt.Errorf("read pod: it has %d bytes, the limit is %d", len(pod), MaxPod)
	}
	r := &review{look: look, options: o, definitions: map[string]definition{}, set: map[string]string{}}
	if err := json.Unmarshal(pod, &r.pod); err != nil {
		return Result{}, fmt.Errorf("read pod: %w", err)
	}
	r.namespace = cmp.Or(r.pod.Metadata.Namespace, namespace)
	if r.isExempt() {
		return r.result()
	}
	r.addAnnotations()
	if n := r.needs(); n != nil && r.denied == "" {
		r.addDevices(n)
		r.addNodeSelector(n)
		if len(n.devices) > 0 && !o.NoPodInfo {
			r.addPodInfo()
		}
	}
	return r.result()
}

// review is the work on one pod.
type review struct {
	pod       pod
	namespace string
	look      Lookup
	options   Options
	// definitions are those that were looked up, by namespace/name.
	definitions map[string]definition
	// set are the annotations that the pod gets.
	set      map[string]string
	patch    patch
	warnings []string
	denied   string
}

// definition is what was found of a network definition.
type definition struct {
	annotations map[string]string
	exists      bool
}

// isExempt reports whether a pod must not be changed: its owner excludes it, the kubelet creates it for a static pod
// that is already running, or it has nothing that could be changed.
func (r *review) isExempt() bool {
	switch v, ok := r.pod.Metadata.Annotations[Inject]; {
	case v == "false":
		return true
	case ok && v != "true":
		r.warn(`annotation %s is %q, not "true" or "false": it has no effect`, Inject, fault.Clip(v, fault.MaxName))
	}
	_, isMirror := r.pod.Metadata.Annotations[mirror]
	return isMirror || len(r.pod.Spec.Containers) == 0
}

// addAnnotations adds those that the administrator defines by label. Annotations of the pod itself have priority.
func (r *review) addAnnotations() {
	for _, label := range slices.Sorted(maps.Keys(r.options.Injections)) {
		if !strings.EqualFold(r.pod.Metadata.Labels[label], "true") {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(r.options.Injections[label])) {
			value := r.options.Injections[label][key]
			switch old, ok := r.annotation(key); {
			case !ok:
				r.set[key] = value
			case old != value:
				r.warn("label %s: annotation %s has another value, which is kept", label, key)
			}
		}
	}
}

// annotation returns an annotation that the pod has, or that it gets.
func (r *review) annotation(key string) (string, bool) {
	if v, ok := r.pod.Metadata.Annotations[key]; ok {
		return v, true
	}
	v, ok := r.set[key]
	return v, ok
}

// warn adds a warning, formatted as by fmt.Sprintf.
func (r *review) warn(format string, args ...any) {
	w := fault.Clip(fmt.Sprintf(format, args...), maxWarning)
	if !slices.Contains(r.warnings, w) {
		r.warnings = append(r.warnings, w)
	}
}

// result returns the answer.
func (r *review) result() (Result, error) {
	out := Result{Warnings: r.warnings, Denied: r.denied}
	if more := len(r.warnings) - maxWarnings; more > 0 {
		out.Warnings = append(r.warnings[:maxWarnings:maxWarnings], fmt.Sprintf("and %d more warnings", more))
	}
	if r.denied != "" {
		return out, nil
	}
	all := slices.Concat(setAll("/metadata/annotations", r.pod.Metadata.Annotations, r.set), r.patch)
	if len(all) == 0 {
		return out, nil
	}
	var err error
	if out.Patch, err = json.Marshal(all); err != nil {
		return Result{}, fmt.Errorf("encode patch: %w", err)
	}
	return out, nil
}

// elements returns those of the annotations networks and default-network of the pod, with their namespaces.
func (r *review) elements() []netsel.Element {
	var out []netsel.Element
	for _, a := range []struct{ key, namespace string }{
		{netsel.DefaultNetwork, cmp.Or(r.options.MultusNamespace, config.DefaultMultusNamespace)},
		{netsel.Networks, r.namespace},
	} {
		value, _ := r.annotation(a.key)
		elements, err := netsel.ParseMax(value, cmp.Or(r.options.MaxNetworks, config.DefaultMaxNetworks))
		if err == nil && a.key == netsel.DefaultNetwork && len(elements) > 1 {
			err = fmt.Errorf("it has %d elements, not one", len(elements))
		}
		if err != nil {
			r.warn("annotation %s cannot be read, so no device is requested for it: %v", a.key, err)
			continue
		}
		for i := range elements {
			elements[i].Namespace = cmp.Or(elements[i].Namespace, a.namespace)
		}
		out = append(out, elements...)
	}
	return out
}
