package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"multus/internal/fault"
)

// Auto is the value of multusConfigFile with which the daemon generates the CNI configuration, and the value of
// cniVersion with which it selects the version.
const Auto = "auto"

// The values of the key repair.
const (
	RepairOff    = "off"
	RepairReport = "report"
	RepairEvict  = "evict"
	RepairAttach = "attach"
)

// AuthKubernetes is the value of metricsAuth with which the API server decides who may read the metrics.
const AuthKubernetes = "kubernetes"

// repairs are the values of the key repair.
var repairs = []string{RepairOff, RepairReport, RepairEvict, RepairAttach}

// IsRepair reports whether a value is one of the key repair.
func IsRepair(value string) bool {
	return slices.Contains(repairs, value)
}

// DefaultRepairRate is how many pods are evicted in a minute.
const DefaultRepairRate = 10

// DefaultCNIResultsDir is where libcni caches results unless a runtime says otherwise.
const DefaultCNIResultsDir = "/var/lib/cni/results"

// DefaultRepairAfter is the age at which a sandbox without its networks is reported.
const DefaultRepairAfter = time.Minute

// MinStatusResync is the shortest time between two comparisons of network statuses.
const MinStatusResync = time.Second

// Daemon is the daemon's file, in the format of today's Multus (behaviour A.5). The same file has three uses: the
// server's settings, the generator's settings, and an overlay over each request (behaviour A90), for which the bytes
// are kept.
type Daemon struct {
	// Settings of the server.
	SocketDir       string `json:"socketDir"`
	ChrootDir       string `json:"chrootDir"`
	LogFile         string `json:"logFile"`
	LogLevel        string `json:"logLevel"`
	LogToStderr     *bool  `json:"logToStderr"`
	ConnectionLimit *int   `json:"connectionLimit"`
	MetricsPort     *int   `json:"metricsPort"`
	MetricsAddress  string `json:"metricsAddress"`
	// MetricsAuth is AuthKubernetes, or "" for metrics without authentication.
	MetricsAuth string `json:"metricsAuth"`
	EnablePprof bool   `json:"enablePprof"`
	// PerNodeCertificate is not supported. It is decoded so that this can be reported.
	PerNodeCertificate json.RawMessage `json:"perNodeCertificate"`
	// Kubeconfig and NetworksDir select the source if the daemon is started by hand. In a pod neither is set.
	Kubeconfig  string `json:"kubeconfig"`
	NetworksDir string `json:"networksDir"`
	// KubeletRoot is the kubelet's directory (default /var/lib/kubelet).
	KubeletRoot string `json:"kubeletRoot"`

	// Settings of the generator.
	BinDir                 string          `json:"binDir"`
	Capabilities           map[string]bool `json:"capabilities"`
	CNIVersion             string          `json:"cniVersion"`
	LogOptions             *LogOptions     `json:"logOptions"`
	NamespaceIsolation     bool            `json:"namespaceIsolation"`
	GlobalNamespaces       string          `json:"globalNamespaces"`
	ReadinessIndicatorFile string          `json:"readinessindicatorfile"`
	Type                   string          `json:"type"`
	CNIDir                 string          `json:"cniDir"`
	ConfDir                string          `json:"confDir"`
	CNIConfigDir           string          `json:"cniConfigDir"`
	AuxiliaryChain         string          `json:"auxiliaryCNIChainName"`
	DaemonSocketDir        string          `json:"daemonSocketDir"`
	MultusConfigFile       string          `json:"multusConfigFile"`
	MultusMasterCNI        string          `json:"multusMasterCNI"`
	MultusAutoconfigDir    string          `json:"multusAutoconfigDir"`
	OverrideNetworkName    bool            `json:"overrideNetworkName"`
	DefaultNetworks        []string        `json:"defaultNetworks"`
	SystemNamespaces       []string        `json:"systemNamespaces"`
	MultusNamespace        string          `json:"multusNamespace"`
	ClusterNetwork         string          `json:"clusterNetwork"`
	// ForceCNIVersion makes the plugin use CNIVersion for the cluster network instead of the network's own version.
	ForceCNIVersion bool `json:"forceCNIVersion"`
	// FailureEvents is generated as true if it is not set.
	FailureEvents *bool `json:"failureEvents"`
	// Events selects the events of pods that the daemon writes; see Plugin.
	Events string `json:"events"`
	// CheckNetworks selects the networks for the runtime's CHECK; see Plugin.
	CheckNetworks string `json:"checkNetworks"`
	// Prestart is written into the generated configuration if it is set; see Plugin.
	Prestart *bool `json:"prestart"`
	// StatusWait takes effect in the overlay. It is decoded so that a value of another kind is refused at the start.
	StatusWait bool `json:"statusWait"`
	// HotPlug makes the daemon watch the pods of its node, and change the networks of running pods.
	HotPlug bool `json:"hotPlug"`
	// HotPlugLinger is how long the runner on the host waits for more work. 0 is the runner's default.
	HotPlugLinger Duration `json:"hotPlugLinger"`
	// Repair is one of the constants above, or "" for RepairReport if HotPlug is set. RepairAfter is the age of a sandbox
	// at which it is reported, and RepairRate the number of pods that are evicted in a minute, or 0 for the default.
	// CNIResultsDir is where the runtime's libcni caches its results.
	Repair           string            `json:"repair"`
	RepairAfter      Duration          `json:"repairAfter"`
	RepairRate       int               `json:"repairRate"`
	RepairNamespaces *RepairNamespaces `json:"repairNamespaces"`
	CNIResultsDir    string            `json:"cniResultsDir"`
	// StatusResync is the time between two comparisons of the network statuses with what the pods of the node have; 0
	// means none. Reattach makes the daemon restore interfaces that are lost.
	StatusResync Duration `json:"statusResync"`
	Reattach     bool     `json:"reattach"`
	// Tracing exports a trace of each ADD (behaviour F90).
	Tracing Tracing `json:"tracing"`

	// ClaimStatus makes the daemon write the status of ResourceClaims, for devices of the drivers in ClaimStatusDrivers.
	ClaimStatus        bool     `json:"claimStatus"`
	ClaimStatusDrivers []string `json:"claimStatusDrivers"`
	// NodeAddresses are the addresses of this node in the cluster.
	NodeAddresses []string `json:"nodeAddresses"`
	// Admission are the settings of `multus-daemon admission`. The daemon of a node does not use them.
	Admission Admission `json:"admission"`

	// Raw is the content of the file.
	Raw []byte `json:"-"`
}

