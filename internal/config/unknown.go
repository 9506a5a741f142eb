package config

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// cniKeys are the keys of CNI configurations that Multus itself does not read (CNI SPEC 1.1 §1).
var cniKeys = []string{
	"capabilities", "cniVersions", "dns", "ipam", "args", "prevResult", "disableCheck", "disableGC",
	"loadOnlyInlinedPlugins", "cniConf",
}

// Unknown returns the keys of a configuration that are never read, in sorted order. The plugin's configuration and the
// daemon's file accept such keys (behaviour A1), and a tool can report them. Each of the two may have the keys of
// both.
func Unknown(conf []byte) []string {
	var members map[string]json.RawMessage
	if json.Unmarshal(conf, &members) != nil {
		return nil
	}
	known := slices.Clone(cniKeys)
	for _, t := range []reflect.Type{reflect.TypeFor[Plugin](), reflect.TypeFor[Daemon]()} {
		for field := range t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name != "-" {
				known = append(known, name)
			}
		}
	}
	var out []string
	for key := range members {
		if !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, key) }) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}
