// Package publish tells the world what was attached: the network-status annotation and the events of a pod,
// made from one Report (behaviour.md D110-D124, O.5). Making them is pure; writing them goes through the
// Cluster seam. It never decides about attachments. The engine and the hosts import it.
package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// Report is what happened to a pod's networks.
type Report struct {
	// Command is the verb that the report is about: ADD or DEL.
	Command string `json:"command"`
	Pod     Pod    `json:"pod"`
	// ContainerID of the sandbox, which names the request.
	ContainerID string `json:"containerID,omitempty"`
	// Netns is the sandbox's network namespace, as the runtime names it.
	Netns string `json:"netns,omitempty"`
	// Attached networks in the order of the plan; those before the failure when ADD failed.
	Attached []Attached `json:"attached,omitempty"`
	// Failure is set when ADD failed: nothing is attached any more, and no status is written. In the report of a DEL it
	// names what was given up.
	Failure *Failure `json:"failure,omitempty"`
	// Timings of the delegates, for metrics.
	Timings []Timing `json:"timings,omitempty"`
	// Time of the ADD or the DEL in nanoseconds since 1970: a report of an ADD is of no use after a later DEL.
	Time int64 `json:"time,omitempty"`
	// Wait asks to answer only after the status was written, or given up for now.
	Wait bool `json:"wait,omitempty"`
	// Needed reports that the ADD fails if the status is lost. It is not sent: a daemon loses none.
	Needed bool `json:"-"`
	// Told is set by a daemon in the file of a report whose events are told, and whose status is not written: the next one
	// does not tell them again.
	Told bool `json:"told,omitempty"`
}

// Timing is how long the plugins of one network took.
type Timing struct {
	Network string  `json:"network"`
	Plugin  string  `json:"plugin"` // the first of a list
	Seconds float64 `json:"seconds"`
	Failed  bool    `json:"failed,omitempty"`
}

// Attached is one network that a pod got.
type Attached struct {
	Name    string `json:"name"`
	IfName  string `json:"ifName"`
	Primary bool   `json:"primary,omitempty"`
	// Result is the delegate's CNI result, in its version.
	Result json.RawMessage `json:"result"`
	// DeviceInfo is the content of the attachment's device-info file (behaviour.md H30-H34), empty for none.
	DeviceInfo json.RawMessage `json:"deviceInfo,omitempty"`
}

// HasStatus tells whether the report changes the pod's network-status; others only tell events and timings.
func (r *Report) HasStatus() bool { return r.Failure == nil && len(r.Attached) > 0 }

// Failure says why an ADD failed.
type Failure struct {
	// Missing is set when a network does not exist, or could not be looked up (behaviour.md O61).
	Missing bool `json:"missing,omitempty"`
	// Tell asks for an event on the pod (key failureEvents; O64 [quirk]: there is none today).
	Tell bool `json:"tell,omitempty"`
	// Message is the same for every try, so it does not name the request.
	Message string `json:"message"`
}

// NetworkStatus is one element of the annotation, members in today's order (behaviour.md D113).
type NetworkStatus struct {
	Name       string          `json:"name"`
	Interface  string          `json:"interface,omitempty"`
	IPs        []string        `json:"ips,omitempty"`
	Mac        string          `json:"mac,omitempty"`
	Mtu        int             `json:"mtu,omitempty"`
	Default    bool            `json:"default,omitempty"`
	DNS        DNS             `json:"dns"`
	DeviceInfo json.RawMessage `json:"device-info,omitempty"`
	Gateway    []string        `json:"gateway,omitempty"`
}

// DNS is the dns member of a status element.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// Status returns the value of the network-status annotation, "" if no network has anything to show
// (behaviour.md D112, D121). Its size is not limited; WriteStatus limits it.
func Status(r *Report) (string, error) {
	var items []string
	err := eachItem(r, true, func(item string) bool {
		items = append(items, item)
		return true
	})
	if err != nil {
		return "", err
	}
	return joinItems(items), nil
}

// eachItem passes the encoded elements of the annotation to yield until that returns false, with or without their dns
// members.
func eachItem(r *Report, withDNS bool, yield func(item string) bool) error {
	if !r.HasStatus() {
		return nil
	}
	for i := range r.Attached {
		a := &r.Attached[i]
		res, err := a.result()
		if err != nil {
			return err
		}
		for _, s := range elements(a, res, r.Netns) {
			if !withDNS {
				s.DNS = DNS{}
			}
			b, err := json.MarshalIndent(s, "", "    ")
			if err != nil {
				return fmt.Errorf("encode status of network %s: %w", a.Name, err)
			}
			if !yield(string(b)) {
				return nil
			}
		}
	}
	return nil
}

func joinItems(items []string) string {
	if len(items) == 0 {
		return ""
	}
	return "[" + strings.Join(items, ",") + "]"
}

func (a *Attached) result() (*current.Result, error) {
	if err := Whole(a.Result); err != nil {
		return nil, fmt.Errorf("read result of network %s: %w", a.Name, err)
	}
	res, err := create.CreateFromBytes(a.Result)
	if err != nil {
		return nil, fmt.Errorf("read result of network %s: %w", a.Name, err)
	}
	out, err := current.NewResultFromResult(res)
	if err != nil {
		return nil, fmt.Errorf("read result of network %s: %w", a.Name, err)
	}
	return out, nil
}

// ErrNull is returned by Whole.
var ErrNull = errors.New("a list of the result has a null")

// Whole refuses a null where an object belongs: the CNI library crashes on it when it converts versions.
func Whole(result []byte) error {
	var lists struct{ Interfaces, IPs, Routes []json.RawMessage }
	if err := json.Unmarshal(result, &lists); err != nil {
		return err
	}
	for _, item := range slices.Concat(lists.Interfaces, lists.IPs, lists.Routes) {
		if len(item) == 0 || string(item) == "null" {
			return ErrNull
		}
	}
	return nil
}

