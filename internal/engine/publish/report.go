// Package publish creates and writes the network status and the events of a pod, from one Report (behaviour
// D110-D124, O.5). Creating them has no effects; they are written through the Cluster interface. The package never
// decides about attachments. It is imported by the engine, the sources, the hosts and the tools.
package publish

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"multus/internal/cniresult"
	"multus/internal/device"
	"multus/internal/engine/request"
)

// Report is what happened to a pod's networks.
type Report struct {
	// Command is the verb that the report is about: ADD, DEL or UPDATE.
	Command string
	Pod     request.Pod
	// ContainerID is the sandbox's container ID. It identifies the request.
	ContainerID string
	// Netns is the sandbox's network namespace, as the runtime names it.
	Netns string
	// Attached lists the attachments in the order of the plan. If ADD failed, it has those before the failure.
	Attached []Attached
	// Claims are the devices of ResourceClaims whose networks a DEL has deleted.
	Claims []device.Claim
	// Failure is set if ADD failed: nothing is attached any more, and no network status is written. In the report of a DEL
	// it names the networks that were given up.
	Failure *Failure
	// Timings has the durations of the delegates, for metrics.
	Timings []Timing
	// Trace has the times of an ADD, for metrics and traces. It is nil in other reports.
	Trace *Trace
	// Unready, if set, makes the condition of the pod's readiness gate False (behaviour R31). In a report with a status it
	// is written with the status, and nil means True. In a report without a status it is written alone, if that changes
	// the condition, and nil leaves the condition as it is. It has no effect on pods that do not list the gate, for which
	// no request is sent.
	Unready *Unready
	// Events are the events of an UPDATE. Those of other reports follow from Attached and Failure.
	Events []Event
	// TraceID is the ID of the trace that the daemon exports, or "". It is not sent.
	TraceID string
	// Time is the time of the ADD or the DEL in nanoseconds since 1970. A report of an ADD is obsolete after a later DEL.
	Time int64
	// Wait requests that Publish returns only after the status was written, or after its writing was postponed.
	Wait bool
	// Needed reports whether the ADD fails if the status is lost. It is not sent, because a daemon loses no status.
	Needed bool
	// EventsWritten is set by a daemon in the file of a report whose events are written and whose status is not. The next
	// daemon then does not write the events again.
	EventsWritten bool
}

// Trace has the times of an ADD, without those of the delegates.
type Trace struct {
	// Parent is the value of TRACEPARENT that the runtime set, or "". It is not validated.
	Parent string
	// Begin is the time of the begin of the ADD in nanoseconds since 1970.
	Begin int64
	// Planned and Recorded are the seconds from the begin until the plan was made, and until it was recorded. They are 0
	// if the ADD failed before.
	Planned, Recorded float64
	// Seconds is the time from the begin until the report.
	Seconds float64
	// Repeated reports whether an earlier report of the ADD had the steps.
	Repeated bool
}

// Timing is how long the plugins of one network took.
type Timing struct {
	Network string
	Plugin  string // the first one of a list
	// Begin is the time from the begin of the operation until the first plugin was called, in seconds.
	Begin   float64
	Seconds float64
	Failed  bool
	// Command is the command of the plugins if it is not that of the report, and "" otherwise.
	Command string
	// Killed is why a plugin of the network was killed; see execute.KilledBy. It is "" if none was.
	Killed string
}

// Attached is one attachment of a pod.
type Attached struct {
	Name    string
	IfName  string
	Primary bool
	// Result is the delegate's CNI result, in the delegate's version.
	Result json.RawMessage
	// DeviceInfo is the content of the attachment's device-info file (behaviour H30-H34). It is empty if the
	// file does not exist.
	DeviceInfo json.RawMessage
	// Claim identifies the attachment's device if it is one of a ResourceClaim.
	Claim *device.Claim
}

// HasStatus reports whether the report changes the pod's network status. Other reports have only events and timings.
func (r *Report) HasStatus() bool { return r.Failure == nil && len(r.Attached) > 0 }

// Failure describes why an ADD failed, or what a DEL has given up.
type Failure struct {
	// Missing is set if a network does not exist or could not be looked up (behaviour O61).
	Missing bool
	// EmitEvent requests an event of the pod (key failureEvents; behaviour O64: today's Multus has no such event).
	EmitEvent bool
	// Message is the same for every retry, so it does not name the request.
	Message string
}

// NetworkStatus is one element of the annotation. Its members are in the order of today's Multus (behaviour D113).
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

// DNS is the member dns of a NetworkStatus.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// Status returns the value of the network-status annotation, or "" if no network has anything to show (behaviour
// D112, D121). Its size is not limited; WriteStatus limits it.
func Status(r *Report) (string, error) {
	results, err := r.results()
	if err != nil {
		return "", err
	}
	var items []string
	err = eachItem(r, results, true, func(item string) bool {
		items = append(items, item)
		return true
	})
	if err != nil {
		return "", err
	}
	return joinItems(items), nil
}