// RepairNamespaces selects namespaces for the key repair.
type RepairNamespaces struct {
	// Exclude has the namespaces whose pods are reported and not repaired.
	Exclude []string `json:"exclude"`
}

// ParseDaemon parses the daemon's file (behaviour A60-A72).
func ParseDaemon(b []byte) (*Daemon, error) {
	d := &Daemon{SocketDir: DefaultSocketDir, CNIConfigDir: "/etc/cni/net.d", Type: "multus-shim", MultusConfigFile: Auto}
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fault.DaemonFileUnreadable.Wrap(withKey(b, err))
	}
	if d.ConnectionLimit != nil && *d.ConnectionLimit <= 0 {
		return nil, fault.ConnectionLimitInvalid.New(*d.ConnectionLimit)
	}
	d.Raw = b
	return d, nil
}

// withKey returns the error of a daemon-config.json with the key of the wrong value, which the error of a type with a
// decoder of its own does not have.
func withKey(b []byte, err error) error {
	var members map[string]json.RawMessage
	if json.Unmarshal(b, &members) != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(members)) {
		one, merr := json.Marshal(map[string]json.RawMessage{key: members[key]})
		if merr != nil {
			continue
		}
		if err := json.Unmarshal(one, &Daemon{}); err != nil {
			return fmt.Errorf("%s: %w", fault.Clip(key, fault.MaxName), err)
		}
	}
	return err
}

// Usable returns an error if the file has a value with which no pod can start or with which a verb always fails. Such a
// value must not get into the CNI configuration or over a request. ParseDaemon accepts it, so that Multus can be
// uninstalled.
func (d *Daemon) Usable() error {
	if !d.AutoCNIVersion() && !IsCNIVersion(d.CNIVersion) {
		return fault.DaemonVersionUnknown.New(fault.Clip(d.CNIVersion, fault.MaxValue), KnownVersions())
	}
	if !validCheck(d.CheckNetworks) {
		return fault.DaemonCheckUnknown.New(fault.Clip(d.CheckNetworks, fault.MaxValue))
	}
	if !validEvents(d.Events) {
		return fault.DaemonEventsUnknown.New(fault.Clip(d.Events, fault.MaxValue))
	}
	if d.Repair != "" && !IsRepair(d.Repair) {
		return fault.DaemonRepairUnknown.New(fault.Clip(d.Repair, fault.MaxValue))
	}
	return nil
}

