package wirev1

import (
	"encoding/json"

	"multus/internal/device"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// Report is the body of POST PathReport, and the content of a file in ReportDir: what happened to the networks of a
// pod. The plugin and the daemon write it, and the daemon reads it. A file may have been written by an earlier or a
// later plugin or daemon.
type Report struct {
	// Command is the verb that the report is about: ADD or DEL, or UPDATE for a running sandbox that was changed.
	Command string `json:"command"`
	Pod     Pod    `json:"pod"`
	// ContainerID and Netns are those of the sandbox. Netns distinguishes the interfaces of the pod in a result. A
	// key is absent if its value is unknown.
	ContainerID string `json:"containerID,omitempty"`
	Netns       string `json:"netns,omitempty"`
	// Attached lists the attachments in the order of the plan. If the key is absent, no network status is written.
	Attached []Attached `json:"attached,omitempty"`
	// Claims is in the report of a DEL: the devices of ResourceClaims whose networks were deleted.
	Claims []Claim `json:"claims,omitempty"`
	// Failure is present if ADD failed, or if DEL gave up networks. No network status is written then.
	Failure *Failure `json:"failure,omitempty"`
	// Timings has the durations of the delegates, for metrics.
	Timings []Timing `json:"timings,omitempty"`
	// Trace has the times of an ADD. The key is absent in other reports.
	Trace *Trace `json:"trace,omitempty"`
	// Unready makes the condition of the pod's readiness gate False. If the key is absent, a report with attachments makes
	// it True, and another one leaves it.
	Unready *Unready `json:"unready,omitempty"`
	// Events has the events of an UPDATE, to be written as they are.
	Events []Event `json:"events,omitempty"`
	// Time is the time of the ADD or the DEL in nanoseconds since 1970. It orders the reports of one pod.
	Time int64 `json:"time,omitempty"`
	// Wait requests an answer only after the first attempt to write the network status. It has no meaning in a file.
	Wait bool `json:"wait,omitempty"`
	// EventsWritten is only in files: a daemon has written the events of the report, and not its network status.
	EventsWritten bool `json:"told,omitempty"`
}

// Pod identifies the pod object of a report. The UID is absent if the runtime did not pass it.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
}

// Attached is one attachment of a report.
type Attached struct {
	Name    string `json:"name"`
	IfName  string `json:"ifName"`
	Primary bool   `json:"primary,omitempty"`
	// Result is the delegate's CNI result, in the delegate's version.
	Result json.RawMessage `json:"result"`
	// DeviceInfo is the content of the attachment's device-info file. The key is absent if the attachment has no such
	// file.
	DeviceInfo json.RawMessage `json:"deviceInfo,omitempty"`
	// Claim identifies the attachment's device if it is one of a ResourceClaim.
	Claim *Claim `json:"claim,omitempty"`
}

// Failure describes why an ADD failed, or what a DEL gave up.
type Failure struct {
	// Missing is set if a network does not exist or could not be looked up.
	Missing bool `json:"missing,omitempty"`
	// EmitEvent requests an event of the pod about the failure.
	EmitEvent bool `json:"tell,omitempty"`
	// Message is the same for every retry, so it does not name the request.
	Message string `json:"message"`
}

// Unready is why the condition of the pod's readiness gate is False.
type Unready struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Event is an event of the pod.
type Event struct {
	// Type is Normal or Warning.
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Seldom limits equal events of one pod to one a minute.
	Seldom bool `json:"seldom,omitempty"`
	// ContainerID is that of the sandbox. The key is absent if the event does not depend on it.
	ContainerID string `json:"containerID,omitempty"`
}

// Timing is how long the plugins of one network took.
type Timing struct {
	Network string `json:"network"`
	// Plugin is the type of the first plugin.
	Plugin string `json:"plugin"`
	// Begin is the time until the first plugin was called, in seconds since the begin of the operation. The key is absent
	// if it is unknown.
	Begin   float64 `json:"begin,omitempty"`
	Seconds float64 `json:"seconds"`
	Failed  bool    `json:"failed,omitempty"`
	// Command is that of the plugins. The key is absent if it is that of the report.
	Command string `json:"command,omitempty"`
	// Killed is timeout, cancelled or signal if a plugin was killed. The key is absent if none was.
	Killed string `json:"killed,omitempty"`
}

