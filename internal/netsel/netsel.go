// Package netsel parses and edits the network selection annotations (behaviour C10-C36, NPWG v1.3 §4.1). It has no
// effects, looks nothing up, and contains no policy. It is the only parser of these annotations. Every package above
// may import it.
package netsel

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"

	"multus/internal/rawjson"
)

// Names of the annotations (behaviour C1).
const (
	Networks       = "k8s.v1.cni.cncf.io/networks"
	DefaultNetwork = "v1.multus-cni.io/default-network"
	Status         = "k8s.v1.cni.cncf.io/network-status"
	ResourceName   = "k8s.v1.cni.cncf.io/resourceName"
	// ConfigSource marks static pods: the annotation is present and not "api" (behaviour C1, D18).
	ConfigSource = "kubernetes.io/config.source"
	// ConfigHash of the mirror pod of a static pod is the UID that the kubelet gives the runtime.
	ConfigHash = "kubernetes.io/config.hash"
	// Repair of a pod or a namespace overrides the key repair of the daemon's file (behaviour R16).
	Repair = "v1.multus-cni.io/repair"
)

// MaxInterfaceName is the maximum length of an interface name (IFNAMSIZ without the terminating zero).
const MaxInterfaceName = 15

// PortMapping is one entry of portMappings (behaviour C27).
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Bandwidth is a bandwidth request in bits. All four members are always written (behaviour A34, C28).
type Bandwidth struct {
	IngressRate  int `json:"ingressRate"`
	IngressBurst int `json:"ingressBurst"`
	EgressRate   int `json:"egressRate"`
	EgressBurst  int `json:"egressBurst"`
}

// ResourceClaim names a claim of spec.resourceClaims of the pod, and a request in it. Request may be "" if it does not
// matter.
type ResourceClaim struct {
	Name    string `json:"name"`
	Request string `json:"request,omitempty"`
}

// Element is one network selection element. Namespace is empty if the annotation omits it: its default depends on the
// annotation. Name may be empty (behaviour C15); the lookup of the network then fails.
type Element struct {
	Name           string        `json:"name"`
	Namespace      string        `json:"namespace,omitempty"`
	Interface      string        `json:"interface,omitempty"`
	IPs            []string      `json:"ips,omitempty"`
	MAC            string        `json:"mac,omitempty"`
	InfinibandGUID string        `json:"infiniband-guid,omitempty"`
	PortMappings   []PortMapping `json:"portMappings,omitempty"`
	Bandwidth      *Bandwidth    `json:"bandwidth,omitempty"`
	DeviceID       string        `json:"deviceID,omitempty"`
	// ResourceClaim selects the device of the network (behaviour H14).
	ResourceClaim *ResourceClaim             `json:"resourceClaim,omitempty"`
	CNIArgs       map[string]json.RawMessage `json:"cni-args,omitempty"`
	// DefaultRoute is nil if the key is absent. An empty list has a meaning of its own (behaviour C31, D30).
	DefaultRoute *[]netip.Addr `json:"default-route,omitempty"`
	// IPAMClaim is ipam-claim-reference, for the delegates that read the pod's annotation (behaviour C32). The standard
	// does not allow it together with ips (NPWG v1.3 §4.1.2.1.11). But KubeVirt adds it to elements with addresses, and
	// today's Multus does not read it. So both together are accepted, and lint warns.
	IPAMClaim string `json:"ipam-claim-reference,omitempty"`
}

// ElementError names the element of an annotation that is wrong.
type ElementError struct {
	// Index counts from 0. Text is the element as it was written, or its name.
	Index int
	Text  string
	Err   error
}

// Error returns a message that counts elements from 1.
func (e *ElementError) Error() string {
	return fmt.Sprintf("element %d (%q): %v", e.Index+1, e.Text, e.Err)
}

// Unwrap returns the cause.
func (e *ElementError) Unwrap() error { return e.Err }

// Parse parses the value of a selection annotation. The value is in JSON if it contains one of the characters [ { ",
// else in the comma-separated form (behaviour C10). An empty value has no element (behaviour C3). A blank one has one
// element without a name, as an empty item does (behaviour C15).
func Parse(value string) ([]Element, error) {
	if value == "" {
		return nil, nil
	}
	if isJSON(value) {
		return parseJSON(value)
	}
	items := strings.Split(value, ",")
	out := make([]Element, 0, len(items))
	for i, item := range items {
		e, err := parseShort(item)
		if err != nil {
			return nil, &ElementError{Index: i, Text: strings.TrimSpace(item), Err: err}
		}
		out = append(out, e)
	}
	return out, nil
}

// ErrTooMany is returned by ParseMax for an annotation with more elements than the caller accepts.
var ErrTooMany = errors.New("the annotation has too many elements")

// ParseMax is Parse with a maximum number of elements. It returns ErrTooMany before it allocates any element: an
// annotation of 256 KiB can have 130,000 of them.
func ParseMax(value string, most int) ([]Element, error) {
	if tooMany(value, most) {
		return nil, ErrTooMany
	}
	return Parse(value)
}

// tooMany reports whether an annotation has more than most elements. It returns false for JSON that Parse refuses.
func tooMany(value string, most int) bool {
	commas := strings.Count(value, ",")
	switch {
	case value == "" || most > 0 && commas < most: // in both forms, elements are separated by commas
		return false
	case !isJSON(value):
		return commas >= most
	}
	var list json.RawMessage
	if err := json.NewDecoder(strings.NewReader(value)).Decode(&list); err != nil {
		return false
	}
	count := 0
	_ = rawjson.Array(list, func([]byte) error { // a value that is no array has no elements
		if count++; count > most {
			return ErrTooMany
		}
		return nil
	})
	return count > most
}

