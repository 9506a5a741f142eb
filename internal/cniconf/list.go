// Package cniconf represents one network's CNI configuration as one type, whether it was written as a plugin
// configuration or as a list. It is always a list of plugins, keeps the exact bytes, and is edited by methods only. The
// package also reads such configurations from the files of a directory (files.go). It runs nothing. Every package above
// may import it, and no other package edits CNI JSON.
package cniconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/rawjson"
)

// List is a network configuration. The zero value is empty and not usable. A List never changes: methods that edit
// return a new List.
type List struct {
	name    string
	version string
	single  bool
	plugins []plugin
	raw     []byte
	// recased reports whether "name" or "cniVersion" is written in another case.
	recased bool
	// libcni caches the result of Libcni, which is called twice at every ADD.
	libcni atomic.Pointer[libcni.NetworkConfigList]
}

type plugin struct {
	typ string
	raw json.RawMessage
}

// ErrNoType is returned for an object that is neither a plugin configuration nor a list (behaviour B6, M23).
var ErrNoType = errors.New("delegate must have the 'type' or 'plugin' field")

// IsFileName reports whether a file is a CNI configuration by its extension (behaviour B20).
func IsFileName(name string) bool {
	return slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name))
}

// MaxFile is the maximum size of a CNI configuration file that is read.
const MaxFile = 1 << 20

// Parse parses a plugin configuration (with a non-empty "type") or a list (with non-empty "plugins": an empty list
// crashes today's Multus, behaviour A37). Name and version may be missing; see WithDefaults.
func Parse(b []byte) (*List, error) {
	l := &List{raw: bytes.Clone(b)}
	o, err := parseObject(l.raw)
	if err != nil {
		return nil, fmt.Errorf("parse CNI configuration: %w", err)
	}
	if l.name, err = o.foldedString("name"); err != nil {
		return nil, err
	}
	if l.version, err = o.foldedString("cniVersion"); err != nil {
		return nil, err
	}
	l.recased = o.folded("name") != "name" || o.folded("cniVersion") != "cniVersion"
	typ, err := o.foldedString("type")
	if err != nil {
		return nil, err
	}
	if typ != "" {
		l.single = true
		l.plugins = []plugin{{typ: typ, raw: l.raw}}
		return l, nil
	}
	return l, l.parsePlugins(o)
}

// ParseWith parses a list as Parse does and appends more plugins to its own, which may then be empty (subdirectory
// chaining, behaviour B35).
func ParseWith(b []byte, more [][]byte) (*List, error) {
	if len(more) == 0 {
		return Parse(b)
	}
	o, err := parseObject(b)
	if err != nil {
		return nil, fmt.Errorf("parse CNI configuration: %w", err)
	}
	var items []json.RawMessage
	if raw, ok := o.vals["plugins"]; ok {
		if err := json.Unmarshal(raw, &items); err != nil {
			return nil, fmt.Errorf("\"plugins\" must be an array: %w", err)
		}
	}
	for _, m := range more {
		items = append(items, m)
	}
	o.set("plugins", join(items))
	return Parse(o.bytes())
}

func (l *List) parsePlugins(o *object) error {
	raw, ok := o.vals["plugins"]
	if !ok {
		return ErrNoType
	}
	var items []json.RawMessage
	if err := rawjson.Array(raw, func(item []byte) error { items = append(items, item); return nil }); err != nil &&
		string(raw) != "null" {
		return fmt.Errorf("\"plugins\" must be an array: %w", err)
	}
	if len(items) == 0 {
		return errors.New("\"plugins\" is empty: a list needs at least one plugin")
	}
	for i, item := range items {
		p, err := parseObject(item)
		if err != nil {
			return fmt.Errorf("plugin %d: %w", i+1, err)
		}
		typ, err := p.foldedString("type")
		if err != nil {
			return fmt.Errorf("plugin %d: %w", i+1, err)
		}
		if typ == "" {
			return fmt.Errorf("plugin %d: a plugin delegate must have the 'type' field", i+1)
		}
		l.plugins = append(l.plugins, plugin{typ: typ, raw: item})
	}
	return nil
}

// Name returns the network's name, or "" if it is omitted.
func (l *List) Name() string { return l.name }

// Version returns the cniVersion as written, or "" if it is omitted.
func (l *List) Version() string { return l.version }

// Single reports whether the configuration was written as a plugin configuration, not as a list.
func (l *List) Single() bool { return l.single }

// Bytes returns the configuration as JSON. The caller must not change it.
func (l *List) Bytes() []byte { return l.raw }

// Size returns the size of the configuration in bytes.
func (l *List) Size() int { return len(l.raw) }

// Len returns the number of plugins.
func (l *List) Len() int { return len(l.plugins) }

// Types returns the plugins' types in order.
func (l *List) Types() []string {
	out := make([]string, len(l.plugins))
	for i, p := range l.plugins {
		out[i] = p.typ
	}
	return out
}

