package entrypoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"

	"multus/internal/agent/cniconfig"
	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/fsx"
	"multus/internal/rawjson"
)

// plugin is the generated plugin configuration. Its members are in today's order (behaviour G10). confDir replaces
// today's cniConf, which has no effect (behaviour G23).
type plugin struct {
	CNIVersion         string            `json:"cniVersion,omitempty"`
	Name               string            `json:"name,omitempty"`
	Type               string            `json:"type"`
	Capabilities       map[string]bool   `json:"capabilities,omitempty"`
	NamespaceIsolation bool              `json:"namespaceIsolation,omitempty"`
	GlobalNamespaces   string            `json:"globalNamespaces,omitempty"`
	LogToStderr        *bool             `json:"logToStderr,omitempty"`
	LogLevel           string            `json:"logLevel,omitempty"`
	LogFile            string            `json:"logFile,omitempty"`
	BinDir             string            `json:"binDir,omitempty"`
	ConfDir            string            `json:"confDir,omitempty"`
	ReadinessFile      string            `json:"readinessindicatorfile,omitempty"`
	Kubeconfig         string            `json:"kubeconfig"`
	Delegates          []json.RawMessage `json:"delegates"`
	NodeAddresses      []string          `json:"nodeAddresses,omitempty"`
}

// list is the generated configuration from CNI 1.0.0 on.
type list struct {
	CNIVersion string   `json:"cniVersion"`
	Name       string   `json:"name"`
	Plugins    []plugin `json:"plugins"`
}

// writeConf generates the configuration and writes it if it has changed. After that, it removes the file of the other
// name (behaviour G9). A file of the user is copied instead (G6).
func (o *Options) writeConf() (wrote string, err error) {
	if o.ConfFile != auto {
		return o.copyConf()
	}
	p, err := cniconfig.Choose(o.AutoconfigDir, o.MasterFileName)
	if err != nil {
		return "", err
	}
	b, path, err := o.generate(p)
	if err != nil {
		return "", err
	}
	conf, conflist := o.outputs()
	chain := o.findChain(conf, b)
	if chain != nil && (!chain.Shadowed || path == conflist) {
		return keepChain(chain)
	}
	return o.writeOwn(path, b, chain)
}

// writeOwn writes the generated configuration. chain is a list of another program that is out of date and stays beside
// it, or nil. The other program may make a new list at any time.
func (o *Options) writeOwn(path string, b []byte, chain *cniconfig.Chain) (wrote string, err error) {
	conf, conflist := o.outputs()
	changed, err := replaceIf(path, b, func() bool { return chain != nil || cniconfig.FindChain(conf, b) == nil })
	if err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	if chain != nil { // the list belongs to another program
		if changed {
			wrote = path
		}
		return wrote, nil
	}
	if c := o.findChain(conf, b); c != nil {
		return keepChain(c)
	}
	for _, other := range []string{conf, conflist} {
		if other == path {
			continue
		}
		if err := fsx.Remove(other); err != nil {
			return "", fmt.Errorf("remove configuration of another version: %w", err)
		}
	}
	if changed {
		wrote = path
	}
	return wrote, nil
}

// copyConf copies the configuration of the user.
func (o *Options) copyConf() (wrote string, err error) {
	b, err := fsx.ReadFile(o.ConfFile, cniconf.MaxFile)
	if err != nil {
		return "", fmt.Errorf("read multus-conf-file: %w", err)
	}
	path := filepath.Join(o.ConfDir, filepath.Base(o.ConfFile))
	if c := o.findChain(path, b); c != nil && !c.Shadowed {
		return keepChain(c)
	}
	if changed, err := replace(path, b); err != nil || !changed {
		return "", err
	}
	return path, nil
}

// findChain returns the list that another program made of the configuration, or nil. It logs the first list.
func (o *Options) findChain(path string, own []byte) *cniconfig.Chain {
	c := cniconfig.FindChain(path, own)
	if c != nil && !o.chained {
		o.logf("another program has chained plugins to the multus config file: %s", c)
		o.chained = true
	}
	return c
}