// MaxTraceParent limits the length of Trace.Parent. A TRACEPARENT of version 00 has 55 characters.
const MaxTraceParent = 512

// Trace has the times of an ADD, without those of the delegates.
type Trace struct {
	// Parent is the value of the environment variable TRACEPARENT (W3C Trace Context) that the runtime set. The key is
	// absent if the runtime set none.
	Parent string `json:"parent,omitempty"`
	// Begin is the begin of the ADD in nanoseconds since 1970.
	Begin int64 `json:"begin"`
	// Planned and Recorded are the seconds since the begin until the plan was made, and until it was recorded. They are
	// absent if the ADD failed before.
	Planned  float64 `json:"planned,omitempty"`
	Recorded float64 `json:"recorded,omitempty"`
	// Seconds is the time from the begin until the report.
	Seconds float64 `json:"seconds"`
	// Repeated is set if an earlier report of the ADD had the steps.
	Repeated bool `json:"repeated,omitempty"`
}

// FromReport returns the message for a report. Both share the parts that they refer to.
func FromReport(r *publish.Report) *Report {
	m := &Report{
		Command: r.Command, Pod: Pod(r.Pod), ContainerID: r.ContainerID, Netns: r.Netns,
		Attached: make([]Attached, len(r.Attached)), Failure: (*Failure)(r.Failure),
		Timings: make([]Timing, len(r.Timings)), Time: r.Time, Wait: r.Wait, EventsWritten: r.EventsWritten,
		Unready: (*Unready)(r.Unready), Trace: (*Trace)(r.Trace),
	}
	for i := range r.Attached {
		m.Attached[i] = fromAttached(&r.Attached[i])
	}
	for i := range r.Claims {
		m.Claims = append(m.Claims, Claim(r.Claims[i]))
	}
	for i := range r.Timings {
		m.Timings[i] = Timing(r.Timings[i])
	}
	for _, e := range r.Events {
		m.Events = append(m.Events, Event{e.Type, e.Reason, e.Message, e.Seldom, e.ContainerID})
	}
	return m
}

// ToReport returns the report of the message. Both share the parts that they refer to. The message is untrusted:
// results and device information are checked where they are used.
func (m *Report) ToReport() *publish.Report {
	r := &publish.Report{
		Command: m.Command, Pod: request.Pod(m.Pod), ContainerID: m.ContainerID, Netns: m.Netns,
		Attached: make([]publish.Attached, len(m.Attached)), Failure: (*publish.Failure)(m.Failure),
		Timings: make([]publish.Timing, len(m.Timings)), Time: m.Time, Wait: m.Wait, EventsWritten: m.EventsWritten,
		Unready: (*publish.Unready)(m.Unready), Trace: m.Trace.toTrace(),
	}
	for i := range m.Attached {
		r.Attached[i] = m.Attached[i].toAttached()
	}
	for i := range m.Claims {
		r.Claims = append(r.Claims, device.Claim(m.Claims[i]))
	}
	for i := range m.Timings {
		r.Timings[i] = publish.Timing(m.Timings[i])
	}
	for _, e := range m.Events {
		r.Events = append(r.Events, publish.Event{
			Type: e.Type, Reason: e.Reason, Message: e.Message, Seldom: e.Seldom, ContainerID: e.ContainerID,
		})
	}
	return r
}

func fromAttached(a *publish.Attached) Attached {
	return Attached{
		Name: a.Name, IfName: a.IfName, Primary: a.Primary, Result: a.Result, DeviceInfo: a.DeviceInfo,
		Claim: (*Claim)(a.Claim),
	}
}

func (m *Attached) toAttached() publish.Attached {
	return publish.Attached{
		Name: m.Name, IfName: m.IfName, Primary: m.Primary, Result: m.Result, DeviceInfo: m.DeviceInfo,
		Claim: (*device.Claim)(m.Claim),
	}
}

// toTrace returns the times of the message, without a Parent that is too long.
func (m *Trace) toTrace() *publish.Trace {
	if m != nil && len(m.Parent) > MaxTraceParent {
		bounded := publish.Trace(*m)
		bounded.Parent = ""
		return &bounded
	}
	return (*publish.Trace)(m)
}
