// Package plan decides what will be done for a sandbox before anything is done. Its input is the request, the
// configuration, the annotations and the network definitions; its output is one Plan. It has no effects and reads
// everything else through the interfaces in seams.go. It is imported by the engine, the sources, the hosts and the
// tools. Execution, ledger and explanation use the Plan as a value; wire/v1 has its form between processes, and the
// ledger its form on disk.
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
	// MaxBytes is the maximum total size of the configurations of a plan in bytes.
	MaxBytes = 4 << 20
	// MaxConfigBytes is the maximum size of the configuration of one network in bytes.
	MaxConfigBytes = 256 << 10
)

// Plan is everything that will be done for one sandbox. It is executed, recorded for DEL, explained, compared, and
// stored in golden tests.
type Plan struct {
	// CNIVersion is the version of the outer configuration. The result is returned in this version.
	CNIVersion  string
	ContainerID string
	Netns       string
	// Pod is empty if the runtime named no pod (no Kubernetes). Its UID is that of the object in the API. For the mirror
	// pod of a static pod it differs from the UID that the runtime passes (behaviour D18).
	Pod request.Pod
	// Dirs are the directories that the plugin uses on the host.
	Dirs Dirs
	// Attachments is in the order in which they are added (NPWG v1.3 §7.3). The first one is the cluster network, whose
	// result is returned to the runtime.
	Attachments []Attachment
	// Concurrency is how many attachments of one stage are made at the same time. 0 means one after another.
	Concurrency int
	// StatusWait reports whether the ADD of a pod with networks waits until its network status is written.
	StatusWait bool
}

// Dirs are the directories of a plan (behaviour A16, A17).
type Dirs struct {
	State  string
	Binary string
}

// Origin is the reference that an attachment comes from.
type Origin string

// The origins of attachments, in the order in which they appear in a plan (behaviour B39).
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
	// Name is shown in the network status, events and messages. It is namespace/name of the network definition, else the
	// name in the configuration (behaviour C70).
	Name   string
	Origin Origin
	// Primary marks the cluster network.
	Primary bool
	IfName  string
	// Config is the configuration for the delegate. libcni adds name, version, prevResult and runtimeConfig.
	Config *cniconf.List
	// Args are the delegate's CNI_ARGS, the same at every verb.
	Args request.Args
	// RuntimeConfig is passed to plugins that declare the capability (behaviour C63-C66).
	RuntimeConfig map[string]json.RawMessage
	// Request is what the pod requested. It is nil for the cluster's own networks.
	Request *netsel.Element
	Routes  Routes
	// Resource and Device are set if the kubelet gave the pod a device for this network.
	Resource string
	Device   string
	// Claim is set if the device is one of a ResourceClaim.
	Claim *device.Claim
	// DeviceInfo is the path of the attachment's device-info file, or "" for none (behaviour C71).
	DeviceInfo string
	// Stage is 0 for the cluster network, and for all attachments of a serial plan; see the function StageNumbers.
	Stage int
	// Inherited reports whether the configuration has no cniVersion of its own. On the node, a version is chosen that the
	// plugins support and that is not newer than that of the outer configuration. This version is recorded (behaviour B5).
	Inherited bool
	// Source is where Config was found. It is for Explain, in the process that makes the plan, and is neither sent nor
	// recorded.
	Source Source
}

// Source is where the configuration of a network was found.
type Source struct {
	// Definition is the network definition (NetworkAttachmentDefinition). It is the zero value for a network
	// that is not from a definition.
	Definition Ref
	// File is the path of the file or, for an auxiliary chain, of the directory. It is "" if the configuration was in the
	// network definition or in delegates.
	File string
	// Ambiguous is the reason why the configuration can be read in two ways, or nil if it cannot. It applies to the
	// configuration as written, before name, version, device and arguments were set.
	Ambiguous error
	// Unnamed and Unversioned report whether the configuration omits its name or its cniVersion.
	Unnamed, Unversioned bool
}

// Routes is what happens to default routes after an attachment was added (behaviour D30-D33).
type Routes struct {
	// DropIPv4 and DropIPv6 report whether another attachment provides the default route of that family.
	DropIPv4 bool
	DropIPv6 bool
	// Gateways are the gateways of the default routes to set on this attachment's interface. A plan has at most one per
	// family.
	Gateways []netip.Addr
}

// None reports whether the attachment's routes stay as its plugin made them.
func (r Routes) None() bool { return !r.DropIPv4 && !r.DropIPv6 && len(r.Gateways) == 0 }