// keepChain keeps such a list in force, and updates our plugin in it.
func keepChain(c *cniconfig.Chain) (wrote string, err error) {
	if c.Current() {
		return "", nil
	}
	return c.File, c.Write()
}

// generate returns the configuration for a cluster network, and its path (behaviour G7-G13).
func (o *Options) generate(p *cniconfig.Primary) ([]byte, string, error) {
	v, embedded, err := o.version(p)
	if err != nil {
		return nil, "", err
	}
	caps, err := p.Config.Capabilities()
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", p.File, err)
	}
	caps[config.PodAnnotations] = true
	out := plugin{
		Type: "multus", Capabilities: caps, NamespaceIsolation: o.NamespaceIsolation, GlobalNamespaces: o.GlobalNamespaces,
		LogLevel: o.LogLevel, LogFile: o.LogFile, BinDir: o.AdditionalBinDir, ConfDir: onHost(o.MultusConfDir),
		ReadinessFile: o.ReadinessFile, Kubeconfig: o.KubeconfigFileHost, Delegates: []json.RawMessage{embedded},
	}
	if out.NodeAddresses = o.nodeFacts().Addresses; o.Getenv(nodeAddress) != "" {
		out.NodeAddresses = []string{o.Getenv(nodeAddress)}
	}
	if !o.LogToStderr {
		no := false
		out.LogToStderr = &no
	}
	name := cniconfig.NetworkName
	if o.OverrideNetworkName {
		name = p.Config.Name()
	}
	asList, err := version.GreaterThanOrEqualTo(v, "1.0.0")
	if err != nil {
		return nil, "", fmt.Errorf("cniVersion %q of --cni-version or %s: %w", v, p.File, err)
	}
	conf, conflist := o.outputs()
	if asList {
		b, err := encode(list{CNIVersion: v, Name: name, Plugins: []plugin{out}})
		if err == nil {
			_, err = libcni.NetworkConfFromBytes(b)
		}
		return b, conflist, err
	}
	out.CNIVersion, out.Name = v, name
	b, err := encode(out)
	if err == nil {
		_, err = libcni.NetworkPluginConfFromBytes(b)
	}
	return b, conf, err
}

// version returns the version of the configuration, and the embedded cluster network (behaviour G8). The plugin passes
// each network its own version, so that the two versions differ unless --force-cni-version is set.
func (o *Options) version(p *cniconfig.Primary) (string, json.RawMessage, error) {
	v, embedded := p.Config.Version(), json.RawMessage(p.Config.Bytes())
	switch {
	case o.autoVersion() && v == "":
		return "", nil, fmt.Errorf("cannot get cniVersion in master CNI config file %s", p.File)
	case o.autoVersion():
		return cmp.Or(o.nodeFacts().Version, v), embedded, nil
	case !o.ForceCNIVersion || o.CNIVersion == v:
		return o.CNIVersion, embedded, nil
	}
	forced, err := p.Config.WithVersion(o.CNIVersion)
	if err != nil {
		return "", nil, fmt.Errorf("force cniVersion %s of %s: %w", o.CNIVersion, p.File, err)
	}
	return o.CNIVersion, forced.Bytes(), nil
}

func encode(v any) ([]byte, error) {
	b, err := rawjson.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return append(b, '\n'), nil
}

// onHost returns a path without the prefix under which the container has the host's file system.
func onHost(path string) string { return (&config.Daemon{}).HostPath(path) }

// cleanUp removes the files that writeConf has written (behaviour G22).
func (o *Options) cleanUp() error {
	if o.ConfFile != auto {
		return fsx.Remove(filepath.Join(o.ConfDir, filepath.Base(o.ConfFile)))
	}
	conf, conflist := o.outputs()
	return errors.Join(fsx.Remove(conf), fsx.Remove(conflist))
}
