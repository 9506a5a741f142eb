package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"multus/internal/config"
	"multus/internal/engine/request"
)

// Explanation lists the origin of every value of a plan.
type Explanation struct {
	Pod    Ref     `json:"pod"`
	Values []Value `json:"values"`
	// Attachments explains the attachments of the plan in its order.
	Attachments []Explained `json:"attachments"`
}

// Value is one value and its origin: an annotation, a definition, a file, the runtime, the kubelet, or a default.
type Value struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`
	// Lost is the reason why the value has no effect, or "" if it has one.
	Lost string `json:"lost,omitempty"`
}

// Explained is one attachment of a plan.
type Explained struct {
	Network string  `json:"network"`
	IfName  string  `json:"interface"`
	Values  []Value `json:"values"`
	// Plugins lists the plugins of the chain in their order, with the standard input of each.
	Plugins []Delegate `json:"plugins"`
}

// Delegate is one plugin of a chain. Config is its standard input at ADD without prevResult, which is the result of the
// preceding plugin.
type Delegate struct {
	Type   string          `json:"type"`
	Config json.RawMessage `json:"config"`
}

// Explain explains a plan as the resolver made it. A plan that was sent or recorded no longer has its sources.
func Explain(p *Plan, req *request.Request, conf *config.Plugin) (*Explanation, error) {
	x := &explaining{plan: p, req: req, conf: conf, given: givenKeys(req.Config)}
	attachments, err := x.attachments()
	if err != nil {
		return nil, err
	}
	return &Explanation{
		Pod: Ref{Namespace: p.Pod.Namespace, Name: p.Pod.Name}, Values: x.sandbox(), Attachments: attachments,
	}, nil
}

// ExplainAdded explains what changes add to a running sandbox. Like Explain, it needs the changes as the resolver made
// them.
func ExplainAdded(c *Changes, req *request.Request, conf *config.Plugin) ([]Explained, error) {
	x := &explaining{
		plan: &Plan{Pod: c.Pod, Attachments: c.Add}, req: req, conf: conf, given: givenKeys(req.Config), running: true,
	}
	return x.attachments()
}

// attachments explains all attachments of the plan.
func (x *explaining) attachments() ([]Explained, error) {
	var out []Explained
	for i := range x.plan.Attachments {
		a := &x.plan.Attachments[i]
		stdin, err := a.Config.Stdin(a.RuntimeConfig)
		if err != nil {
			return nil, fmt.Errorf("explain network %s: %w", a.Name, err)
		}
		e := Explained{Network: a.Name, IfName: a.IfName, Values: x.attachment(i)}
		for n, typ := range a.Config.Types() {
			e.Plugins = append(e.Plugins, Delegate{Type: typ, Config: stdin[n]})
		}
		out = append(out, e)
	}
	return out, nil
}

type explaining struct {
	plan *Plan
	req  *request.Request
	conf *config.Plugin
	// given has the keys of the CNI configuration in lower case, because keys match without regard to case (behaviour
	// A2).
	given map[string]bool
	// running reports whether the attachments are added to a running sandbox.
	running bool
}

func givenKeys(conf []byte) map[string]bool {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(conf, &members) // it was decoded before
	out := map[string]bool{}
	for k := range members {
		out[strings.ToLower(k)] = true
	}
	return out
}

// keyed returns the origin of a value that a key of the CNI configuration sets.
func (x *explaining) keyed(key string) string {
	if x.given[strings.ToLower(key)] {
		return "CNI configuration, key " + key
	}
	return "default"
}

// sandbox explains what is common to all attachments.
func (x *explaining) sandbox() []Value {
	p := x.plan
	annotations := "none: no pod is known"
	if p.Pod.Name != "" {
		annotations = "pod object"
		if _, known, _ := x.conf.RuntimeAnnotations(); known {
			annotations = "runtime (" + config.PodAnnotations + ")"
		}
	}
	out := []Value{
		{Name: "annotations", Value: p.Pod.Namespace + "/" + p.Pod.Name, From: annotations},
		{Name: "cniVersion", Value: p.CNIVersion, From: x.keyed("cniVersion")},
		{Name: "state directory", Value: p.Dirs.State, From: x.keyed("cniDir")},
		{Name: "plugin directory", Value: p.Dirs.Binary, From: x.keyed("binDir")},
	}
	if p.Pod.Name == "" {
		out = out[1:]
	}
	return out
}

// attachment explains one attachment.
func (x *explaining) attachment(i int) []Value {
	a := &x.plan.Attachments[i]
	out := []Value{
		{Name: "network", Value: a.Name, From: x.origin(a)},
		{Name: "interface", Value: a.IfName, From: x.interfaceFrom(i)},
		{Name: "configuration", Value: strings.Join(a.Config.Types(), ", "), From: a.Source.String()},
		{Name: "name", Value: a.Config.Name(), From: nameFrom(a)},
		{Name: "cniVersion", Value: a.Config.Version(), From: "configuration"},
	}
	if a.Origin == FromAuxiliaryChain {
		out[2].From = "passthru, and the files of directory " + a.Source.File
	}
	if x.plan.Concurrency > 1 && len(x.plan.Attachments) > 1 {
		out = append(out, Value{
			Name: "stage", Value: strconv.Itoa(a.Stage),
			From: "what it has in common with the networks before it (key attachConcurrency)",
		})
	}
	if a.Source.Unversioned {
		out[4].From = "inherited from the CNI configuration"
	}
	switch c := a.Claim; {
	case c != nil:
		out = append(out, Value{
			Name: "device", Value: a.Device,
			From: "claim " + c.Name + ", device " + c.Driver + "/" + c.Pool + "/" + c.Device,
		})
	case a.Resource != "":
		out = append(out, Value{Name: "device", Value: a.Device, From: "kubelet, which gave the pod a " + a.Resource})
	}
	if a.Request != nil {
		for _, key := range slices.Sorted(maps.Keys(a.Request.CNIArgs)) {
			out = append(out, Value{
				Name: "args.cni." + key, Value: string(a.Request.CNIArgs[key]),
				From: string(a.Origin) + ", key cni-args",
			})
		}
	}
	return slices.Concat(out, x.runtimeConfig(a), x.environment(a), x.routes(i))
}

// origin returns the reference that requests an attachment.
func (x *explaining) origin(a *Attachment) string {
	switch a.Origin {
	case FromClusterNetwork, FromDelegates, FromDefaultNetworks, FromAuxiliaryChain:
		return "CNI configuration, key " + string(a.Origin)
	}
	return string(a.Origin)
}

// String describes the source.
func (s Source) String() string {
	definition := "network-attachment-definition " + s.Definition.String()
	switch {
	case s.Definition != Ref{} && s.File != "":
		return "file " + s.File + ", because spec.config of " + definition + " is empty"
	case s.Definition != Ref{}:
		return definition
	case s.File != "":
		return "file " + s.File
	}
	return "CNI configuration, key " + string(FromDelegates)
}

func (x *explaining) interfaceFrom(i int) string {
	a := &x.plan.Attachments[i]
	switch {
	case a.IfName == "":
		return "none: the request is not about an interface"
	case i == 0 && !x.running:
		return "runtime (CNI_IFNAME)"
	case a.Request != nil && a.Request.Interface != "":
		return string(a.Origin)
	case x.running:
		return "default: the first free name"
	}
	return fmt.Sprintf("default: net and the number in this list, %d", i)
}

func nameFrom(a *Attachment) string {
	switch {
	case !a.Source.Unnamed:
		return "configuration"
	case a.Source.Definition != Ref{}:
		return "default: the name of the network-attachment-definition"
	}
	return "default: the name in the CNI configuration"
}

// runtimeConfig explains what is passed by capability, and which parts of it reach no plugin.
func (x *explaining) runtimeConfig(a *Attachment) []Value {
	caps, _ := a.Config.Capabilities() // libcni has decoded them
	var out []Value
	for _, key := range slices.Sorted(maps.Keys(a.RuntimeConfig)) {
		v := Value{Name: "runtimeConfig." + key, Value: string(a.RuntimeConfig[key]), From: x.offeredBy(a, key)}
		if !caps[key] {
			v.Lost = fmt.Sprintf("no plugin of the network declares the capability %q", key)
		}
		out = append(out, v)
	}
	return out
}

// offeredBy returns the origin of a member of runtimeConfig. The cases are in the order in which the origins override
// each other.
func (x *explaining) offeredBy(a *Attachment, key string) string {
	asked := map[string]json.RawMessage{}
	if a.Request != nil {
		_ = Requested(asked, a.Request) // it was encoded before
	}
	_, inAnnotation := asked[key]
	switch {
	case key == "CNIDeviceInfoFile":
		return "default: the place of device information"
	case key == "deviceID" && a.Device != "":
		return "kubelet"
	case inAnnotation:
		return string(a.Origin)
	}
	return "runtime"
}

// environment explains the members of CNI_ARGS that are not those of the runtime.
func (x *explaining) environment(a *Attachment) []Value {
	var out []Value
	for _, p := range a.Args {
		v := Value{Name: "CNI_ARGS " + p[0], Value: p[1], From: string(a.Origin)}
		switch {
		case p[0] == request.IgnoreUnknown || p[1] == x.req.Args.Get(p[0]):
			continue
		case p[0] == request.PodUID:
			v.From = "pod object"
		}
		out = append(out, v)
	}
	return out
}

// routes explains what happens to default routes.
func (x *explaining) routes(i int) []Value {
	r := x.plan.Attachments[i].Routes
	var out []Value
	for _, gw := range r.Gateways {
		out = append(out, Value{
			Name: "default route", Value: "via " + gw.String(),
			From: string(x.plan.Attachments[i].Origin) + ", key default-route",
		})
	}
	for v6, dropped := range map[bool]bool{false: r.DropIPv4, true: r.DropIPv6} {
		if !dropped {
			continue
		}
		family := "IPv4"
		if v6 {
			family = "IPv6"
		}
		owner := slices.IndexFunc(x.plan.Attachments, func(a Attachment) bool { return a.Routes.Gateway(v6).IsValid() })
		out = append(out, Value{
			Name: "default route", Value: "removed, " + family,
			From: "network " + x.plan.Attachments[owner].Name + " has it",
		})
	}
	slices.SortStableFunc(out, func(a, b Value) int { return strings.Compare(a.Value, b.Value) })
	return out
}
