package wirev1

import (
	"encoding/json"
	"net/netip"

	"multus/internal/cniconf"
	"multus/internal/device"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
)

// Plan is the answer to POST PathPlan: what the plugin does for one sandbox. The daemon writes it, and the plugin reads
// it and checks it against its request (plan.Plan.Validate) before it uses it.
type Plan struct {
	// CNIVersion is the version in which the plugin returns the result.
	CNIVersion string `json:"cniVersion"`
	// ContainerID and Netns are those of the request.
	ContainerID string `json:"containerID"`
	Netns       string `json:"netns"`
	// Pod is the pod of the sandbox. It has no keys if the runtime named no pod.
	Pod PlannedPod `json:"pod"`
	// Dirs are the directories that the plugin uses on the host.
	Dirs Dirs `json:"dirs"`
	// Attachments is in the order in which they are added. The first one is the cluster network.
	Attachments []Attachment `json:"attachments"`
	// Concurrency is how many attachments of one stage are made at the same time. If the key is absent, they are made one
	// after another.
	Concurrency int `json:"concurrency,omitempty"`
	// StatusWait reports whether the ADD of a pod with networks waits until its network status is written. If the key is
	// absent, the plugin leaves the report in a file and does not wait.
	StatusWait bool `json:"statusWait,omitempty"`
	// Work reports whether there is work for a runner, as in a StatusResult. It is not a part of the plan.
	Work bool `json:"work,omitempty"`
}

// PlannedPod is the pod object of a plan. UID is the UID in the API, which for a static pod is not the one that the
// runtime passed. The key of an unknown UID is absent.
type PlannedPod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Dirs are absolute paths on the host: the state directory (cniDir) and the additional plugin directory (binDir). An
// empty path means the plugin's default.
type Dirs struct {
	State  string `json:"state"`
	Binary string `json:"binary"`
}

// Attachment is one network of a plan. The key hostDevice is reserved: earlier plugins decode it, and no daemon has
// sent it, because the device is chosen on the node.
type Attachment struct {
	// Name is shown to users: namespace/name of the network definition, else the name in the configuration.
	Name string `json:"name"`
	// Origin is the reference that the attachment comes from, one of plan's origins. Readers must accept an unknown one.
	Origin string `json:"origin"`
	// Primary marks the cluster network.
	Primary bool   `json:"primary,omitempty"`
	IfName  string `json:"ifName"`
	// Config is the configuration for the delegate, byte for byte: an object, or a string with the object if an encoder
	// would change a byte of it (cniconf.List.MarshalJSON).
	Config *cniconf.List `json:"config"`
	// Args are the delegate's CNI_ARGS, as in Request.
	Args [][2]string `json:"args"`
	// RuntimeConfig has the values for plugins that declare the capability. They are passed on as they are.
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig,omitempty"`
	// Request is the element of the pod's annotation, with the keys of the NPWG standard, which netsel implements. The
	// key is absent if the pod did not request the network.
	Request *netsel.Element `json:"request,omitempty"`
	Routes  Routes          `json:"routes"`
	// Resource and Device are the resource name and the ID of the device that the kubelet gave to the pod for this
	// network. Both keys are absent if it gave no device.
	Resource string `json:"resource,omitempty"`
	Device   string `json:"device,omitempty"`
	// Claim identifies the device if it is one of a ResourceClaim. The key is absent if it is not.
	Claim *Claim `json:"claim,omitempty"`
	// DeviceInfo is the path of the attachment's device-info file. The key is absent if the attachment has no such file.
	DeviceInfo string `json:"deviceInfo,omitempty"`
	// Stage is the stage of a plan with Concurrency. If the key is absent, it is stage 0.
	Stage int `json:"stage,omitempty"`
	// Inherited reports whether the configuration has no cniVersion of its own, so that the plugin has to choose one.
	Inherited bool `json:"inherited,omitempty"`
}

// Claim identifies a device of a ResourceClaim, and the claim. The UID of the claim is absent if it is unknown, and the
// share if the device is not shared by claims.
type Claim struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
	Driver    string `json:"driver"`
	Pool      string `json:"pool"`
	Device    string `json:"device"`
	ShareID   string `json:"shareID,omitempty"`
}

// Routes is what happens to default routes after an attachment was added. Missing keys leave the routes as the delegate
// made them.
type Routes struct {
	DropIPv4 bool         `json:"dropIPv4,omitempty"`
	DropIPv6 bool         `json:"dropIPv6,omitempty"`
	Gateways []netip.Addr `json:"gateways,omitempty"`
}

// FromPlan returns the message for a plan. Both share the parts that they refer to.
func FromPlan(p *plan.Plan) *Plan {
	m := &Plan{
		CNIVersion: p.CNIVersion, ContainerID: p.ContainerID, Netns: p.Netns, Pod: PlannedPod(p.Pod), Dirs: Dirs(p.Dirs),
		Concurrency: p.Concurrency, StatusWait: p.StatusWait,
	}
	if p.Attachments != nil { // nil is null
		m.Attachments = make([]Attachment, len(p.Attachments))
	}
	for i := range p.Attachments {
		m.Attachments[i] = fromAttachment(&p.Attachments[i])
	}
	return m
}

// ToPlan returns the plan of the message. Both share the parts that they refer to. The message is untrusted: the caller
// validates the plan.
func (m *Plan) ToPlan() *plan.Plan {
	p := &plan.Plan{
		CNIVersion: m.CNIVersion, ContainerID: m.ContainerID, Netns: m.Netns, Pod: request.Pod(m.Pod),
		Dirs: plan.Dirs(m.Dirs), Concurrency: m.Concurrency, StatusWait: m.StatusWait,
	}
	if m.Attachments != nil {
		p.Attachments = make([]plan.Attachment, len(m.Attachments))
	}
	for i := range m.Attachments {
		p.Attachments[i] = m.Attachments[i].toPlan()
	}
	return p
}

func fromAttachment(a *plan.Attachment) Attachment {
	return Attachment{
		Name: a.Name, Origin: string(a.Origin), Primary: a.Primary, IfName: a.IfName, Config: a.Config, Args: a.Args,
		RuntimeConfig: a.RuntimeConfig, Request: a.Request, Routes: Routes(a.Routes), Resource: a.Resource,
		Device: a.Device, Claim: (*Claim)(a.Claim), DeviceInfo: a.DeviceInfo, Stage: a.Stage, Inherited: a.Inherited,
	}
}

func (m *Attachment) toPlan() plan.Attachment {
	return plan.Attachment{
		Name: m.Name, Origin: plan.Origin(m.Origin), Primary: m.Primary, IfName: m.IfName, Config: m.Config, Args: m.Args,
		RuntimeConfig: m.RuntimeConfig, Request: m.Request, Routes: plan.Routes(m.Routes), Resource: m.Resource,
		Device: m.Device, Claim: (*device.Claim)(m.Claim), DeviceInfo: m.DeviceInfo, Stage: m.Stage,
		Inherited: m.Inherited,
	}
}
