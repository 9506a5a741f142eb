package cniconf

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/libcni"
)

// Stdin returns what libcni writes to the standard input of each plugin at ADD, except prevResult, which exists only in
// a real ADD. This is the plugin's configuration with the network's name and version, and with those members of
// runtimeConfig whose capability the plugin declares.
func (l *List) Stdin(runtimeConfig map[string]json.RawMessage) ([]json.RawMessage, error) {
	list, err := l.Libcni()
	if err != nil {
		return nil, err
	}
	out := make([]json.RawMessage, len(list.Plugins))
	for i, p := range list.Plugins {
		members := map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}
		passed := map[string]any{}
		for name, supported := range p.Network.Capabilities {
			if v, ok := runtimeConfig[name]; ok && supported {
				passed[name] = v
			}
		}
		if len(passed) > 0 {
			members["runtimeConfig"] = passed
		}
		conf, err := libcni.InjectConf(p, members)
		if err != nil {
			return nil, fmt.Errorf("plugin %d (%q): %w", i+1, p.Network.Type, err)
		}
		out[i] = conf.Bytes
	}
	return out, nil
}
