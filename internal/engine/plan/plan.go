// Package plan decides what will be done for a sandbox, before anything is done: request, configuration,
// annotations and network definitions go in, one serialisable Plan comes out. It has no effects; what it
// needs to know it asks through the seams in seams.go. The engine and the daemon import it; execution,
// ledger and explanation read its value.
package plan

import (
	"encoding/json"
	"net/netip"

	"multus/internal/cniconf"
	"multus/internal/device"
	"multus/internal/engine/request"
	"multus/internal/netsel"
)

const (
	// MaxBytes is how many bytes the configurations of a plan may have together.
	MaxBytes = 4 << 20
	// MaxConfigBytes is how many bytes the configuration of one network may have.
	MaxConfigBytes = 256 << 10
	// MaxPlugins is how many plugins the list of one network may have. Each is a process at every verb: a DEL of thousands
	// does not come to its end in the time that a runtime waits. Real lists have fewer than ten.
	MaxPlugins = 32
)

// Plan is everything that will be done for one sandbox. It is executed, recorded for DEL, explained,
// compared, and frozen in golden tests.
type Plan struct {
	// CNIVersion is the version of the outer configuration, in which the result is returned.
	CNIVersion  string `json:"cniVersion"`
	ContainerID string `json:"containerID"`
	Netns       string `json:"netns"`
	// Pod is empty when the runtime named none (no Kubernetes).
	Pod Identity `json:"pod"`
	// Dirs are the directories that the plugin uses on the host.
	Dirs Dirs `json:"dirs"`
	// Attachments in the order in which they are added (NPWG v1.3 §7.3); the first is the cluster
	// network, whose result the runtime gets.
	Attachments []Attachment `json:"attachments"`
	// Concurrency is how many attachments of one stage are made at a time, 0 for one after another.
	Concurrency int `json:"concurrency,omitempty"`
}

// Identity is the pod object that a sandbox belongs to. UID is that of the object in the API, which for a
// static pod's mirror is not the one that the runtime knows (behaviour.md D18).
type Identity struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Dirs are the directories of a plan (behaviour.md A16, A17).
type Dirs struct {
	State  string `json:"state"`
	Binary string `json:"binary"`
}

// Origin tells which reference an attachment comes from.
type Origin string

// The origins of attachments, in the order in which they appear in a plan (behaviour.md B39).
const (
	FromClusterNetwork    Origin = "clusterNetwork"
	FromDelegates         Origin = "delegates"
	FromDefaultAnnotation Origin = "annotation " + netsel.DefaultNetwork
	FromDefaultNetworks   Origin = "defaultNetworks"
	FromAnnotation        Origin = "annotation " + netsel.Networks
	FromAuxiliaryChain    Origin = "auxiliaryCNIChainName"
)

// Attachment is one network for the pod.
type Attachment struct {
	// Name is shown in status, events and messages: namespace/name of the definition, else the
	// configuration's name (behaviour.md C70).
	Name   string `json:"name"`
	Origin Origin `json:"origin"`
	// Primary marks the cluster network.
	Primary bool   `json:"primary,omitempty"`
	IfName  string `json:"ifName"`
	// Config is what the delegate gets; libcni adds name, version, prevResult and runtimeConfig.
	Config *cniconf.List `json:"config"`
	// Args are the delegate's CNI_ARGS, the same at every verb.
	Args request.Args `json:"args"`
	// RuntimeConfig is offered by capability (behaviour.md C63-C66).
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig,omitempty"`
	// Request is what the pod asked for, nil for the cluster's own networks.
	Request *netsel.Element `json:"request,omitempty"`
	Routes  Routes          `json:"routes"`
	// Resource and Device are set when the kubelet gave the pod a device for this network.
	Resource string `json:"resource,omitempty"`
	Device   string `json:"device,omitempty"`
	// DeviceInfo is the device-info file of this attachment, "" for none (behaviour.md C71).
	DeviceInfo string `json:"deviceInfo,omitempty"`
	// HostDevice is the device of the node that the pod gets for itself. It is found on the node, when the plan is
	// carried out there.
	HostDevice *device.Identity `json:"hostDevice,omitempty"`
	// Stage is 0 for the cluster network, and in a plan that is made serially; see StageNumbers.
	Stage int `json:"stage,omitempty"`
	// Deleted reports that a DEL which failed elsewhere has detached this network already. Only the ledger sets it.
	Deleted bool `json:"-"`
	// DelTries counts the DELs of this network that failed though nothing of it was seen to remain. Only the ledger sets
	// it.
	DelTries int `json:"-"`
	// Element is the place in the record, -1 if the ledger has it from libcni's results alone.
	Element int `json:"-"`
	// Inherited reports that the configuration has no cniVersion of its own. Where its plugins are, a version is chosen
	// that they support, at most that of the outer configuration, and recorded (behaviour B5).
	Inherited bool `json:"inherited,omitempty"`
	// Source tells where Config was found: for Explain, where the plan is made. It is neither sent nor recorded.
	Source Source `json:"-"`
}

// Source is where the configuration of a network was found.
type Source struct {
	// Definition is the network attachment definition, zero for none.
	Definition Ref
	// File is the file or, of an auxiliary chain, the directory; "" if the configuration was in the definition or
	// in delegates.
	File string
	// Ambiguous is why the configuration can be read in two ways, nil if it cannot. It is about what its author wrote,
	// before name, version, device and arguments were set.
	Ambiguous error
	// Unnamed and Unversioned say that it left its name or its cniVersion out.
	Unnamed, Unversioned bool
}

// Routes says what happens to default routes after an attachment was added (behaviour.md D30-D33).
type Routes struct {
	// DropIPv4 and DropIPv6: another attachment provides the default route of that family.
	DropIPv4 bool `json:"dropIPv4,omitempty"`
	DropIPv6 bool `json:"dropIPv6,omitempty"`
	// Gateways of the default routes to set on this attachment's interface, at most one per family in
	// the whole plan.
	Gateways []netip.Addr `json:"gateways,omitempty"`
}

// None tells that the attachment's routes stay as its plugin made them.
func (r Routes) None() bool { return !r.DropIPv4 && !r.DropIPv6 && len(r.Gateways) == 0 }
