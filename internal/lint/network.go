package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
	"go.yaml.in/yaml/v3"

	"multus/internal/cniconf"
)

// plugin is one plugin of a network.
type plugin struct {
	*network
	*tree
	index int
	typ   string
}

// plugins returns the plugins of the chain. It returns none if the configuration is invalid.
func (n *network) plugins() []plugin {
	if n.list == nil {
		return nil
	}
	trees := []*tree{n.tree}
	if !n.list.Single() {
		trees = n.tree.get("plugins").list()
	}
	var out []plugin
	for i, t := range trees {
		out = append(out, plugin{n, t, i, t.get("type").text()})
	}
	return out
}

// types returns the type of each plugin, and of its IPAM plugin.
func (n *network) types() []*tree {
	var out []*tree
	for _, p := range n.plugins() {
		for _, t := range []*tree{p.get("type"), p.get("ipam").get("type")} {
			if t != nil {
				out = append(out, t)
			}
		}
	}
	return out
}

// place returns the position of a part of the configuration, or of the configuration if it does not have the part.
func (n *network) place(t *tree) mark {
	if t == nil {
		return n.config.start
	}
	return n.config.at(t.offset)
}

// add adds a finding at a part of the configuration.
func (n *network) add(r *reporter, t *tree, fix, format string, args ...any) {
	r.add(n.object, n.place(t), fix, format, args...)
}

// checkConfig reports configurations that are missing or not what they seem. The planner refuses invalid ones.
func checkConfig(r *reporter, n *network) {
	const fix = "write the configuration as a string: config: | and JSON below it"
	spec := n.root.get("spec")
	config := spec.get("config")
	switch {
	case !config.exists():
		for key := range spec.pairs() {
			if nearest(key.Value, []string{"config"}) != "" {
				r.add(n.object, key.mark(), "call it config", "spec has %q and no config", key.Value)
				return
			}
		}
		n.fromFile(r, n.at)
	case config.Kind != yaml.ScalarNode:
		r.add(n.object, config.mark(), fix, "spec.config is an object, not a string of JSON")
	case config.Tag != "!!str" && config.Tag != "!!null":
		r.add(n.object, config.mark(), fix, "spec.config must be a string, not %s", config.Value)
	case !n.given():
		n.fromFile(r, config.mark())
	case n.list != nil:
		n.tree.duplicates(func(first, second member) {
			if first.key == second.key { // others are ambiguous
				r.add(n.object, n.config.at(second.offset), "remove one of them", "the key %q is duplicated: the last one applies",
					second.key)
			}
		})
	}
}

// given reports whether the definition has a configuration.
func (n *network) given() bool { return strings.TrimSpace(n.config.value) != "" }

// fromFile reports a definition without a configuration, which each node reads from a file.
func (n *network) fromFile(r *reporter, at mark) {
	r.warn(n.object, at, "write the configuration into spec.config, unless every node has such a file",
		"spec.config is empty: each node looks for a file with a network %q in its confDir", n.name)
}

// errorOffset returns the offset at which a string stops being valid JSON, or that of the decoder's error.
func errorOffset(err error, value string) int {
	var v any
	if invalid := json.Unmarshal([]byte(value), &v); invalid != nil {
		err = invalid
	}
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return max(int(syntax.Offset)-1, 0)
	case errors.As(err, &typ):
		return max(int(typ.Offset)-1, 0)
	}
	return 0
}

// invalidMember returns the offset at which valid JSON is no CNI configuration: that of the first invalid member.
func invalidMember(t *tree) int {
	for _, key := range []string{"name", "cniVersion", "type"} {
		if v := t.get(key); v.kindOr(isString) != isString {
			return v.offset
		}
	}
	plugins := t.get("plugins")
	if plugins == nil {
		return t.offset
	}
	for _, p := range plugins.items {
		if p.kind() != isObject || p.get("type").text() == "" {
			return p.offset
		}
	}
	return plugins.offset
}