// eachItem calls yield for each encoded element of the annotation until yield returns false. results are those of the
// attachments. withDNS includes the dns members.
func eachItem(r *Report, results []*current.Result, withDNS bool, yield func(item string) bool) error {
	if !r.HasStatus() {
		return nil
	}
	for i, res := range results {
		a := &r.Attached[i]
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

// results returns the results of the attachments.
func (r *Report) results() ([]*current.Result, error) {
	out := make([]*current.Result, len(r.Attached))
	for i := range r.Attached {
		var err error
		if out[i], err = r.Attached[i].result(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (a *Attached) result() (*current.Result, error) {
	res, err := cniresult.Parse(a.Result)
	if err != nil {
		return nil, fmt.Errorf("read result of network %s: %w", a.Name, err)
	}
	return res, nil
}

// elements returns the status elements of one attachment: none if it has no interface (behaviour D117), one with all
// addresses if it has a single interface (behaviour D114), else one for each interface in the sandbox with the
// namespace netns (behaviour D115).
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
	place := map[int]int{} // index of the interface in the result -> index in out
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

// inPod reports whether an interface of a result is in the pod, that is, whether its sandbox is the value of CNI_NETNS
// (CNI SPEC 1.1, Success). The plugin of AWS reports other interfaces with the sandbox "0". If netns is empty, any
// sandbox counts.
func inPod(itf *current.Interface, netns string) bool {
	if itf.Sandbox == "" || netns == "" {
		return itf.Sandbox != ""
	}
	return runPath(itf.Sandbox) == runPath(netns)
}

// runPath returns the same path for the two names of /run.
func runPath(path string) string {
	return strings.TrimPrefix(filepath.Clean(path), "/var")
}

func describe(s *NetworkStatus, itf *current.Interface, netns string) {
	if !inPod(itf, netns) {
		return
	}
	s.Interface, s.Mac, s.Mtu = itf.Name, itf.Mac, itf.Mtu
}

// defaultInterface returns the interface of the first address with a gateway, else the first interface in the sandbox
// (behaviour D116).
func defaultInterface(res *current.Result, place map[int]int) (int, bool) {
	for _, ip := range res.IPs {
		if ip.Gateway != nil && ip.Interface != nil {
			at, ok := place[*ip.Interface]
			return at, ok
		}
	}
	return 0, len(place) > 0
}

// gateways returns the gateways of the default routes and ignores routes without a gateway (behaviour D118).
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

// Missing returns the report of a network definition that a pod needs and that cannot be obtained (behaviour B8).
func Missing(pod request.Pod, containerID, message string) *Report {
	return &Report{Command: "ADD", Pod: pod, ContainerID: containerID, Failure: &Failure{Missing: true, Message: message}}
}

// Events returns the events of a report (behaviour D25, O60, O61; O64).
func Events(r *Report) ([]Event, error) {
	p, err := Prepare(r)
	if err != nil {
		return nil, err
	}
	return p.Events, nil
}

// events returns the events of a report. results are those of the attachments, and leftOut describes what the status
// lacks, or is "".
func events(r *Report, results []*current.Result, leftOut string) (out []Event) {
	if f := r.Failure; f != nil && f.Missing {
		out = append(out, Event{Type: Warning, Reason: "NoNetworkFound", Message: f.Message, ContainerID: r.ContainerID})
	}
	if f := r.Failure; f != nil && f.EmitEvent {
		reason := FailedAddingInterface
		if r.Command == request.Del {
			reason = FailedRemovingInterface
		}
		out = append(out, Event{
			Type: Warning, Reason: reason, Message: f.Message, ContainerID: r.ContainerID, TraceID: r.TraceID, Seldom: true,
		})
	}
	if r.Command == request.Update {
		out, results = append(out, r.Events...), nil // Attached also has what was attached before
	}
	for i, res := range results {
		a := &r.Attached[i]
		if len(res.Interfaces) == 0 && len(res.IPs) == 0 {
			continue
		}
		out = append(out, added(a.Name, a.IfName, res, r.ContainerID))
	}
	if leftOut != "" {
		out = append(out, Event{Type: Warning, Reason: StatusShortened, Message: leftOut, ContainerID: r.ContainerID})
	}
	return out
}

// added returns the event of an attachment (behaviour O60).
func added(name, ifName string, res *current.Result, containerID string) Event {
	ips := make([]string, len(res.IPs))
	for i, ip := range res.IPs {
		ips[i] = ip.Address.String()
	}
	message := fmt.Sprintf("Add %s [%s]", ifName, strings.Join(ips, " "))
	if name != "" {
		message += " from " + name
	}
	return Event{Type: Normal, Reason: AddedInterface, Message: message, ContainerID: containerID}
}

// Added returns the event of an attachment with a delegate's result (behaviour O60).
func Added(name, ifName string, result json.RawMessage, containerID string) (Event, error) {
	a := Attached{Name: name, Result: result}
	res, err := a.result()
	if err != nil {
		return Event{}, err
	}
	return added(name, ifName, res, containerID), nil
}
