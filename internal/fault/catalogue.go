package fault

import (
	"fmt"
	"slices"
	"strings"
)

// ID identifies an error of the catalogue: every error that a user may read and that has advice of its own. The page
// docs/errors.md is made from the catalogue, and a test produces each entry.
type ID int

// The errors, by what is wrong.
const (
	// The call of the container runtime.

	ArgInvalid ID = iota
	ArgsUnknown
	NoPodNamed
	GCWithoutList
	GCListInvalid
	CalledByDelegate

	// The CNI configuration and the daemon's configuration file.

	ConfigUnreadable
	NoClusterNetwork
	VersionUnknown
	CheckUnknown
	EventsUnknown
	AnnotationsUnreadable
	DaemonFileUnreadable
	DaemonVersionUnknown
	DaemonCheckUnknown
	DaemonEventsUnknown
	DaemonRepairUnknown
	ConnectionLimitInvalid
	KubeconfigUnusable
	NoPodSource

	// The pod and the networks that it requests.

	PodNotFound
	PodUnavailable
	PodReplaced
	AnnotationInvalid
	TooManyNetworks
	NamespaceIsolated
	DefinitionMissing
	DefinitionUnavailable
	DefinitionInvalid
	PluginNotAllowed
	AllowInUseNotAllowed
	InterfaceNameInvalid
	InterfaceNameTaken
	GatewaysConflict
	RunningDefaultRoute

	// The configurations of networks.

	ClusterNetworkUnavailable
	DefaultNetworkUnavailable
	DelegateInvalid
	AuxiliaryChainWithoutPath
	AuxiliaryChainTooLong
	NetworkUnnamed
	NetworkNameInvalid
	NetworkVersionInvalid
	PluginTypeInvalid
	DelegatesToMultus
	ConfigAmbiguous
	ConfigsTooLarge
	ConfigRefusedByCNI

	// Devices.

	DevicesUnreadable
	DevicesUnavailable
	NoDeviceLeft
	RunningNoDevice
	NoClaimedDevice
	DeviceConfigInvalid
	DeviceMissing
	DeviceImmovable
	DeviceInUse
	DeviceHeld
	DeviceAssigned
	DeviceTakenTwice
	DevicesLocked

	// The daemon.

	DaemonUnavailable
	PlanUnusable
	RequestUnreadable
	RequestConfigInvalid
	DecodeWaited
	PlanWaited

	// The sandbox and its delegates.

	NotReady
	SandboxBusy
	RunningBusy
	NoNamespace
	InterfaceExists
	StateNotWritten
	AddFailed
	RoutesNotSet
	StatusLost
	DelFailed
	CheckFailed
	NotAttached
	NotRecorded
	SandboxUnchangeable
	DelegateNotRequested
	DelegateKept
	DelegateAbsent
	DelegateUntaken
	DelegateUnfinished
	StatusNotReady
	StatusUnanswered

	count
)

// Entry is what an error of the catalogue has in common wherever it occurs.
type Entry struct {
	// Code is the CNI error code. With MayPass, the code is TryAgain instead if the cause may pass.
	Code    uint
	MayPass bool
	// Message says what failed, for which object and for which owner. Next says what the reader can do. Both have
	// placeholders in angle brackets. The arguments of New and Wrap replace those of Message, and then those of Next. A
	// placeholder in double quotes is quoted.
	Message, Next string
	// Wraps reports whether the text of a cause follows the message.
	Wraps bool
}

// Catalogue returns all entries.
func Catalogue() []Entry { return slices.Clone(catalogue[:]) }

// New returns an error without a cause.
func (id ID) New(args ...any) *Error { return id.Wrap(nil, args...) }

// Wrap returns an error with a cause, whose text follows the message.
func (id ID) Wrap(err error, args ...any) *Error {
	e := catalogue[id]
	msg, args := fill(e.Message, args)
	next, args := fill(e.Next, args)
	if len(args) > 0 {
		msg += fmt.Sprintf("%%!(EXTRA %v)", args) // as fmt marks them
	}
	return &Error{Code: e.Code, Msg: msg, Next: next, Err: err}
}

// Text returns an error whose texts are those of another package. They have the form of the entry.
func (id ID) Text(msg, next string) *Error {
	return &Error{Code: catalogue[id].Code, Msg: msg, Next: next}
}