// fixFor returns a fix for the usual mistakes.
func fixFor(err error, value string) string {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, cniconf.ErrNoType):
		return `add "type" with the name of a plugin, or "plugins" with a list of them`
	case !errors.As(err, &syntax) && !strings.Contains(err.Error(), "EOF"):
		return "correct spec.config; see the documentation of the plugin"
	case !strings.HasPrefix(strings.TrimSpace(value), "{"):
		return "write JSON: { at the beginning and } at the end"
	case strings.Contains(value, "'"):
		return "use double quotes in JSON"
	case strings.Contains(value, "//") || strings.Contains(value, "#"):
		return "remove the comment: JSON has none; put it into the YAML above"
	}
	return "correct the JSON: a comma between two members and none after the last one, and every bracket closed"
}

// checkVersion reports a cniVersion that no plugin supports. Without a version, that of the configuration of Multus is
// used.
func checkVersion(r *reporter, n *network) {
	known := version.All.SupportedVersions()
	if v := n.list.Version(); v != "" && !slices.Contains(known, v) {
		n.add(r, n.tree.get("cniVersion"), "write one of "+strings.Join(known, ", "), "cniVersion %q is unknown", v)
	}
}

// checkMinimumVersion reports a cniVersion that is older than those that the plugin supports.
func checkMinimumVersion(r *reporter, p plugin) {
	least, v := since[p.typ], p.network.list.Version()
	if least == "" || v == "" {
		return
	}
	if ok, err := version.GreaterThanOrEqualTo(v, least); err == nil && !ok {
		p.add(r, p.network.tree.get("cniVersion"), "write "+least+" or a newer one",
			"%s supports cniVersion %s and newer, not %s", p.typ, least, v)
	}
}

func checkChain(r *reporter, p plugin) {
	if p.index == 0 && slices.Contains(chainedOnly, p.typ) {
		p.add(r, p.get("type"), "put it after the plugin that makes the interface, in \"plugins\"",
			"%s needs the result of a plugin before it", p.typ)
	}
}

// schema is an object of a configuration and the keys that it may have.
type schema struct {
	*network
	*tree
	whose string
	known keys
}

// schemas returns the objects whose keys are known: those of lists, reference plugins and reference IPAM plugins.
func (n *network) schemas() []schema {
	var out []schema
	if !n.list.Single() {
		out = append(out, schema{n, n.tree, "the list", ofList})
	}
	for _, p := range n.plugins() {
		if known, ok := references[p.typ]; ok {
			all := maps.Clone(common)
			maps.Copy(all, known)
			out = append(out, schema{n, p.tree, p.typ, all})
		}
		typ := p.ipam().get("type").text()
		if known, ok := ipams[typ]; ok {
			out = append(out, schema{n, p.ipam(), "ipam " + typ, known})
		}
		for _, t := range p.ranges() {
			if t != p.ipam() { // the older form of a range is the object of IPAM
				out = append(out, schema{n, t, "a range of host-local", ofRange})
			}
		}
	}
	return out
}

// checkTypes reports values of a wrong type.
func checkTypes(r *reporter, s schema) {
	for _, m := range s.members {
		want, ok := s.known[m.key]
		if got := m.value.kind(); ok && want != isAny && got != want && got != isNull {
			s.add(r, m.value, fmt.Sprintf("write %s", want), "%s: %q must be %s, not %s", s.whose, m.key, want, got)
		}
	}
}

// checkKeys reports members that the plugin does not read.
func checkKeys(r *reporter, s schema) {
	names := slices.Sorted(maps.Keys(s.known))
	for _, m := range s.members {
		near := nearest(m.key, names)
		if strings.EqualFold(m.key, "version") {
			near = "cniVersion"
		}
		if strings.HasPrefix(m.key, "_") || strings.EqualFold(near, m.key) {
			continue // "_" begins a comment, by convention; plugins ignore the case of keys
		}
		fix := fmt.Sprintf("did you mean %q?", near)
		if near == "" {
			fix = "remove it; " + s.whose + " supports " + strings.Join(names, ", ")
		}
		r.add(s.object, s.config.at(m.offset), fix, "%s does not support the key %q", s.whose, m.key)
	}
}

// checkCapabilityTypes checks that each capability is true or false.
func checkCapabilityTypes(r *reporter, p plugin) {
	c := p.get("capabilities")
	if c == nil {
		return
	}
	if c.kind() != isObject {
		p.add(r, c, `write an object: {"ips": true}`, "capabilities must be an object, not %s", c.kind())
	}
	for _, m := range c.members {
		if m.value.kind() != isBool {
			p.add(r, m.value, "write true or false", "capability %q must be true or false, not %s", m.key, m.value.kind())
		}
	}
}

