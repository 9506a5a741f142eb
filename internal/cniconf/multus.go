package cniconf

import (
	"encoding/json"
	"slices"

	"github.com/containernetworking/cni/libcni"
)

// multusTypes are the plugin types of Multus in CNI configurations.
var multusTypes = []string{"multus", "multus-shim"}

// IsMultus reports whether a plugin type is Multus itself, thin or thick. A network that delegates to it would recurse.
func IsMultus(typ string) bool { return slices.Contains(multusTypes, typ) }

// CallsMultus reports whether a CNI configuration calls Multus: directly, as a plugin of a list, or as a delegate of
// one of these, at any depth. It returns false for a configuration that cannot be parsed.
func CallsMultus(conf []byte) bool { return Calls(conf, multusTypes...) }

// Calls reports whether a CNI configuration calls one of the plugin types, as CallsMultus does for Multus.
func Calls(conf []byte, types ...string) bool {
	var v any
	return json.Unmarshal(conf, &v) == nil && calls(v, types)
}

func calls(v any, types []string) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, func(item any) bool { return calls(item, types) })
	case map[string]any:
		if typ, ok := v["type"].(string); ok && slices.Contains(types, typ) {
			return true
		}
		// "delegates" is the key of Multus. "delegate" is the key of flannel and others that call one more plugin.
		return calls(v["plugins"], types) || calls(v["delegates"], types) || calls(v["delegate"], types)
	}
	return false
}

// PluginConfig returns the configuration that a runtime passes to Multus from a CNI configuration that calls it. For a
// list, such as that of the thin deployment, it returns the plugin that is Multus, with the name and version of the
// list. Anything else is returned unchanged.
func PluginConfig(conf []byte) []byte {
	list, err := libcni.NetworkConfFromBytes(conf)
	if err != nil {
		return conf
	}
	for _, p := range list.Plugins {
		if !IsMultus(p.Network.Type) {
			continue
		}
		if p, err = libcni.InjectConf(p, map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}); err == nil {
			return p.Bytes
		}
	}
	return conf
}
