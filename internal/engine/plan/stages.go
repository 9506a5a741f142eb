package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"multus/internal/engine/request"
)

// StageNumbers returns the stage of each attachment of a plan from its Stage fields: the field in a plan with stages,
// else the index. In a plan with stages, some attachment is not in the first stage.
func StageNumbers(fields []int) []int {
	if slices.ContainsFunc(fields, func(stage int) bool { return stage > 0 }) {
		return fields
	}
	out := make([]int, len(fields))
	for i := range out {
		out[i] = i
	}
	return out
}

// Stages returns the indexes of the attachments by stage, in the order in which the stages are made. numbers has the
// stage of each attachment.
func Stages(numbers []int) [][]int {
	var out [][]int
	for i, s := range numbers {
		for len(out) <= s {
			out = append(out, nil)
		}
		out[s] = append(out[s], i)
	}
	return out
}

// stages determines which attachments may be made at the same time (key attachConcurrency; without it all are made
// serially, as NPWG v1.3 §7.3 requires). The cluster network is the first and has a stage of its own. Each other
// attachment is made once all preceding attachments exist that it may depend on.
func (p *planning) stages(out *Plan) error {
	if p.conf.AttachConcurrency < 2 || p.req.Command != request.Add {
		return nil
	}
	out.Concurrency = p.conf.AttachConcurrency
	footprints := make([]footprint, len(out.Attachments))
	for i := range out.Attachments {
		t, err := p.footprintOf(&out.Attachments[i])
		if err != nil {
			return fmt.Errorf("network %s: %w", out.Attachments[i].Name, err)
		}
		footprints[i] = t
	}
	for i := 1; i < len(footprints); i++ {
		stage := 1
		for j := 1; j < i; j++ {
			if footprints[i].orderMatters(&footprints[j]) {
				stage = max(stage, out.Attachments[j].Stage+1)
			}
		}
		out.Attachments[i].Stage = stage
	}
	return nil
}

// footprint is what an attachment uses and other attachments of the pod may use, too.
type footprint struct {
	ifName, network string
	// words holds all keys and string values of the configuration. The name of an interface can be anywhere in them
	// (master of a plugin with linkInContainer, links of a bond, the key of a sysctl).
	words []string
	// routes reports whether the attachment may set a default route or looks for a free routing table.
	routes bool
	// pool is the IPAM plugin, if the order of attachments decides which one gets which address. Otherwise it is "".
	pool string
	// functions holds the physical functions of the devices, or unknownFunction for a device whose function is not known.
	functions []string
	// makes holds the interfaces that the plugins create on the node if they do not exist, and on which others may depend.
	makes []string
}

const unknownFunction = "?"

func (p *planning) footprintOf(a *Attachment) (footprint, error) {
	t := footprint{
		ifName: a.IfName, network: a.Config.Name(),
		routes: !a.Routes.None() || slices.ContainsFunc(a.Config.Types(), ownTables),
	}
	devices := map[string]bool{a.Device: true}
	for n := range a.Config.Types() {
		var conf map[string]any
		if err := a.Config.Decode(n, &conf); err != nil {
			return footprint{}, err
		}
		walk("", conf, func(key string, value any) { t.note(key, value, devices) })
		if conf["type"] == "bridge" {
			bridge, _ := conf["bridge"].(string)
			t.makes = append(t.makes, cmp.Or(bridge, "cni0"))
		}
		ipam, _ := conf["ipam"].(map[string]any)
		switch typ, _ := ipam["type"].(string); typ {
		case "", "static", "host-local": // host-local has a pool per network name
		case "dhcp":
			t.routes = true
		default:
			t.pool, t.routes = typ, true // it is not known what the plugin sets
		}
	}
	var id string
	if json.Unmarshal(a.RuntimeConfig["deviceID"], &id) == nil {
		devices[id] = true
	}
	delete(devices, "")
	for d := range devices {
		t.functions = append(t.functions, p.physicalFunction(d))
	}
	return t, nil
}

// note adds one value of the configuration.
func (t *footprint) note(key string, value any, devices map[string]bool) {
	t.words = append(t.words, key)
	s, ok := value.(string)
	switch {
	case key == "isDefaultGateway" && value == true:
		t.routes = true
	case !ok:
	case key == "deviceID" || key == "pciBusID":
		devices[s] = true
	case isDefault(s):
		t.routes = true
	default:
		t.words = append(t.words, s)
	}
}

// ownTables reports whether a plugin looks for a free routing table in the pod.
func ownTables(typ string) bool { return typ == "sbr" || typ == "vrf" }

// isDefault reports whether a destination is that of a default route.
func isDefault(s string) bool {
	prefix, err := netip.ParsePrefix(s)
	return s == "default" || err == nil && prefix.Bits() == 0
}

// walk calls note for every value in a JSON document that is neither an object nor an array, with the value's key. The
// key of an array's element is that of the array.
func walk(key string, v any, note func(key string, value any)) {
	switch v := v.(type) {
	case map[string]any:
		for k, member := range v {
			walk(k, member, note)
		}
	case []any:
		for _, item := range v {
			walk(key, item, note)
		}
	default:
		note(key, v)
	}
}

func (p *planning) physicalFunction(device string) string {
	if p.PhysicalFunction != nil {
		if f := p.PhysicalFunction(device); f != "" {
			return f
		}
	}
	return unknownFunction
}

// names reports whether the name of an interface occurs anywhere in the configuration.
func (t *footprint) names(ifName string) bool {
	return slices.ContainsFunc(t.words, func(s string) bool { return strings.Contains(s, ifName) })
}

// orderMatters reports whether the order of two attachments may matter: one is made on the other or on what it creates,
// both may set a default route or look for a free routing table, they get addresses from one pool, or they use one
// physical function.
func (t *footprint) orderMatters(o *footprint) bool {
	return t.names(o.ifName) || o.names(t.ifName) ||
		slices.ContainsFunc(t.makes, o.names) || slices.ContainsFunc(o.makes, t.names) ||
		t.routes && o.routes ||
		t.network == o.network || t.pool != "" && t.pool == o.pool ||
		slices.ContainsFunc(t.functions, func(f string) bool {
			return slices.ContainsFunc(o.functions,
				func(g string) bool { return f == g || f == unknownFunction || g == unknownFunction })
		})
}