// parseShort parses [namespace/]name[@interface] (behaviour C11-C15).
func parseShort(item string) (Element, error) {
	var e Element
	rest := strings.TrimSpace(item)
	if ns, name, ok := strings.Cut(rest, "/"); ok {
		if strings.Contains(name, "/") {
			return e, fmt.Errorf("more than one %q: want [namespace/]name[@interface]", "/")
		}
		e.Namespace, rest = strings.TrimSpace(ns), strings.TrimSpace(name)
	}
	name, ifname, ok := strings.Cut(rest, "@")
	if ok && strings.Contains(ifname, "@") {
		return e, fmt.Errorf("more than one %q: want [namespace/]name[@interface]", "@")
	}
	e.Name, e.Interface = strings.TrimSpace(name), strings.TrimSpace(ifname)
	for _, s := range []string{e.Namespace, e.Name} {
		if s != "" && !isLabel(s) {
			return e, fmt.Errorf("%q must consist of lower case alphanumeric characters or '-', and start and end with an "+
				"alphanumeric character", s)
		}
	}
	if e.Interface != "" && (len(e.Interface) > MaxInterfaceName || strings.ContainsAny(e.Interface, " \t\n\v\f\r/")) {
		return e, fmt.Errorf("interface name %q must have at most %d characters, and no '/' or spaces", e.Interface,
			MaxInterfaceName)
	}
	return e, nil
}

// isLabel reports whether s matches ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$. It does not limit the length (behaviour C13).
func isLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return s != ""
}

// wire is an element in JSON, with aliases and strings that are not validated.
type wire struct {
	Element
	InterfaceRequest string    `json:"interfaceRequest"`
	DefaultRoute     *[]string `json:"default-route"`
}

func parseJSON(value string) ([]Element, error) {
	var list []*wire
	dec := json.NewDecoder(strings.NewReader(value))
	if err := dec.Decode(&list); err != nil {
		return nil, fmt.Errorf("want a JSON array of objects: %w", inJSON(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("want one JSON array of objects, and nothing after it")
	}
	items := make([]json.RawMessage, 0, len(list))
	// The value was decoded before, so there is no error.
	_ = rawjson.Array([]byte(value), func(item []byte) error { items = append(items, item); return nil })
	out := make([]Element, 0, len(list))
	for i, w := range list {
		if w == nil {
			return nil, fmt.Errorf("element %d is null: want an object with a name", i+1)
		}
		// Keys match in any case (behaviour C20). Of two keys that differ only in case, it is not clear which one counts.
		if err := rawjson.Ambiguous(items[i]); err != nil {
			return nil, &ElementError{Index: i, Text: w.Name, Err: err}
		}
		e, err := w.check()
		if err != nil {
			return nil, &ElementError{Index: i, Text: w.Name, Err: err}
		}
		out = append(out, e)
	}
	return out, nil
}

// typeError describes in the terms of JSON which type a value should have. encoding/json names Go types.
type typeError struct{ *json.UnmarshalTypeError }

func (e typeError) Error() string {
	want := map[reflect.Kind]string{
		reflect.String: "a string", reflect.Slice: "an array", reflect.Map: "an object", reflect.Struct: "an object",
		reflect.Bool: "true or false",
	}[e.Type.Kind()]
	if want == "" {
		want = "a whole number"
	}
	at := "an element"
	if e.Field == "" && want == "an array" {
		at = "the annotation"
	}
	if _, key, ok := strings.Cut(e.Field, "Element."); ok || e.Field != "" {
		at = fmt.Sprintf("key %q", cmp.Or(key, e.Field))
	}
	return fmt.Sprintf("%s must be %s, not %s", at, want, jsonKind(e.Value))
}

// Unwrap returns the error of encoding/json, which has the offset.
func (e typeError) Unwrap() error { return e.UnmarshalTypeError }

func jsonKind(value string) string {
	kind, _, _ := strings.Cut(value, " ")
	switch kind {
	case "object", "array":
		return "an " + kind
	case "bool":
		return "true or false"
	}
	return "a " + kind
}

func inJSON(err error) error {
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return typeError{t}
	}
	return err
}

func (w *wire) check() (Element, error) {
	e := w.Element
	if e.Interface == "" {
		e.Interface = w.InterfaceRequest // the older name (behaviour C26)
	}
	for _, ip := range e.IPs {
		if err := checkIP(ip); err != nil {
			return e, err
		}
	}
	if e.MAC != "" {
		if _, err := net.ParseMAC(e.MAC); err != nil {
			return e, fmt.Errorf("mac: %w", err)
		}
	}
	if c := e.ResourceClaim; c != nil && c.Name == "" {
		return e, errors.New("resourceClaim: it has no name: name a claim of spec.resourceClaims")
	}
	if e.InfinibandGUID != "" {
		if _, err := net.ParseMAC(e.InfinibandGUID); err != nil {
			return e, fmt.Errorf("infiniband-guid: %w", err)
		}
	}
	if w.DefaultRoute != nil {
		gws := make([]netip.Addr, 0, len(*w.DefaultRoute))
		for _, s := range *w.DefaultRoute {
			gw, err := netip.ParseAddr(s)
			if err != nil || gw.Zone() != "" {
				return e, fmt.Errorf("default-route: invalid IP address: %q", s)
			}
			gws = append(gws, gw.Unmap())
		}
		e.DefaultRoute = &gws
	}
	return e, nil
}

func checkIP(s string) error {
	if strings.Contains(s, "/") {
		if _, _, err := net.ParseCIDR(s); err != nil {
			return fmt.Errorf("ips: %q is not an address with a prefix: %w", s, err)
		}
		return nil
	}
	if net.ParseIP(s) == nil {
		return fmt.Errorf("ips: %q is not an IP address", s)
	}
	return nil
}
