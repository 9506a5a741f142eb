// Package cniconfig maintains the node's CNI configuration file. It chooses the cluster network among the files of a
// directory and writes 00-multus.conf, which makes the runtime call Multus (behaviour F.2). It runs no plugin and never
// removes the file. The hosts run it. The doctor and the command line use its rules.
package cniconfig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/fsx"
	"multus/internal/rawjson"
)

// FileName is the name of the CNI configuration file. It sorts first, so that the runtime loads it. NetworkName is the
// name of its network, on which other software relies (behaviour F24, A71).
const (
	FileName    = "00-multus.conf"
	NetworkName = "multus-cni-network"
)

// HoldName is a copy of the CNI configuration file that makes the runtime call Multus during an upgrade. Today's daemon
// removes FileName when it ends (behaviour F8), so the upgrade makes this copy first. The name sorts after FileName and
// before the file of every cluster network. Today's Multus ignores it because of its prefix, and Controller removes it.
const HoldName = "00-multus.hold.conf"

// ErrNoPrimary is returned when the directory has no configuration that can be the cluster network
// (behaviour F21, M25).
var ErrNoPrimary = errors.New("could not find a plugin configuration")

// These errors mark files that are never cluster networks: a configuration of Multus, and the default bridge of podman
// or CRI-O.
var (
	errOwn           = errors.New("it is a configuration of multus itself")
	errDefaultBridge = errors.New("it is the default bridge")
)

// Primary is the chosen cluster network.
type Primary struct {
	File   string
	Config *cniconf.List
	// Skipped has the errors of the files before File that cannot be used. Files that are never cluster networks are left
	// out.
	Skipped []error
}

// Choose returns the named file or, without a name, the first usable file in name order. A usable file is a valid
// configuration and not one of Multus, which is recognised by its content and not by its name (behaviour F20;
// multus-cni#1130). The default bridge of podman or CRI-O is used only if it is named (rancher/rke2#10360).
func Choose(dir, name string) (*Primary, error) {
	if name != "" {
		return load(filepath.Join(dir, name))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("choose the cluster network: %w", err)
	}
	var passed []error
	for _, e := range entries {
		if e.IsDir() || !cniconf.IsFileName(e.Name()) {
			continue
		}
		p, err := load(filepath.Join(dir, e.Name()))
		if err == nil && slices.Contains([]string{"podman", "crio"}, p.Config.Name()) {
			err = fmt.Errorf("%s: %w of %s; name it in multusMasterCNI to use it", p.File, errDefaultBridge, p.Config.Name())
		}
		if err == nil {
			p.Skipped = slices.DeleteFunc(passed,
				func(err error) bool { return errors.Is(err, errOwn) || errors.Is(err, errDefaultBridge) })
			return p, nil
		}
		passed = append(passed, err)
	}
	return nil, errors.Join(append([]error{fmt.Errorf("%w in %s", ErrNoPrimary, dir)}, passed...)...)
}

func load(file string) (*Primary, error) {
	b, err := fsx.ReadFile(file, cniconf.MaxFile)
	if err != nil {
		return nil, fmt.Errorf("read configuration of the cluster network: %w", err)
	}
	if cniconf.CallsMultus(b) {
		return nil, fmt.Errorf("%s: %w", file, errOwn)
	}
	l, err := cniconf.LoadFile(file)
	if err != nil {
		return nil, err
	}
	if l.Name() == "" {
		return nil, fmt.Errorf("%s: no name", file)
	}
	return &Primary{File: file, Config: l}, nil
}

// output is the generated configuration. The keys of today's Multus come first, in its order (behaviour F25), and
// ours follow. With plainPods the plugin plans plain pods without the daemon, so the configuration must have every key
// that affects a plain pod (docs/architecture.md).
type output struct {
	BinDir                 string             `json:"binDir,omitempty"`
	Capabilities           map[string]bool    `json:"capabilities,omitempty"`
	CNIVersion             string             `json:"cniVersion"`
	LogFile                string             `json:"logFile,omitempty"`
	LogLevel               string             `json:"logLevel,omitempty"`
	LogToStderr            bool               `json:"logToStderr,omitempty"`
	LogOptions             *config.LogOptions `json:"logOptions,omitempty"`
	Name                   string             `json:"name"`
	ClusterNetwork         string             `json:"clusterNetwork"`
	NamespaceIsolation     bool               `json:"namespaceIsolation,omitempty"`
	GlobalNamespaces       string             `json:"globalNamespaces,omitempty"`
	Type                   string             `json:"type"`
	CNIDir                 string             `json:"cniDir,omitempty"`
	AuxiliaryChain         string             `json:"auxiliaryCNIChainName,omitempty"`
	DaemonSocketDir        string             `json:"daemonSocketDir,omitempty"`
	ConfDir                string             `json:"confDir,omitempty"`
	DefaultNetworks        []string           `json:"defaultNetworks,omitempty"`
	SystemNamespaces       []string           `json:"systemNamespaces,omitzero"`
	MultusNamespace        string             `json:"multusNamespace,omitempty"`
	ReadinessIndicatorFile string             `json:"readinessindicatorfile,omitempty"`
	FailureEvents          bool               `json:"failureEvents"`
	PlainPods              string             `json:"plainPods"`
	NodeAddresses          []string           `json:"nodeAddresses,omitempty"`
	CheckNetworks          string             `json:"checkNetworks,omitempty"`
	Prestart               *bool              `json:"prestart,omitempty"`
}