// elements makes the status elements of one attachment: none without an interface (behaviour.md D117), one
// for a single interface with all addresses (D114), else one for each interface in the sandbox whose namespace is netns
// (D115).
func elements(a *Attached, res *current.Result, netns string) []NetworkStatus {
	base := NetworkStatus{Name: a.Name, DNS: dns(&res.DNS), DeviceInfo: a.DeviceInfo, Gateway: gateways(res)}
	switch len(res.Interfaces) {
	case 0:
		return nil
	case 1:
		s := base
		s.Default = a.Primary
		describe(&s, res.Interfaces[0], netns)
		s.IPs = addresses(res.IPs)
		return []NetworkStatus{s}
	}
	var out []NetworkStatus
	place := map[int]int{} // index of the interface in the result -> in out
	for i, itf := range res.Interfaces {
		if !inPod(itf, netns) {
			continue
		}
		s := base
		describe(&s, itf, netns)
		place[i] = len(out)
		out = append(out, s)
	}
	for _, ip := range res.IPs {
		at, ok := len(out)-1, len(out) > 0
		if ip.Interface != nil {
			at, ok = place[*ip.Interface], has(place, *ip.Interface)
		}
		if ok && ip.Address.IP != nil {
			out[at].IPs = append(out[at].IPs, ip.Address.IP.String())
		}
	}
	if d, ok := defaultInterface(res, place); ok && a.Primary {
		out[d].Default = true
	}
	return out
}

func addresses(ips []*current.IPConfig) []string {
	var out []string
	for _, ip := range ips {
		if ip.Address.IP != nil {
			out = append(out, ip.Address.IP.String())
		}
	}
	return out
}

func has(m map[int]int, k int) bool {
	_, ok := m[k]
	return ok
}

// inPod reports whether an interface of a result is in the pod: its sandbox is the value of CNI_NETNS (CNI SPEC 1.1,
// Success). The plugin of AWS reports others with the sandbox "0". Without a namespace to compare with, any sandbox
// will do.
func inPod(itf *current.Interface, netns string) bool {
	if itf.Sandbox == "" || netns == "" {
		return itf.Sandbox != ""
	}
	return runPath(itf.Sandbox) == runPath(netns)
}

// runPath returns one path for the two names that /run has.
func runPath(path string) string {
	return strings.TrimPrefix(filepath.Clean(path), "/var")
}

func describe(s *NetworkStatus, itf *current.Interface, netns string) {
	if !inPod(itf, netns) {
		return
	}
	s.Interface, s.Mac, s.Mtu = itf.Name, itf.Mac, itf.Mtu
}

// defaultInterface is the one that the first address with a gateway belongs to, else the first in the
// sandbox (behaviour.md D116).
func defaultInterface(res *current.Result, place map[int]int) (int, bool) {
	for _, ip := range res.IPs {
		if ip.Gateway != nil && ip.Interface != nil {
			at, ok := place[*ip.Interface]
			return at, ok
		}
	}
	return 0, len(place) > 0
}

// gateways are those of the default routes; a route without one adds nothing (behaviour.md D118 [quirk]).
func gateways(res *current.Result) []string {
	var out []string
	for _, rt := range res.Routes {
		if unspecified(rt) && rt.GW != nil {
			out = append(out, rt.GW.String())
		}
	}
	return out
}

func unspecified(rt *types.Route) bool {
	ones, _ := rt.Dst.Mask.Size()
	return ones == 0 && (rt.Dst.IP == nil || rt.Dst.IP.Equal(net.IPv4zero) || rt.Dst.IP.Equal(net.IPv6zero))
}

func dns(d *types.DNS) DNS {
	return DNS{Nameservers: d.Nameservers, Domain: d.Domain, Search: d.Search, Options: d.Options}
}

// Missing is the report of a definition that a pod needs and that cannot be had (behaviour.md B8).
func Missing(pod Pod, containerID, message string) *Report {
	return &Report{Command: "ADD", Pod: pod, ContainerID: containerID, Failure: &Failure{Missing: true, Message: message}}
}

// Events returns the events of a report (behaviour.md D25, O60, O61; O64).
func Events(r *Report) ([]Event, error) {
	var out []Event
	if f := r.Failure; f != nil && f.Missing {
		out = append(out, Event{Type: Warning, Reason: "NoNetworkFound", Message: f.Message, ContainerID: r.ContainerID})
	}
	if f := r.Failure; f != nil && f.Tell {
		reason := "FailedAddingInterface"
		if r.Command == "DEL" {
			reason = "FailedRemovingInterface"
		}
		out = append(out, Event{Type: Warning, Reason: reason, Message: f.Message, ContainerID: r.ContainerID, Seldom: true})
	}
	for i := range r.Attached {
		a := &r.Attached[i]
		res, err := a.result()
		if err != nil {
			return nil, err
		}
		if len(res.Interfaces) == 0 && len(res.IPs) == 0 {
			continue
		}
		ips := make([]string, len(res.IPs))
		for i, ip := range res.IPs {
			ips[i] = ip.Address.String()
		}
		message := fmt.Sprintf("Add %s [%s]", a.IfName, strings.Join(ips, " "))
		if a.Name != "" {
			message += " from " + a.Name
		}
		out = append(out, Event{Type: Normal, Reason: "AddedInterface", Message: message, ContainerID: r.ContainerID})
	}
	if _, what, err := shortened(r); err == nil && what != "" {
		out = append(out, Event{Type: Warning, Reason: StatusShortened, Message: what, ContainerID: r.ContainerID})
	}
	return out, nil
}