// IPAMTypes returns the type of the IPAM plugin of each plugin, or "" for none. Keys match in any case, as in the
// plugins' decoders.
func (l *List) IPAMTypes() []string {
	out := make([]string, len(l.plugins))
	for i := range l.plugins {
		out[i] = ipamType(l.plugins[i].raw)
	}
	return out
}

// ipamType returns the type of a plugin's IPAM plugin, or "" for none.
func ipamType(plugin []byte) string {
	ipam := member(plugin, "ipam")
	if len(ipam) == 0 || ipam[0] != '{' {
		return ""
	}
	typ, _ := rawjson.String(member(ipam, "type"))
	return typ
}

// AllTypes returns the types of the plugins, and then those of their IPAM plugins.
func (l *List) AllTypes() []string {
	out := make([]string, len(l.plugins), 2*len(l.plugins))
	for i := range l.plugins {
		out[i] = l.plugins[i].typ
		if typ := ipamType(l.plugins[i].raw); typ != "" {
			out = append(out, typ)
		}
	}
	return out
}

// CheckTypes returns an error if a type is not the name of a file (behaviour K1). libcni refuses it too, but only when
// the plugin is executed: other networks are attached by then.
func CheckTypes(types []string) error {
	for _, typ := range types {
		if typ == "." || typ == ".." || strings.ContainsAny(typ, "/\x00") {
			return fmt.Errorf("%.253q is not the name of a program", typ)
		}
	}
	return nil
}

// member returns a member of an object by its key in any case. The last one wins.
func member(object []byte, key string) (value []byte) {
	_ = rawjson.Object(object, func(k string, v []byte) error { // it is valid
		if strings.EqualFold(k, key) {
			value = v
		}
		return nil
	})
	return value
}

// Decode decodes the configuration of the n-th plugin, counted from 0, into a value. It is for inspection, not for
// editing.
func (l *List) Decode(n int, into any) error {
	if err := json.Unmarshal(l.plugins[n].raw, into); err != nil {
		return fmt.Errorf("plugin %d (%q): %w", n+1, l.plugins[n].typ, err)
	}
	return nil
}

// Ambiguous returns an error if an object of the configuration, at any depth, has two keys that differ only in case. A
// plugin may use one of them, and a check of the configuration the other.
func (l *List) Ambiguous() error { return rawjson.Ambiguous(l.raw) }

// WithDefaults sets a missing name and a missing cniVersion. The version of the outer configuration is inherited at
// every verb (behaviour B3; B5 and D63).
func (l *List) WithDefaults(name, version string) (*List, error) {
	if l.name != "" && (l.version != "" || version == "") {
		return l, nil
	}
	return l.edit(func(o *object) error {
		if l.name == "" {
			o.setString(o.folded("name"), name)
		}
		if l.version == "" && version != "" {
			o.setString(o.folded("cniVersion"), version)
		}
		return nil
	})
}

// WithVersion sets the cniVersion.
func (l *List) WithVersion(version string) (*List, error) {
	return l.edit(func(o *object) error {
		o.setString(o.folded("cniVersion"), version)
		return nil
	})
}

// WithCNIArgs merges args into args.cni of every plugin. Equal keys are overwritten, others are kept (behaviour C30,
// C68). Keys are equal in any case, as for the plugin that decodes them. An "args" or "args.cni" that is not an object
// is an error (it crashes today's Multus).
func (l *List) WithCNIArgs(args map[string]json.RawMessage) (*List, error) {
	if args == nil {
		return l, nil
	}
	return l.editPlugins(func(o *object) error {
		outerKey := o.folded("args")
		outer, err := o.child(outerKey)
		if err != nil {
			return err
		}
		innerKey := outer.folded("cni")
		inner, err := outer.child(innerKey)
		if err != nil {
			return fmt.Errorf("args: %w", err)
		}
		for _, k := range slices.Sorted(maps.Keys(args)) {
			inner.set(inner.folded(k), args[k])
		}
		outer.set(innerKey, inner.bytes())
		o.set(outerKey, outer.bytes())
		return nil
	})
}

// WithDevice sets deviceID and pciBusID in every plugin (behaviour C69, Q11).
func (l *List) WithDevice(id string) (*List, error) {
	return l.editPlugins(func(o *object) error {
		o.setString(o.folded("deviceID"), id)
		o.setString(o.folded("pciBusID"), id)
		return nil
	})
}

// WithoutPod returns the configuration without what WithDevice and WithCNIArgs add for one pod.
func (l *List) WithoutPod() (*List, error) {
	if !l.mentions(`"deviceID"`) && !l.mentions(`"pciBusID"`) && !l.mentions(`"cni"`) {
		return l, nil
	}
	return l.editPlugins(func(o *object) error {
		o.remove(o.folded("deviceID"))
		o.remove(o.folded("pciBusID"))
		key := o.folded("args")
		args, err := o.child(key)
		if err != nil || args.vals[args.folded("cni")] == nil {
			return err
		}
		args.remove(args.folded("cni"))
		o.set(key, args.bytes())
		return nil
	})
}