// fill replaces the placeholders of a text by the first arguments, and returns the others.
func fill(text string, args []any) (string, []any) {
	var b strings.Builder
	for len(args) > 0 {
		before, rest, ok := strings.Cut(text, "<")
		if !ok {
			break
		}
		_, after, _ := strings.Cut(rest, ">")
		b.WriteString(before)
		text = after
		value := fmt.Sprint(args[0])
		if strings.HasSuffix(before, `"`) && strings.HasPrefix(after, `"`) {
			quoted := fmt.Sprintf("%.*q", MaxName, value)
			value = quoted[1 : len(quoted)-1]
		}
		b.WriteString(value)
		args = args[1:]
	}
	b.WriteString(text)
	return b.String(), args
}

var catalogue = [count]Entry{
	ArgInvalid: {
		Code:    BadEnvironment,
		Message: `CNI_ARGS: invalid pair "<pair>": want KEY=VALUE`,
		Next:    "report this to the container runtime's authors",
	},
	ArgsUnknown: {
		Code:    BadEnvironment,
		Message: "CNI_ARGS: unknown args <names>",
		Next:    "add IgnoreUnknown=1 to CNI_ARGS",
	},
	NoPodNamed: {
		Code:    BadEnvironment,
		Message: `container <container ID>: CNI_ARGS name no pod (namespace "<namespace>", name "<name>")`,
		Next:    "the runtime must pass K8S_POD_NAMESPACE and K8S_POD_NAME in CNI_ARGS",
	},
	GCWithoutList: {
		Code:    BadConfig,
		Message: "GC without cni.dev/valid-attachments",
		Next:    "report this to the container runtime's authors",
	},
	GCListInvalid: {
		Code:    BadConfig,
		Message: "GC with an entry of cni.dev/valid-attachments that has no containerID or no ifname",
		Next:    "report this to the container runtime's authors",
	},
	CalledByDelegate: {
		Code:    BadConfig,
		Message: "<command>: multus was called by one of its own delegates",
		Next:    "make the cluster network, and every network-attachment-definition, delegate to a plugin other than multus",
	},
	ConfigUnreadable: {
		Code: Decoding, Wraps: true,
		Message: "failed to load netconf",
		Next:    "correct the CNI configuration that the runtime loads",
	},
	NoClusterNetwork: {
		Code:    BadConfig,
		Message: `CNI configuration "<name>": at least one delegate/clusterNetwork must be specified`,
		Next:    "set clusterNetwork in the CNI configuration",
	},
	VersionUnknown: {
		Code:    BadConfig,
		Message: `CNI configuration "<name>": cniVersion is "<version>", not one of <versions>`,
		Next:    "correct cniVersion in the CNI configuration",
	},
	CheckUnknown: {
		Code:    BadConfig,
		Message: `CNI configuration "<name>": checkNetworks is "<value>", not "cluster" or "all"`,
		Next:    `set checkNetworks to "cluster" or "all", or remove it`,
	},
	EventsUnknown: {
		Code:    BadConfig,
		Message: `CNI configuration "<name>": events is "<value>", not "each", "failures" or "none"`,
		Next:    `set events to "each", "failures" or "none", or remove it`,
	},
	AnnotationsUnreadable: {
		Code: Decoding, Wraps: true,
		Message: `runtimeConfig "io.kubernetes.cri.pod-annotations" is not a map of strings`,
		Next:    "report this to the container runtime's authors",
	},
	DaemonFileUnreadable: {
		Code: Decoding, Wraps: true,
		Message: "failed to unmarshall the daemon configuration",
		Next:    "correct the daemon's configuration file",
	},
	DaemonVersionUnknown: {
		Code:    BadConfig,
		Message: `daemon configuration: cniVersion is "<version>", not auto or one of <versions>`,
		Next:    "correct cniVersion in the daemon's configuration file",
	},
	DaemonCheckUnknown: {
		Code:    BadConfig,
		Message: `daemon configuration: checkNetworks is "<value>", not "cluster" or "all"`,
		Next:    `set checkNetworks to "cluster" or "all", or remove it`,
	},
	DaemonEventsUnknown: {
		Code:    BadConfig,
		Message: `daemon configuration: events is "<value>", not "each", "failures" or "none"`,
		Next:    `set events to "each", "failures" or "none", or remove it`,
	},
	DaemonRepairUnknown: {
		Code:    BadConfig,
		Message: `daemon configuration: repair is "<value>", not "report", "evict", "attach" or "off"`,
		Next:    `set repair to "report", "evict", "attach" or "off", or remove it`,
	},
	ConnectionLimitInvalid: {
		Code:    BadConfig,
		Message: "connection limit must be greater than 0, got <connection limit>",
		Next:    "remove connectionLimit, or make it greater than 0",
	},
	KubeconfigUnusable: {
		Code: TryAgain, Wraps: true,
		Message: "error getting k8s client",
		Next:    "correct kubeconfig in the CNI configuration, or the file that it names",
	},
	NoPodSource: {
		Code:    BadConfig,
		Message: "failed to get clusterNetwork/defaultNetworks: must have either Kubernetes config or delegates",
		Next: "set kubeconfig (or networksDir) in the CNI configuration, or let the runtime pass pod annotations: " +
			"capability io.kubernetes.cri.pod-annotations",
	},
	PodNotFound: {
		Code: TryAgain, Wraps: true,
		Message: "error waiting for pod <pod>",
		Next:    "nothing, if the pod was deleted meanwhile; the runtime tries again otherwise",
	},
	PodUnavailable: {
		Code: TryAgain, Wraps: true,
		Message: "error waiting for pod <pod>",
		Next:    "check that the API server can be reached and that Multus may get pods",
	},
	PodReplaced: {
		Code:    TryAgain,
		Message: `expected pod UID "<UID>" but got "<other UID>" from Kube API`,
		Next:    "nothing, if the pod was re-created meanwhile: its old sandbox is being removed",
	},
	AnnotationInvalid: {
		Code: BadConfig, Wraps: true,
		Message: "error loading k8s delegates k8s args: failed to parse annotation <annotation> of pod <pod>",
		Next:    "correct the annotation of the pod, or of the controller that makes it",
	},
	TooManyNetworks: {
		Code:    BadConfig,
		Message: "pod <pod> asks for too many networks: at most <limit> are attached to one pod, the cluster's own included",
		Next:    "ask for fewer networks, or raise maxNetworks in the configuration",
	},
	NamespaceIsolated: {
		Code: BadConfig,
		Message: "error loading k8s delegates k8s args: namespace isolation enabled, annotation violates permission, pod " +
			"is in namespace <namespace> but refers to target namespace <other namespace> (<origin>, network <name>)",
		Next: "use a definition in the pod's own namespace, or add the namespace to globalNamespaces",
	},
	DefinitionMissing: {
		Code: BadConfig, Wraps: true,
		Message: "error loading k8s delegates k8s args: pod <pod>, <origin>",
		Next:    "create the network-attachment-definition, or correct the <origin> of the pod",
	},
	DefinitionUnavailable: {
		Code: TryAgain, Wraps: true,
		Message: "error loading k8s delegates k8s args: pod <pod>, <origin>",
		Next:    "check that the API server can be reached; the runtime tries again",
	},
	DefinitionInvalid: {
		Code: BadConfig, Wraps: true,
		Message: "error loading k8s delegates k8s args: network-attachment-definition <definition> of pod <pod>",
		Next:    "correct spec.config of the network-attachment-definition",
	},
	PluginNotAllowed: {
		Code: BadConfig,
		Message: `network <network> of pod <pod>: the cluster does not allow plugin "<plugin>" in network definitions; it ` +
			"allows <allowed plugins>",
		Next: "use a plugin that is allowed, or ask the administrator to add it to allowedTypes",
	},
	AllowInUseNotAllowed: {
		Code: BadConfig,
		Message: "network <network> of pod <pod>: the cluster does not allow allowInUse in network definitions of " +
			"namespace <namespace>",
		Next: "remove allowInUse, or ask the administrator to add the namespace to allowInUseNamespaces",
	},
	InterfaceNameInvalid: {
		Code: BadConfig, Wraps: true,
		Message: `network <network> of pod <pod>: interface name "<interface>"`,
		Next:    "choose a name of at most 15 printable characters without / : and spaces",
	},
	InterfaceNameTaken: {
		Code:    BadConfig,
		Message: "network <network> of pod <pod>: interface name <interface> already exists: network <other> has it",
		Next:    "give each element of the annotation another interface",
	},
	GatewaysConflict: {
		Code:    BadConfig,
		Message: "multus does not support ECMP for default-route: network <network> of pod <pod> asks for one more gateway",
		Next:    "leave one gateway of each family in default-route, on one network",
	},
	RunningDefaultRoute: {
		Code: BadConfig,
		Message: "network <network> of pod <pod>: the default route of a running pod is not moved, and default-route " +
			"requests that",
		Next: "remove default-route from the element, or create the pod again",
	},
	ClusterNetworkUnavailable: {
		Code: BadConfig, Wraps: true, MayPass: true,
		Message: "failed to get clusterNetwork/defaultNetworks: failed to get clusterNetwork <cluster network> in " +
			"namespace <namespace>",
		Next: "check clusterNetwork in the CNI configuration, and that the file or the definition exists",
	},
	DefaultNetworkUnavailable: {
		Code: BadConfig, Wraps: true, MayPass: true,
		Message: "failed to get clusterNetwork/defaultNetworks: default network <name>",
		Next:    "check defaultNetworks in the CNI configuration, and that the file or the definition exists",
	},
	DelegateInvalid: {
		Code: BadConfig, Wraps: true,
		Message: "failed to load delegate <index> config",
		Next:    "correct delegates in the CNI configuration",
	},
	AuxiliaryChainWithoutPath: {
		Code:    BadConfig,
		Message: "auxiliary chain used but ClusterNetwork must be a path, and it is not a path: <cluster network>",
		Next:    "make clusterNetwork a path, or remove auxiliaryCNIChainName",
	},
	AuxiliaryChainTooLong: {
		Code: BadConfig, Wraps: true,
		Message: "auxiliary chain <name>",
		Next:    "remove plugins from the directory of the auxiliary chain",
	},
	NetworkUnnamed: {
		Code:    BadConfig,
		Message: "network <index> of pod <pod> (<origin>) has no name",
		Next:    "give the network's configuration a name",
	},
	NetworkNameInvalid: {
		Code:    BadConfig,
		Message: `network <network> of pod <pod>: its configuration has the name "<name>", which CNI does not allow`,
		Next: `use letters, digits, '.', '_' and '-' in "name" of the network's configuration, and begin with a letter or ` +
			"a digit",
	},
	NetworkVersionInvalid: {
		Code:    BadConfig,
		Message: `network <network> of pod <pod>: its cniVersion "<version>" is not a version`,
		Next:    "write a CNI version such as 1.0.0 into the network's configuration",
	},
	PluginTypeInvalid: {
		Code: BadConfig, Wraps: true,
		Message: "network <network> of pod <pod>: type of a plugin",
		Next:    "write the name of the plugin's program, such as macvlan",
	},
	DelegatesToMultus: {
		Code:    BadConfig,
		Message: "network <network> of pod <pod> delegates to multus itself",
		Next:    "make the network delegate to another plugin",
	},
	ConfigAmbiguous: {
		Code: BadConfig, Wraps: true,
		Message: "network <network> of pod <pod>: its configuration can be read in two ways",
		Next:    "keep one of the two keys in the network's configuration",
	},
	ConfigsTooLarge: {
		Code:    BadConfig,
		Message: "the configurations of the networks of pod <pod> have more than <bytes> bytes together",
		Next: "remove what the plugins do not need from the configurations of the networks, and from cni-args, which every " +
			"plugin of a list gets",
	},
	ConfigRefusedByCNI: {
		Code: BadConfig, Wraps: true,
		Message: "network <network> of pod <pod>: CNI does not accept its configuration",
		Next:    "correct the network's configuration: multusctl lint shows the place",
	},
	DevicesUnreadable: {
		Code:    BadConfig,
		Message: "network <network> of pod <pod> needs a device of <resource>, but Multus cannot read the pod's devices",
		Next:    "run Multus where the kubelet's directory can be read",
	},
	DevicesUnavailable: {
		Code: TryAgain, Wraps: true,
		Message: "network <network> of pod <pod>: find the devices of <resource>",
		Next:    "check the kubelet's directory and that the kubelet runs",
	},
	NoDeviceLeft: {
		Code:    BadConfig,
		Message: "network <network> of pod <pod>: no device of <resource> is left: the kubelet gave the pod <count><claims>",
		Next:    "request <count> or more of <resource> in the resources of the pod's containers, or in a ResourceClaim",
	},
	RunningNoDevice: {
		Code: BadConfig,
		Message: "network <network> of pod <pod>: a running pod cannot be given a device, and no device of <resource> is " +
			"unused: the kubelet gave the pod <count><claims>",
		Next: "request more of <resource> in the resources of the pod's containers, and create the pod again",
	},
	NoClaimedDevice: {
		Code:    BadConfig,
		Message: "network <network> of pod <pod>: <claim> has no device for it: <reason>",
		Next:    "name a claim of spec.resourceClaims whose device has the attribute k8s.cni.cncf.io/deviceID",
	},
	DeviceConfigInvalid: {
		Code: BadConfig, Wraps: true,
		Message: "pod <pod> was not attached",
		Next:    "correct the configuration of the network",
	},
	DeviceMissing: {
		Code:    BadConfig,
		Message: "<device> is not on this node; <what there is instead>",
		Next:    `change "<key>" in <the network's definition>`,
	},
	DeviceImmovable: {
		Code:    BadConfig,
		Message: "<device> is not free: <reasons>; <what there is instead>",
		Next:    `change "<key>" in <the network's definition>`,
	},
	DeviceInUse: {
		Code:    BadConfig,
		Message: "<device> is not free: <reasons>; <what there is instead>",
		Next:    `change "<key>" in <the network's definition>, or set "allowInUse": true in its config if you mean it`,
	},
	DeviceHeld: {
		Code:    TryAgain,
		Message: "<device> is not free: <reasons>; <what there is instead>",
		Next:    `wait until that pod is gone, or change "<key>" in <the network's definition>`,
	},
	DeviceAssigned: {
		Code:    BadConfig,
		Message: "<device> is <not there or not free>; <what there is instead>",
		Next:    "exclude it from the devices that the kubelet assigns for network <network>",
	},
	DeviceTakenTwice: {
		Code:    BadConfig,
		Message: `device "<name>" of network <network> is not free: network <other> of the same pod takes it`,
		Next:    "ask for another device in one of the two networks",
	},
	DevicesLocked: {
		Code: TryAgain, Wraps: true,
		Message: "pod <pod>: cannot lock the devices of the node",
		Next:    "nothing: the runtime tries again",
	},
	DaemonUnavailable: {
		Code: TryAgain, Wraps: true,
		Message: "pod <pod> needs the plan of the multus daemon, and nothing was attached",
		Next: "the runtime tries again; see why with: kubectl -n kube-system logs -l app=multus --prefix --tail=-1 (or " +
			"journalctl, for a daemon run by hand)",
	},
	PlanUnusable: {
		Code: TryAgain, Wraps: true,
		Message: "pod <pod>: the daemon's plan cannot be used, and nothing was attached",
		Next:    "compare the versions of the plugin and the daemon of this node: multusctl doctor",
	},
	RequestUnreadable: {
		Code: Decoding, Wraps: true,
		Message: "decode request <path>",
		Next: "use the plugin that belongs to this daemon: a daemon of the DaemonSet installs it when it starts; by hand: " +
			"multus-daemon install --dest DIR",
	},
	RequestConfigInvalid: {
		Code: Decoding, Wraps: true,
		Message: "pod <pod>",
		Next:    "report this: the plugin sent a configuration that is not a JSON object",
	},
	DecodeWaited: {
		Code: TryAgain, Wraps: true,
		Message: "wait to decode request <path>",
		Next:    "nothing: the runtime tries again",
	},
	PlanWaited: {
		Code: TryAgain, Wraps: true,
		Message: "wait to make a plan with <bytes> bytes of configurations",
		Next:    "nothing: the runtime tries again",
	},
	NotReady: {
		Code: TryAgain, Wraps: true,
		Message: "have you checked that your default network is ready? still waiting for readinessindicatorfile @ <file>",
		Next:    "look at the pods of the cluster network on this node",
	},
	SandboxBusy: {
		Code: TryAgain, Wraps: true,
		Message: "pod <pod>",
		Next:    "nothing: the runtime tries again",
	},
	RunningBusy: {
		Code: TryAgain, Wraps: true,
		Message: "networks of running pods are being attached",
		Next:    "nothing: the runtime tries again",
	},
	NoNamespace: {
		Code: TryAgain, Wraps: true,
		Message: "no net namespace <netns> found",
		Next:    "nothing, if the pod was deleted meanwhile; else look at the container runtime",
	},
	InterfaceExists: {
		Code:    Internal,
		Message: "network <network>: interface name <interface> already exists in <netns>",
		Next:    "choose another interface name for the network, or remove the sandbox if it is left over",
	},
	StateNotWritten: {
		Code: Internal, Wraps: true,
		Message: "pod <pod> was not attached",
		Next:    "make the state directory (cniDir) writable",
	},
	AddFailed: {
		Code: Internal, Wraps: true,
		Message: `error adding container to network "<network>" (interface <interface>)`,
		Next:    "look at the configuration of network <network> and at the message of its plugin",
	},
	RoutesNotSet: {
		Code: Internal, Wraps: true,
		Message: "set default routes of interface <interface>",
		Next:    "check the gateways in default-route: each must be reachable through the network's own addresses",
	},
	StatusLost: {
		Code: TryAgain, Wraps: true,
		Message: "the network status of pod <pod> is not written, and nothing was attached",
		Next:    "check that the API server can be reached, and that Multus may patch or update pods/status",
	},
	DelFailed: {
		Code: Internal, Wraps: true,
		Message: "<failed> of <count> networks could not be deleted",
		Next:    "nothing: the runtime tries again; look at the plugins' messages if it goes on",
	},
	CheckFailed: {
		Code: Internal, Wraps: true,
		Message: `network "<network>" (interface <interface>) failed its CHECK`,
		Next:    "remove the sandbox: the runtime makes a new one",
	},
	NotAttached: {
		Code:    Internal,
		Message: "container <container ID> is not attached to any network",
		Next:    "remove the sandbox: the runtime makes a new one",
	},
	NotRecorded: {
		Code:    Internal,
		Message: "container <container ID> is not attached to any network",
		Next:    "look for its records: multusctl ledger ls",
	},
	SandboxUnchangeable: {
		Code:    Internal,
		Message: "the networks of container <container ID> cannot be changed: it is not attached, or is being deleted",
		Next:    "nothing, if the pod is being deleted; otherwise look for its record: multusctl ledger ls",
	},
	DelegateNotRequested: {
		Code:    BadConfig,
		Message: "the annotation k8s.v1.cni.cncf.io/networks of pod <pod> requests no network with interface <interface>",
		Next:    "add an element with that interface to the annotation",
	},
	DelegateKept: {
		Code: BadConfig,
		Message: "network <network> (interface <interface>) of pod <pod> is that of the node's configuration, which is not " +
			"removed from a running pod",
		Next: "nothing: the pod keeps it until it is deleted",
	},
	DelegateAbsent: {
		Code:    Internal,
		Message: "interface <interface> of pod <pod> is not attached to that network",
		Next:    "attach it, or request another interface",
	},
	DelegateUntaken: {
		Code: TryAgain,
		Message: "interface <interface> of pod <pod>: no runner on this node took the request within <limit>, and nothing " +
			"was changed",
		Next: "the container runtime starts a runner if it calls STATUS, for which the CNI configuration must have version " +
			"1.1; otherwise install deploy/systemd/multus-runner.service, or add deploy/components/executor; see " +
			"docs/hot-plug.md",
	},
	DelegateUnfinished: {
		Code: TryAgain, Wraps: true,
		Message: "interface <interface> of pod <pod>: the runner has not answered the request",
		Next:    "send the request again: what is attached already is not attached a second time",
	},
	StatusNotReady: {
		Code: NotAvailable, Wraps: true,
		Message: "the cluster network is not ready: readinessindicatorfile",
		Next:    "look at the pods of the cluster network on this node",
	},
	StatusUnanswered: {
		Code: NotAvailable, Wraps: true,
		Message: `the cluster network of CNI configuration "<name>" does not answer`,
		Next:    "look at the pods of the cluster network on this node",
	},
}
