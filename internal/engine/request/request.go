// Package request represents one call of the container runtime: the CNI environment and standard input, parsed once
// into one value. It is the only parser of CNI_ARGS and makes no decisions. It is used by the engine, the hosts, and
// the protocol between plugin and daemon.
package request

import (
	"bytes"
	"fmt"
	"strings"

	"multus/internal/config"
	"multus/internal/fault"
)

// Request is one call of the plugin. All fields are as the runtime passed them.
type Request struct {
	Command     string
	ContainerID string
	Netns       string
	IfName      string
	// Args are the pairs of CNI_ARGS in their order.
	Args Args
	// Path is CNI_PATH.
	Path string
	// Config is the standard input, byte for byte.
	Config []byte
	// TraceParent is the value of TRACEPARENT (W3C Trace Context), as text. It is not sent to the planner.
	TraceParent string

	// plugin is parsed from source.
	plugin *config.Plugin
	source []byte
}

// Plugin returns the configuration in Config, which it parses once. The configuration must not be changed. Calls must
// not be concurrent until one has succeeded.
func (r *Request) Plugin() (*config.Plugin, error) {
	if r.plugin == nil || !bytes.Equal(r.source, r.Config) { // a copy may have another Config
		p, err := config.ParsePlugin(r.Config)
		if err != nil {
			return nil, err
		}
		r.plugin, r.source = p, r.Config
	}
	return r.plugin, nil
}

// The verbs (CNI SPEC 1.1 §2).
const (
	Add    = "ADD"
	Del    = "DEL"
	Check  = "CHECK"
	GC     = "GC"
	Status = "STATUS"
	// Update is no CNI command: it changes the networks of a running sandbox (behaviour R1).
	Update = "UPDATE"
)

// Pair is a key and its value in CNI_ARGS.
type Pair = [2]string

// Args are the pairs of CNI_ARGS in their order.
type Args []Pair

// Keys of CNI_ARGS that Kubernetes runtimes set (behaviour D8, C60).
const (
	IgnoreUnknown  = "IgnoreUnknown"
	PodNamespace   = "K8S_POD_NAMESPACE"
	PodName        = "K8S_POD_NAME"
	InfraContainer = "K8S_POD_INFRA_CONTAINER_ID"
	PodUID         = "K8S_POD_UID"
)

// Pod identifies a pod object. UID is empty if the runtime passed none.
type Pod struct {
	Namespace string
	Name      string
	UID       string
}

// LogName returns the name of the pod for a log line.
func (p Pod) LogName() string {
	return fault.Clip(p.Namespace, fault.MaxName) + "/" + fault.Clip(p.Name, fault.MaxName)
}

// ParseArgs parses CNI_ARGS: pairs k=v separated by semicolons. A value may contain an equal sign, and an empty item (a
// trailing semicolon) is ignored (behaviour D8, C61; E15: today's Multus refuses both). As in today's Multus, an
// unknown key is accepted only with IgnoreUnknown.
func ParseArgs(s string) (Args, error) {
	var out Args
	var unknown []string
	ignore := false
	for item := range strings.SplitSeq(s, ";") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		k, v, ok := strings.Cut(item, "=")
		if !ok || k == "" {
			return nil, fault.ArgInvalid.New(item)
		}
		out = append(out, Pair{k, v})
		switch k {
		case IgnoreUnknown:
			ignore = v == "1" || strings.EqualFold(v, "true")
		case "IP", "MAC", PodNamespace, PodName, InfraContainer, PodUID:
		default:
			unknown = append(unknown, item)
		}
	}
	if len(unknown) > 0 && !ignore {
		return nil, fault.ArgsUnknown.New(fmt.Sprintf("%q", unknown))
	}
	return out, nil
}

// Get returns the last value of a key, or "" if it is absent.
func (a Args) Get(key string) string {
	v := ""
	for _, p := range a {
		if p[0] == key {
			v = p[1]
		}
	}
	return v
}

// Pod returns the pod that the runtime names. It is empty without Kubernetes.
func (a Args) Pod() Pod {
	return Pod{Namespace: a.Get(PodNamespace), Name: a.Get(PodName), UID: a.Get(PodUID)}
}

// String returns the pairs in the form of CNI_ARGS.
func (a Args) String() string {
	items := make([]string, len(a))
	for i, p := range a {
		items[i] = p[0] + "=" + p[1]
	}
	return strings.Join(items, ";")
}

// Delegate returns the pairs for delegates: first the five known ones, in the order of today's Multus (behaviour C60,
// Q12), then the others that the runtime passed, each key once (behaviour C61, C62; Q34). uid replaces an absent
// K8S_POD_UID.
func (a Args) Delegate(uid string) Args {
	podUID := a.Get(PodUID)
	if podUID == "" {
		podUID = uid
	}
	out := Args{
		{IgnoreUnknown, "true"},
		{PodNamespace, a.Get(PodNamespace)},
		{PodName, a.Get(PodName)},
		{InfraContainer, a.Get(InfraContainer)},
		{PodUID, podUID},
	}
	for _, p := range a {
		if !out.has(p[0]) {
			out = append(out, Pair{p[0], a.Get(p[0])})
		}
	}
	return out
}

// With returns the pairs with key set to value: at the position of its first occurrence, else at the end.
func (a Args) With(key, value string) Args {
	out := make(Args, 0, len(a)+1)
	set := false
	for _, p := range a {
		if p[0] != key {
			out = append(out, p)
		} else if !set {
			out, set = append(out, Pair{key, value}), true
		}
	}
	if !set {
		out = append(out, Pair{key, value})
	}
	return out
}

func (a Args) has(key string) bool {
	for _, p := range a {
		if p[0] == key {
			return true
		}
	}
	return false
}

// Pod returns the pod of a request for messages: "namespace/name", or the container if no pod was named.
func (r *Request) Pod() string {
	ns, name := r.Args.Get(PodNamespace), r.Args.Get(PodName)
	if name == "" {
		return fmt.Sprintf("container %s", r.ContainerID)
	}
	return ns + "/" + name
}
