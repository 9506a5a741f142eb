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

	"multus/internal/cniconf"
)

// given reports whether the definition has a configuration.
func (n *network) given() bool {
	return n.config.start != (mark{}) && strings.TrimSpace(n.config.value) != ""
}

// parse parses the configuration. What is invalid is refused by the planner.
func (n *network) parse() {
	list, err := cniconf.Parse([]byte(n.config.value))
	if err == nil {
		n.tree, err = parseTree(n.config.value)
	}
	if err == nil {
		n.list = list
	}
}

// checkNetwork checks one definition by itself.
func (n *network) checkNetwork() {
	switch {
	case n.config.start != (mark{}) && !n.given():
		n.fromFile(n.config.start)
		return
	case n.list == nil:
		return
	}
	n.tree.duplicates(func(first, second member) {
		if first.key == second.key { // others are ambiguous
			n.add(n.config.at(second.offset), Error, "config", "remove one of them",
				"the key %q is duplicated: the last one applies", second.key)
		}
	})
	n.version()
	if !n.list.Single() {
		n.keys(n.tree, "the list", ofList)
	}
	for i, p := range n.plugins() {
		n.plugin(p, i)
	}
}

// fromFile reports a definition without a configuration, which each node reads from a file.
func (n *network) fromFile(at mark) {
	n.add(at, Warning, "config", "write the configuration into spec.config, unless every node has such a file",
		"spec.config is empty: each node looks for a file with a network %q in its confDir", n.ref.Name)
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
		if v := t.get(key); v.kindOr(isText) != isText {
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

// version reports a cniVersion that no plugin supports. Without a version, that of the configuration of Multus is used.
func (n *network) version() {
	known := version.All.SupportedVersions()
	if v := n.list.Version(); v != "" && !slices.Contains(known, v) {
		n.add(n.config.at(n.tree.get("cniVersion").offset), Error, "cni-version", "write one of "+strings.Join(known, ", "),
			"cniVersion %q is unknown", v)
	}
}

// plugin checks one plugin of the chain.
func (n *network) plugin(p *tree, index int) {
	typ := p.get("type").text()
	at := n.config.at(p.get("type").offset)
	if index == 0 && slices.Contains(chainedOnly, typ) {
		n.add(at, Error, "chain", "put it after the plugin that makes the interface, in \"plugins\"",
			"%s needs the result of a plugin before it", typ)
	}
	n.capabilities(p)
	n.ipam(p)
	known, ok := references[typ]
	if !ok {
		return
	}
	all := maps.Clone(common)
	maps.Copy(all, known)
	n.keys(p, typ, all)
	n.minimumVersion(typ)
	n.values(p, typ)
	n.needs(p, typ)
}

// minimumVersion reports a cniVersion that is older than those that the plugin supports.
func (n *network) minimumVersion(typ string) {
	least, v := since[typ], n.list.Version()
	if least == "" || v == "" {
		return
	}
	if ok, err := version.GreaterThanOrEqualTo(v, least); err == nil && !ok {
		n.add(n.config.at(n.tree.get("cniVersion").offset), Error, "cni-version", "write "+least+" or a newer one",
			"%s supports cniVersion %s and newer, not %s", typ, least, v)
	}
}

// keys reports members that the plugin does not read, and values of a wrong type.
func (n *network) keys(t *tree, whose string, known keys) {
	names := slices.Sorted(maps.Keys(known))
	for _, m := range t.members {
		want, ok := known[m.key]
		at := n.config.at(m.offset)
		near := nearest(m.key, names)
		if strings.EqualFold(m.key, "version") {
			near = "cniVersion"
		}
		switch {
		case ok:
			if got := m.value.kind(); want != isAny && got != want && got != isNull {
				n.add(n.config.at(m.value.offset), Error, "type", fmt.Sprintf("write %s", want), "%s: %q must be %s, not %s", whose,
					m.key, want, got)
			}
		case strings.HasPrefix(m.key, "_"): // a comment, by convention
		case near != "" && strings.EqualFold(near, m.key): // plugins ignore the case of keys
		case near != "":
			n.add(at, Warning, "unknown-key", fmt.Sprintf("did you mean %q?", near), "%s does not support the key %q",
				whose, m.key)
		default:
			n.add(at, Warning, "unknown-key", "remove it; "+whose+" supports "+strings.Join(names, ", "),
				"%s does not support the key %q", whose, m.key)
		}
	}
}

// values checks strings with few valid values, names of interfaces, and ranges of numbers.
func (n *network) values(p *tree, typ string) {
	for key, allowed := range values[typ] {
		v := p.get(key)
		if v.kindOr(isText) == isText && !slices.Contains(allowed, v.text()) {
			n.add(n.config.at(v.offset), Error, "value", "write "+strings.Join(allowed[1:], ", "), "%s: %s %q is unknown", typ,
				key, v.text())
		}
	}
	for _, key := range []string{"master", "bridge", "device", "vrfname"} {
		if v := p.get(key); v.text() != "" {
			if err := utils.ValidateInterfaceName(v.text()); err != nil {
				n.add(n.config.at(v.offset), Error, "interface-name", "use at most 15 characters, without / : and spaces",
					"%s: %s %q: %s", typ, key, v.text(), err.Msg)
			}
		}
	}
	if v := p.get("mac"); v.text() != "" {
		n.mac(n.config.at(v.offset), v.text())
	}
	if typ == "host-device" {
		n.hardware(p)
	}
	for key, limit := range map[string][2]int64{"vlan": {0, 4094}, "vlanId": {0, 4094}, "mtu": {0, 65535}} {
		v := p.get(key)
		if i, ok := v.integer(); ok && (i < limit[0] || i > limit[1]) {
			n.add(n.config.at(v.offset), Error, "value", fmt.Sprintf("write a number from %d to %d", limit[0], limit[1]),
				"%s: %s is %d", typ, key, i)
		}
	}
}

// pciAddress matches a PCI address as the kernel writes it. Another form is not found.
var pciAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// hardware checks the keys by which host-device finds its device.
func (n *network) hardware(p *tree) {
	if v := p.get("hwaddr"); v.text() != "" {
		if _, err := net.ParseMAC(v.text()); err != nil {
			n.add(n.config.at(v.offset), Error, "mac", "write six bytes: 02:00:00:00:00:01", "hwaddr %q is not a MAC address",
				v.text())
		}
	}
	if v := p.get("pciBusID"); v.text() != "" && !pciAddress.MatchString(v.text()) {
		n.add(n.config.at(v.offset), Error, "value",
			`write domain, bus, device and function in small hexadecimal digits, as lspci -D does: "0000:3b:02.1"`,
			"pciBusID %q is not a PCI address", v.text())
	}
	if v := p.get("kernelpath"); v.text() != "" && !strings.HasPrefix(v.text(), "/sys/devices/") {
		n.add(n.config.at(v.offset), Error, "value", "write a path below /sys/devices",
			"kernelpath %q is not a path below /sys/devices", v.text())
	}
}

// needs reports missing keys without which the plugin fails.
func (n *network) needs(p *tree, typ string) {
	at := n.config.at(p.get("type").offset)
	has := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(key string) bool { return p.get(key) != nil && p.get(key).value != "" })
	}
	given := n.resource.value != "" || p.get("capabilities").get("deviceID") != nil
	switch {
	case typ == "vlan" && !has("master"):
		n.add(at, Error, "missing-key", `add "master": the interface of the node`, "vlan needs a master")
	case typ == "vrf" && !has("vrfname"):
		n.add(at, Error, "missing-key", `add "vrfname"`, "vrf needs the name of the VRF")
	case typ == "host-device" && !given && !has("device", "hwaddr", "kernelpath", "pciBusID", "deviceID"):
		n.add(at, Error, "missing-key",
			`add "device", "hwaddr", "kernelpath" or "pciBusID", or the annotation k8s.v1.cni.cncf.io/resourceName`,
			"host-device has no device")
	case typ == "bridge" && p.get("isDefaultGateway").isTrue() && !has("ipam"):
		n.add(at, Error, "missing-key", "add ipam, or remove isDefaultGateway", "a bridge that is a gateway needs ipam")
	}
}

// capabilities checks that each capability is true or false.
func (n *network) capabilities(p *tree) {
	c := p.get("capabilities")
	if c == nil {
		return
	}
	if c.kind() != isObject {
		n.add(n.config.at(c.offset), Error, "type", `write an object: {"ips": true}`,
			"capabilities must be an object, not %s", c.kind())
		return
	}
	for _, m := range c.members {
		if m.value.kind() != isBool {
			n.add(n.config.at(m.value.offset), Error, "type", "write true or false",
				"capability %q must be true or false, not %s", m.key, m.value.kind())
		}
	}
}

func (t *tree) kindOr(absent kind) kind {
	if t == nil {
		return absent
	}
	return t.kind()
}

func (t *tree) isTrue() bool { return t != nil && t.value == true }