// Generate returns the CNI configuration for a cluster network: one line of JSON that libcni accepts.
func Generate(d *config.Daemon, p *Primary) ([]byte, error) { return generate(d, p, Facts{}) }

// generate is Generate with the facts of the node.
func generate(d *config.Daemon, p *Primary, f Facts) ([]byte, error) {
	if err := d.Usable(); err != nil {
		return nil, err
	}
	caps, err := capabilities(d, p)
	if err != nil {
		return nil, err
	}
	out := output{
		BinDir: d.HostPath(d.BinDir), Capabilities: caps, CNIVersion: d.CNIVersion, Name: NetworkName, Type: d.Type,
		LogFile: d.HostPath(d.LogFile), LogLevel: d.LogLevel, LogOptions: d.LogOptions,
		LogToStderr:    d.LogToStderr != nil && *d.LogToStderr,
		ClusterNetwork: d.HostPath(clusterNetwork(d, p)), NamespaceIsolation: d.NamespaceIsolation,
		GlobalNamespaces: d.GlobalNamespaces, CNIDir: d.HostPath(d.CNIDir), AuxiliaryChain: d.AuxiliaryChain,
		DaemonSocketDir: d.DaemonSocketDir, ConfDir: d.HostPath(d.ConfDir), DefaultNetworks: d.DefaultNetworks,
		SystemNamespaces: d.SystemNamespaces, MultusNamespace: d.MultusNamespace,
		ReadinessIndicatorFile: d.HostPath(d.ReadinessIndicatorFile),
		FailureEvents:          d.FailureEvents == nil || *d.FailureEvents,
		PlainPods:              config.PlainLocal, NodeAddresses: d.NodeAddresses, CheckNetworks: d.CheckNetworks,
		Prestart: d.Prestart,
	}
	if len(out.NodeAddresses) == 0 {
		out.NodeAddresses = f.Addresses
	}
	if d.AutoCNIVersion() {
		out.CNIVersion = autoVersion(p, f)
	}
	if d.ClusterNetwork != "" {
		out.ClusterNetwork = d.HostPath(d.ClusterNetwork) // O73: the value in the file takes precedence
	}
	if d.OverrideNetworkName {
		out.Name = p.Config.Name()
	}
	b, err := rawjson.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", FileName, err)
	}
	if _, err := libcni.NetworkPluginConfFromBytes(b); err != nil {
		return nil, fmt.Errorf("generated %s is not valid: %w", FileName, err)
	}
	if err := usable(b); err != nil { // the version may be that of the cluster network
		return nil, fmt.Errorf("generated %s with %s: %w", FileName, p.File, err)
	}
	return append(b, '\n'), nil
}

// usable returns an error if a CNI configuration of Multus must not be put in force, because Multus would be ready but
// no pod could start.
func usable(conf []byte) error {
	p, err := config.ParsePlugin(cniconf.PluginConfig(conf))
	if err != nil {
		return err
	}
	return p.Usable()
}

// capabilities returns the capabilities of the cluster network and of the daemon's configuration, and that for the
// pod's annotations.
func capabilities(d *config.Daemon, p *Primary) (map[string]bool, error) {
	caps, err := p.Config.Capabilities()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.File, err)
	}
	for k, v := range d.Capabilities {
		caps[k] = caps[k] || v
	}
	for k, v := range caps {
		if !v {
			delete(caps, k)
		}
	}
	caps[config.PodAnnotations] = true
	return caps, nil
}

// autoVersion returns the version of the configuration if the daemon's configuration sets none. A cluster network
// without a version inherits that of the configuration. It was written for an older version, so that no newer one is
// chosen.
func autoVersion(p *Primary, f Facts) string {
	if p.Config.Version() == "" || f.Version == "" {
		return p.Config.Version()
	}
	return f.Version
}