// RepairAge is RepairAfter, or the default if it is not positive.
func (d *Daemon) RepairAge() time.Duration {
	if d.RepairAfter.Duration > 0 {
		return d.RepairAfter.Duration
	}
	return DefaultRepairAfter
}

// ResyncInterval is StatusResync, at least MinStatusResync, or 0 if the network statuses are not compared.
func (d *Daemon) ResyncInterval() time.Duration {
	if d.StatusResync.Duration <= 0 {
		return 0
	}
	return max(d.StatusResync.Duration, MinStatusResync)
}

// RepairRule is Repair, or RepairReport if it is not set.
func (d *Daemon) RepairRule() string { return cmp.Or(d.Repair, RepairReport) }

// RepairPace is RepairRate, or the default if it is not positive.
func (d *Daemon) RepairPace() int {
	if d.RepairRate > 0 {
		return d.RepairRate
	}
	return DefaultRepairRate
}

// ClaimDrivers returns the drivers for whose devices the status of ResourceClaims is written.
func (d *Daemon) ClaimDrivers() []string {
	if !d.ClaimStatus {
		return nil
	}
	return d.ClaimStatusDrivers
}

// ReportOnly returns the namespaces whose pods are not repaired: kube-system unless RepairNamespaces is set.
func (d *Daemon) ReportOnly() []string {
	if d.RepairNamespaces != nil {
		return d.RepairNamespaces.Exclude
	}
	return []string{"kube-system"}
}

// AutoCNIVersion reports whether the daemon selects the version of the generated configuration.
func (d *Daemon) AutoCNIVersion() bool { return d.CNIVersion == "" || d.CNIVersion == Auto }

// Socket returns the path of the daemon's socket as the daemon sees it.
func (d *Daemon) Socket() string { return filepath.Join(d.SocketDir, SocketName) }

// HostPath converts a path of this file to a path of the host, as the plugin sees it: without the prefix under which
// the manifests of today's Multus mount the host's directories (behaviour F60).
func (d *Daemon) HostPath(path string) string {
	for _, prefix := range []string{d.ChrootDir, "/host"} {
		if prefix = strings.TrimRight(prefix, "/"); prefix != "" && strings.HasPrefix(path, prefix+"/") {
			return strings.TrimPrefix(path, prefix)
		}
	}
	return path
}

// ForRequest overlays the file on the configuration of a request (behaviour A90, A91). It omits the keys of the file
// that belong to the runtime, to the daemon's own sources and to the plugin's side of the socket. Paths that the plugin
// uses are converted to paths of the host. The path of the cluster network, which the daemon reads, is converted to a
// path of the daemon's container.
func (d *Daemon) ForRequest(conf []byte) ([]byte, error) {
	skip := []string{
		"type", "name", "kubeconfig", "networksDir", "runtimeConfig", "prevResult", "plainPods",
		"daemonTimeout",
	}
	if d.MultusConfigFile == Auto {
		skip = append(skip, "readinessindicatorfile")
	}
	if d.AutoCNIVersion() {
		skip = append(skip, "cniVersion") // the request has the version
	}
	m, err := overlay(conf, d.Raw, skip)
	if err != nil {
		return nil, err
	}
	for k, v := range m {
		var path string
		if json.Unmarshal(v, &path) != nil {
			continue
		}
		switch strings.ToLower(k) {
		case "cnidir", "bindir":
			path = d.HostPath(path)
		case "clusternetwork":
			path = d.containerPath(path)
		default:
			continue
		}
		if m[k], err = json.Marshal(path); err != nil {
			return nil, fmt.Errorf("marshal CNI config: %w", err)
		}
	}
	return json.Marshal(m)
}

// containerPath converts a path of the generated configuration to a path of the daemon's container. It is the reverse
// of HostPath for files of multusAutoconfigDir.
func (d *Daemon) containerPath(path string) string {
	if host := d.HostPath(d.MultusAutoconfigDir); host != d.MultusAutoconfigDir &&
		filepath.Dir(path) == strings.TrimRight(host, "/") {
		return filepath.Join(d.MultusAutoconfigDir, filepath.Base(path))
	}
	return path
}

// Tracing is the section tracing of the daemon's file. Without an endpoint nothing is exported.
type Tracing struct {
	// Endpoint is the URL of an OTLP collector, for OTLP over HTTP.
	Endpoint string `json:"endpoint"`
	// SampleRatio is the part of the ADDs without a trace of the runtime that is exported, from 0 to 1.
	SampleRatio float64 `json:"sampleRatio"`
}