// mentions reports whether the configuration contains a quoted string, in any case.
func (l *List) mentions(quoted string) bool {
	for rest := l.raw; ; rest = rest[1:] {
		i := bytes.IndexByte(rest, '"')
		if i < 0 || len(rest)-i < len(quoted) {
			return false
		}
		if rest = rest[i:]; strings.EqualFold(string(rest[:len(quoted)]), quoted) {
			return true
		}
	}
}

// Capabilities returns the capabilities that at least one plugin declares as true.
func (l *List) Capabilities() (map[string]bool, error) {
	out := map[string]bool{}
	for _, p := range l.plugins {
		var c struct {
			Capabilities map[string]bool `json:"capabilities"`
		}
		if err := json.Unmarshal(p.raw, &c); err != nil {
			return nil, fmt.Errorf("capabilities of plugin %q: %w", p.typ, err)
		}
		for k, v := range c.Capabilities {
			out[k] = out[k] || v
		}
	}
	return out, nil
}

// Libcni returns the configuration for libcni's list calls. A plugin configuration becomes a list of one plugin whose
// cache entry contains the configuration as it was written, as in today's Multus (behaviour D84).
func (l *List) Libcni() (*libcni.NetworkConfigList, error) {
	made := l.libcni.Load()
	if made == nil {
		var err error
		if made, err = l.toLibcni(); err != nil {
			return nil, err
		}
		l.libcni.Store(made)
	}
	out := *made
	out.Plugins = slices.Clone(made.Plugins) // the caller may remove some
	return &out, nil
}

func (l *List) toLibcni() (*libcni.NetworkConfigList, error) {
	switch {
	case !l.single && l.recased:
		return l.recasedToLibcni()
	case !l.single:
		return libcni.NetworkConfFromBytes(l.raw)
	}
	conf, err := libcni.NetworkPluginConfFromBytes(l.raw)
	if err != nil {
		return nil, err
	}
	return &libcni.NetworkConfigList{
		Name: l.name, CNIVersion: l.version, Plugins: []*libcni.PluginConfig{conf}, Bytes: l.raw,
	}, nil
}

// recasedToLibcni is toLibcni for a list whose name or cniVersion is written in another case. libcni reads these
// members of a list in their own case only, so they are renamed for it. The bytes stay as written.
func (l *List) recasedToLibcni() (*libcni.NetworkConfigList, error) {
	o, err := parseObject(l.raw)
	if err != nil {
		return nil, err
	}
	o.rename("name")
	o.rename("cniVersion")
	list, err := libcni.NetworkConfFromBytes(o.bytes())
	if err == nil {
		list.Bytes = l.raw
	}
	return list, err
}

// MarshalJSON returns the configuration itself. If an encoder would change a byte of it (white space, < > &), it
// returns the configuration as a JSON string, so that exactly what was written is recorded and passed on.
func (l *List) MarshalJSON() ([]byte, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, l.raw); err != nil {
		return nil, err
	}
	if bytes.Equal(compact.Bytes(), l.raw) && !bytes.ContainsAny(l.raw, "<>&\u2028\u2029") {
		return l.raw, nil
	}
	return rawjson.AppendString(nil, string(l.raw)), nil
}

// UnmarshalJSON decodes both forms of MarshalJSON.
func (l *List) UnmarshalJSON(b []byte) error {
	if s, ok := rawjson.String(b); ok && s != "" {
		b = []byte(s)
	}
	p, err := Parse(b)
	if err != nil {
		return err
	}
	l.name, l.version, l.single, l.plugins, l.raw, l.recased = p.name, p.version, p.single, p.plugins, p.raw, p.recased
	l.libcni.Store(nil)
	return nil
}

func (l *List) edit(change func(*object) error) (*List, error) {
	o, err := parseObject(l.raw)
	if err != nil {
		return nil, err
	}
	if err := change(o); err != nil {
		return nil, err
	}
	return Parse(o.bytes())
}

func (l *List) editPlugins(change func(*object) error) (*List, error) {
	if l.single {
		return l.edit(change)
	}
	return l.edit(func(o *object) error {
		items := make([]json.RawMessage, 0, len(l.plugins))
		for i, p := range l.plugins {
			po, err := parseObject(p.raw)
			if err != nil {
				return err
			}
			if err := change(po); err != nil {
				return fmt.Errorf("plugin %d (%q): %w", i+1, p.typ, err)
			}
			items = append(items, po.bytes())
		}
		o.set("plugins", join(items))
		return nil
	})
}

// child returns a member that is an object. An absent member and null are returned as an empty object.
func (o *object) child(key string) (*object, error) {
	v, ok := o.vals[key]
	if !ok || string(v) == "null" {
		return &object{vals: map[string]json.RawMessage{}}, nil
	}
	c, err := parseObject(v)
	if err != nil {
		return nil, fmt.Errorf("%q must be an object, not %s", key, v)
	}
	return c, nil
}

func join(items []json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, item := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(item)
	}
	b.WriteByte(']')
	return b.Bytes()
}
