package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"multus/internal/agent/cniconfig"
	"multus/internal/cniconf"
	"multus/internal/fsx"
)

// extensions are those of the files that a runtime reads in its configuration directory.
var extensions = []string{".conf", ".conflist", ".json"}

// conf is one file of the runtime's configuration directory.
type conf struct {
	path string
	raw  []byte
	// name is the name of the network. err is the reason why the file is no valid configuration.
	name string
	err  error
}

// readConfs reads a configuration directory in name order. A directory that does not exist is empty.
func readConfs(dir string) ([]conf, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read CNI configurations: %w", err)
	}
	var confs []conf
	for _, e := range entries {
		if e.IsDir() || !slices.Contains(extensions, filepath.Ext(e.Name())) {
			continue
		}
		c := conf{path: filepath.Join(dir, e.Name())}
		if c.raw, c.err = fsx.ReadFile(c.path, cniconf.MaxFile); c.err == nil {
			c.name, c.err = nameOf(c.raw)
		}
		confs = append(confs, c)
	}
	return confs, nil
}

func nameOf(b []byte) (string, error) {
	l, err := cniconf.Parse(b)
	if err != nil {
		return "", err
	}
	return l.Name(), nil
}

// writtenByMultus reports whether Multus wrote the file, by its name and content. An empty file counts: today's Multus
// leaves one if the cluster network's configuration is invalid (behaviour F31), and containerd fails on it.
func (c conf) writtenByMultus() bool {
	switch filepath.Base(c.path) {
	case "00-multus.conf", "00-multus.conflist", "00-multus.hold.conf":
		return cniconf.CallsMultus(c.raw) || c.raw != nil && len(bytes.TrimSpace(c.raw)) == 0
	}
	return false
}

// calls reports whether the configuration calls the plugin, directly or as a delegate.
func (c conf) calls(plugin string) bool { return cniconf.Calls(c.raw, plugin) }

// clusterNetworks returns the paths of the cluster networks that the configuration names.
func (c conf) clusterNetworks() []string {
	type multus struct {
		ClusterNetwork string `json:"clusterNetwork"`
	}
	var m struct {
		multus
		Plugins []multus `json:"plugins"`
	}
	if json.Unmarshal(c.raw, &m) != nil {
		return nil
	}
	var out []string
	for _, p := range append([]multus{m.multus}, m.Plugins...) {
		if filepath.IsAbs(p.ClusterNetwork) {
			out = append(out, p.ClusterNetwork)
		}
	}
	return out
}

// primary returns the cluster network of a configuration of Multus: the file that it names, or else its first delegate.
// name is the name of the file to write, or "" if there is no valid cluster network.
func (c conf) primary() (name string, content []byte) {
	type multus struct {
		ClusterNetwork string            `json:"clusterNetwork"`
		Delegates      []json.RawMessage `json:"delegates"`
	}
	var m struct {
		multus
		Plugins []multus `json:"plugins"`
	}
	if json.Unmarshal(c.raw, &m) != nil {
		return "", nil
	}
	for _, p := range append([]multus{m.multus}, m.Plugins...) {
		if filepath.IsAbs(p.ClusterNetwork) {
			read, agent := cniconfig.ClusterNetworkFiles(p.ClusterNetwork)
			for _, file := range []string{agent, read} {
				if b, err := fsx.ReadFile(file, cniconf.MaxFile); err == nil && valid(b) {
					return fileName(filepath.Base(agent), b), b
				}
			}
		}
		if len(p.Delegates) > 0 && valid(p.Delegates[0]) {
			return fileName("10-primary", p.Delegates[0]), p.Delegates[0]
		}
	}
	return "", nil
}

// valid reports whether a runtime can use a configuration, and it does not call Multus.
func valid(b []byte) bool {
	name, err := nameOf(b)
	return err == nil && name != "" && !cniconf.CallsMultus(b)
}

// fileName returns a file name that runtimes read. A program that sets a file aside appends an extension
// (10-x.conflist.old), which is removed.
func fileName(name string, b []byte) string {
	for n := name; filepath.Ext(n) != ""; n = n[:len(n)-len(filepath.Ext(n))] {
		if slices.Contains(extensions, filepath.Ext(n)) {
			return n
		}
	}
	if l, err := cniconf.Parse(b); err == nil && l.Single() {
		return name + ".conf"
	}
	return name + ".conflist"
}
