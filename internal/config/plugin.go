// Package config defines the configuration that users write: the keys of the plugins' CNI configuration and of the
// daemon's file, their defaults, precedence and validation (behaviour A). It reads no files and no environment and
// applies nothing. It is imported by the engine, the hosts and the tools.
package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/version"

	"multus/internal/fault"
)

// Defaults of the plugin's keys (behaviour A15-A32, A51).
const (
	DefaultConfDir         = "/etc/cni/multus/net.d"
	DefaultCNIDir          = "/var/lib/cni/multus"
	DefaultBinDir          = "/opt/cni/bin"
	DefaultMultusNamespace = "kube-system"
	DefaultSocketDir       = "/run/multus/"
	// SocketName is the name of the socket in the socket directory.
	SocketName = "multus.sock"
)

// PodAnnotations is the capability, and the key of runtimeConfig, with which a runtime passes the pod's annotations.
// containerd and CRI-O do so if a configuration declares it.
const PodAnnotations = "io.kubernetes.cri.pod-annotations"

// PlainLocal is the value of plainPods with which the plugin itself plans plain pods. The daemon writes it into the
// configuration that it generates, which then has every key that changes what a plain pod gets. Without it, the plugin
// always requests the plan from the daemon.
const PlainLocal = "local"

// Plugin is the CNI configuration of multus and multus-shim (behaviour A.2, A.4). Keys match without regard to case,
// the last of several equal keys wins (behaviour A2), and unknown keys are accepted and ignored (behaviour A1).
type Plugin struct {
	CNIVersion             string            `json:"cniVersion"`
	Name                   string            `json:"name"`
	Type                   string            `json:"type"`
	ConfDir                string            `json:"confDir"`
	CNIDir                 string            `json:"cniDir"`
	BinDir                 string            `json:"binDir"`
	Delegates              []json.RawMessage `json:"delegates"`
	ClusterNetwork         string            `json:"clusterNetwork"`
	DefaultNetworks        []string          `json:"defaultNetworks"`
	SystemNamespaces       []string          `json:"systemNamespaces"`
	MultusNamespace        string            `json:"multusNamespace"`
	Kubeconfig             string            `json:"kubeconfig"`
	NamespaceIsolation     bool              `json:"namespaceIsolation"`
	GlobalNamespaces       string            `json:"globalNamespaces"`
	ReadinessIndicatorFile string            `json:"readinessindicatorfile"`
	AuxiliaryChain         string            `json:"auxiliaryCNIChainName"`
	RetryDeleteOnError     bool              `json:"retryDeleteOnError"`
	FailureEvents          bool              `json:"failureEvents"`
	// Events selects the events of pods that the thin plugin writes: EventsEach, EventsFailures or EventsNone. The daemon
	// has a key of its own.
	Events          string      `json:"events"`
	LogToStderr     *bool       `json:"logToStderr"`
	LogLevel        string      `json:"logLevel"`
	LogFile         string      `json:"logFile"`
	LogOptions      *LogOptions `json:"logOptions"`
	DaemonSocketDir string      `json:"daemonSocketDir"`
	// DaemonTimeout is how long an ADD waits for a daemon that does not respond; see DaemonWait.
	DaemonTimeout Duration `json:"daemonTimeout"`
	// PlainPods is PlainLocal or empty.
	PlainPods string `json:"plainPods"`
	// NetworksDir is a directory of YAML files, the source of the thin plugin and of the daemon without Kubernetes.
	NetworksDir string `json:"networksDir"`
	// KubeletRoot is the kubelet's directory for the thin plugin. The daemon has a key of its own (default
	// /var/lib/kubelet).
	KubeletRoot string `json:"kubeletRoot"`
	// AllowMissingDevices attaches a network without the device that its definition requests (behaviour H21).
	AllowMissingDevices bool `json:"allowMissingDevices"`
	// AttachConcurrency is how many networks of a pod are attached at the same time after the cluster network. Below 2
	// they are attached one after another (NPWG v1.3 §7.3).
	AttachConcurrency int `json:"attachConcurrency"`
	// Prestart permits delegates to be started before their turn, when they cannot do anything yet. It is true if it is
	// nil.
	Prestart *bool `json:"prestart"`
	// StatusWait makes the ADD of a pod with networks wait for its network status (thick).
	StatusWait bool `json:"statusWait"`
	// NodeAddresses are the addresses of this node in the cluster. A device that has one of them is never given to a pod.
	NodeAddresses []string `json:"nodeAddresses"`
	// RuntimeConfig is what the runtime passes by capability, each member as it was received (behaviour A33:
	// today's Multus drops unknown members).
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig"`
	// ValidAttachments is the runtime's list at GC (CNI SPEC 1.1 §GC). libcni also sends it under the second key.
	ValidAttachments Attachments `json:"cni.dev/valid-attachments"`
	Attachments      Attachments `json:"cni.dev/attachments"`
	// CheckNetworks selects the networks for the runtime's CHECK: CheckNone (default), CheckCluster or CheckAll.
	CheckNetworks string `json:"checkNetworks"`
	// MaxNetworks is how many networks one pod may have, the cluster network included. 0 stands for DefaultMaxNetworks.
	MaxNetworks int `json:"maxNetworks"`
	// AllowedTypes are the plugins, IPAM plugins included, that a network definition of a pod may use. If it is empty, all
	// are allowed.
	AllowedTypes []string `json:"allowedTypes"`
	// AllowInUseNamespaces are the namespaces whose definitions may set allowInUse. If it is nil, all may.
	AllowInUseNamespaces []string `json:"allowInUseNamespaces"`

	// decoded has the annotations of RuntimeConfig. It is nil unless ParsePlugin made the value.
	decoded *decodedAnnotations
}