// isReference reports whether the plugin is a reference plugin, whose keys are known.
func (p plugin) isReference() bool { return references[p.typ] != nil }

// checkInterfaceNames checks the names of interfaces of the node.
func checkInterfaceNames(r *reporter, p plugin) {
	for _, key := range []string{"master", "bridge", "device", "vrfname"} {
		v := p.get(key)
		if v.text() == "" || !p.isReference() {
			continue
		}
		if err := utils.ValidateInterfaceName(v.text()); err != nil {
			p.add(r, v, "use at most 15 characters, without / : and spaces", "%s: %s %q: %s", p.typ, key, v.text(), err.Msg)
		}
	}
}

func checkMACs(r *reporter, p plugin) {
	if v := p.get("mac"); v.text() != "" && p.isReference() {
		r.mac(p.object, p.place(v), v.text())
	}
	if v := p.get("hwaddr"); v.text() != "" && p.typ == "host-device" {
		if _, err := net.ParseMAC(v.text()); err != nil {
			p.add(r, v, "write six bytes: 02:00:00:00:00:01", "hwaddr %q is not a MAC address", v.text())
		}
	}
}

// pciAddress matches a PCI address as the kernel writes it. Another form is not found.
var pciAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// checkValues checks strings with few valid values, ranges of numbers, and the keys by which host-device finds its
// device.
func checkValues(r *reporter, p plugin) {
	for key, allowed := range values[p.typ] {
		v := p.get(key)
		if v.kindOr(isString) == isString && !slices.Contains(allowed, v.text()) {
			p.add(r, v, "write "+strings.Join(allowed[1:], ", "), "%s: %s %q is unknown", p.typ, key, v.text())
		}
	}
	for key, limit := range map[string][2]int64{"vlan": {0, 4094}, "vlanId": {0, 4094}, "mtu": {0, 65535}} {
		v := p.get(key)
		if i, ok := v.integer(); ok && p.isReference() && (i < limit[0] || i > limit[1]) {
			p.add(r, v, fmt.Sprintf("write a number from %d to %d", limit[0], limit[1]), "%s: %s is %d", p.typ, key, i)
		}
	}
	if p.typ != "host-device" {
		return
	}
	if v := p.get("pciBusID"); v.text() != "" && !pciAddress.MatchString(v.text()) {
		p.add(r, v, `write domain, bus, device and function in small hexadecimal digits, as lspci -D does: "0000:3b:02.1"`,
			"pciBusID %q is not a PCI address", v.text())
	}
	if v := p.get("kernelpath"); v.text() != "" && !strings.HasPrefix(v.text(), "/sys/devices/") {
		p.add(r, v, "write a path below /sys/devices", "kernelpath %q is not a path below /sys/devices", v.text())
	}
}

// checkNeeds reports missing keys without which the plugin fails.
func checkNeeds(r *reporter, p plugin) {
	has := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(key string) bool { return p.get(key) != nil && p.get(key).value != "" })
	}
	given := p.resource != "" || p.get("capabilities").get("deviceID") != nil
	fix, message := "", ""
	switch {
	case p.typ == "vlan" && !has("master"):
		fix, message = `add "master": the interface of the node`, "vlan needs a master"
	case p.typ == "vrf" && !has("vrfname"):
		fix, message = `add "vrfname"`, "vrf needs the name of the VRF"
	case p.typ == "host-device" && !given && !has("device", "hwaddr", "kernelpath", "pciBusID", "deviceID"):
		fix = `add "device", "hwaddr", "kernelpath" or "pciBusID", or the annotation k8s.v1.cni.cncf.io/resourceName`
		message = "host-device has no device"
	case p.typ == "bridge" && p.get("isDefaultGateway").isTrue() && !has("ipam"):
		fix, message = "add ipam, or remove isDefaultGateway", "a bridge that is a gateway needs ipam"
	default:
		return
	}
	p.add(r, p.get("type"), fix, "%s", message)
}