// Values of checkNetworks (behaviour D46). By default CHECK covers no network of a pod, as in today's Multus: CRI-O
// calls CHECK right after every ADD, and many plugins refuse CHECK behind a meta-plugin.
const (
	CheckNone    = ""
	CheckCluster = "cluster"
	CheckAll     = "all"
)

// Values of events. An empty value is EventsEach.
const (
	// EventsEach is an event for each interface, and for each failure.
	EventsEach = "each"
	// EventsFailures is an event for each failure.
	EventsFailures = "failures"
	EventsNone     = "none"
)

// DefaultMaxNetworks is how many networks one pod may have if maxNetworks is not set.
const DefaultMaxNetworks = 64

// Attachments is the runtime's list at GC. It is nil if the key is absent. libcni writes an empty list as null.
type Attachments []Attachment

// UnmarshalJSON decodes an array or null.
func (a *Attachments) UnmarshalJSON(b []byte) error {
	list := []Attachment{}
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*a = append(Attachments{}, list...)
	return nil
}

// Attachment names one attachment in the runtime's list at GC.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// LogOptions configures the rotation of the log file (behaviour A32): days, megabytes, files.
type LogOptions struct {
	MaxAge     *int  `json:"maxAge,omitempty"`
	MaxSize    *int  `json:"maxSize,omitempty"`
	MaxBackups *int  `json:"maxBackups,omitempty"`
	Compress   *bool `json:"compress,omitempty"`
}

// ParsePlugin parses the configuration that the runtime passes on standard input. Errors are faults that quote what is
// wrong (behaviour A6).
func ParsePlugin(b []byte) (*Plugin, error) {
	p := newPlugin()
	if !p.decode(b) {
		p = newPlugin()
		if err := json.Unmarshal(b, p); err != nil {
			return nil, fault.ConfigUnreadable.Wrap(err)
		}
	}
	p.decoded = &decodedAnnotations{}
	return p, nil
}

func newPlugin() *Plugin {
	return &Plugin{
		ConfDir: DefaultConfDir, CNIDir: DefaultCNIDir, BinDir: DefaultBinDir,
		MultusNamespace: DefaultMultusNamespace, SystemNamespaces: []string{"kube-system"},
	}
}

// HasNetwork returns an error if there is no network to delegate to (behaviour A7).
func (p *Plugin) HasNetwork() error {
	if p.ClusterNetwork == "" && len(p.Delegates) == 0 {
		return fault.NoClusterNetwork.New(p.Name)
	}
	return nil
}

// Exceptions returns the namespaces that every pod may refer to under namespaceIsolation (behaviour A25, C41).
func (p *Plugin) Exceptions() []string {
	if p.GlobalNamespaces == "" {
		return []string{"default"}
	}
	items := strings.Split(p.GlobalNamespaces, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return items
}

// RuntimeAnnotations returns the pod's annotations and reports whether the runtime passed them. They are decoded once
// for each parsed configuration.
func (p *Plugin) RuntimeAnnotations() (values map[string]string, known bool, err error) {
	raw := p.RuntimeConfig[PodAnnotations]
	cache := p.decoded
	if cache == nil {
		cache = &decodedAnnotations{}
	}
	a := cache.of(raw)
	return a.values, a.known, a.err
}

// annotations is the result of RuntimeAnnotations.
type annotations struct {
	values map[string]string
	known  bool
	err    error
}

// decodedAnnotations has the annotations that were decoded last. Copies of a configuration share it, and may have other
// bytes.
type decodedAnnotations struct {
	mu     sync.Mutex
	raw    json.RawMessage
	result annotations
}

// of returns the annotations in a member of RuntimeConfig.
func (d *decodedAnnotations) of(raw json.RawMessage) annotations {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !bytes.Equal(raw, d.raw) {
		d.raw, d.result = raw, decodeAnnotations(raw)
	}
	return d.result
}

func decodeAnnotations(raw json.RawMessage) annotations {
	if len(raw) == 0 || string(raw) == "null" {
		return annotations{}
	}
	m := map[string]string{}
	if err := json.Unmarshal(raw, &m); err != nil {
		return annotations{err: fault.AnnotationsUnreadable.Wrap(err)}
	}
	return annotations{values: m, known: true}
}

// Valid returns the runtime's list of attachments at GC, and reports whether the runtime passed one. libcni writes the
// list under two keys. An attachment under either of them is valid.
func (p *Plugin) Valid() ([]Attachment, bool) {
	list := slices.Concat(p.ValidAttachments, p.Attachments)
	return list, p.ValidAttachments != nil || p.Attachments != nil
}

// ValidCheck returns an error if checkNetworks has an invalid value.
func (p *Plugin) ValidCheck() error {
	if validCheck(p.CheckNetworks) {
		return nil
	}
	return fault.CheckUnknown.New(p.Name, fault.Clip(p.CheckNetworks, fault.MaxValue))
}

func validCheck(v string) bool { return v == CheckNone || v == CheckCluster || v == CheckAll }

// Usable returns an error if no runtime can use the configuration, or if a verb always fails because of a value in it.
func (p *Plugin) Usable() error {
	if p.CNIVersion != "" && !IsCNIVersion(p.CNIVersion) {
		return fault.VersionUnknown.New(p.Name, fault.Clip(p.CNIVersion, fault.MaxValue), KnownVersions())
	}
	if err := p.ValidEvents(); err != nil {
		return err
	}
	return p.ValidCheck()
}

// ValidEvents returns an error if events has an invalid value.
func (p *Plugin) ValidEvents() error {
	if validEvents(p.Events) {
		return nil
	}
	return fault.EventsUnknown.New(p.Name, fault.Clip(p.Events, fault.MaxValue))
}

func validEvents(v string) bool {
	return v == "" || v == EventsEach || v == EventsFailures || v == EventsNone
}

// KnownVersions lists the versions for which IsCNIVersion returns true, for messages.
func KnownVersions() string { return strings.Join(version.All.SupportedVersions(), ", ") }

// IsCNIVersion reports whether libcni can create results of a version. With any other version, every ADD fails.
func IsCNIVersion(v string) bool { return slices.Contains(version.All.SupportedVersions(), v) }

// NetworkLimit returns how many networks one pod may have.
func (p *Plugin) NetworkLimit() int {
	if p.MaxNetworks > 0 {
		return p.MaxNetworks
	}
	return DefaultMaxNetworks
}

// SocketPath returns the path of the daemon's socket as the plugin sees it (behaviour A51).
func (p *Plugin) SocketPath() string {
	dir := p.DaemonSocketDir
	if dir == "" {
		dir = DefaultSocketDir
	}
	return strings.TrimRight(dir, "/") + "/" + SocketName
}

// Overlay replaces each top-level key of conf by the same key of over: the daemon's file takes precedence over the
// request's configuration (behaviour A90). Keys in skip are not replaced. Both documents must be JSON objects.
func Overlay(conf, over []byte, skip ...string) ([]byte, error) {
	m, err := overlay(conf, over, skip)
	if err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

func overlay(conf, over []byte, skip []string) (map[string]json.RawMessage, error) {
	var base, top map[string]json.RawMessage
	if err := json.Unmarshal(conf, &base); err != nil {
		return nil, fmt.Errorf("unmarshal CNI config: %w", err)
	}
	if err := json.Unmarshal(over, &top); err != nil {
		return nil, fmt.Errorf("unmarshal CNI override config: %w", err)
	}
	fold := func(m map[string]json.RawMessage, key string) {
		maps.DeleteFunc(m, func(k string, _ json.RawMessage) bool { return strings.EqualFold(k, key) })
	}
	for _, k := range skip {
		fold(top, k)
	}
	for k := range top {
		fold(base, k)
	}
	if base == nil {
		base = map[string]json.RawMessage{}
	}
	maps.Copy(base, top)
	return base, nil
}

// DefaultDaemonWait is how long an ADD waits for a daemon that does not respond.
const DefaultDaemonWait = 30 * time.Second

// DaemonWait returns how long an ADD that needs the daemon waits for it.
func (p *Plugin) DaemonWait() time.Duration {
	if p.DaemonTimeout.Duration > 0 {
		return p.DaemonTimeout.Duration
	}
	return DefaultDaemonWait
}

// Duration is a duration in a configuration: a string such as "30s".
type Duration struct{ time.Duration }

// UnmarshalText decodes the form of time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("want a duration such as \"30s\": %w", err)
	}
	d.Duration = v
	return nil
}

// MarshalText returns the form of time.Duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
