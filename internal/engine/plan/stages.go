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

// StageNumbers returns the stage of each attachment: its own in a plan with stages, else its place.
func (p *Plan) StageNumbers() []int {
	staged := p.staged()
	out := make([]int, len(p.Attachments))
	for i := range p.Attachments {
		out[i] = i
		if staged {
			out[i] = p.Attachments[i].Stage
		}
	}
	return out
}

// staged reports whether a plan has stages: in each that has, some attachment is not in the first.
func (p *Plan) staged() bool {
	return slices.ContainsFunc(p.Attachments, func(a Attachment) bool { return a.Stage > 0 })
}

// Stages are the attachments by number in the order in which they are made.
func (p *Plan) Stages() [][]int {
	var out [][]int
	for i, s := range p.StageNumbers() {
		for len(out) <= s {
			out = append(out, nil)
		}
		out[s] = append(out[s], i)
	}
	return out
}

// stages says which attachments may be made at the same time (key attachConcurrency; serial without it, as NPWG v1.3
// §7.3 demands): the cluster network comes first, alone, and then each as soon as those before it in the list are there
// that it may have to do with.
func (p *planning) stages(out *Plan) error {
	if p.conf.AttachConcurrency < 2 || p.req.Command != request.Add {
		return nil
	}
	out.Concurrency = p.conf.AttachConcurrency
	traits := make([]trait, len(out.Attachments))
	for i := range out.Attachments {
		t, err := p.traitOf(&out.Attachments[i])
		if err != nil {
			return fmt.Errorf("network %s: %w", out.Attachments[i].Name, err)
		}
		traits[i] = t
	}
	for i := 1; i < len(traits); i++ {
		stage := 1
		for j := 1; j < i; j++ {
			if traits[i].meets(&traits[j]) {
				stage = max(stage, out.Attachments[j].Stage+1)
			}
		}
		out.Attachments[i].Stage = stage
	}
	return nil
}

// trait is what two attachments of a pod can have in common.
type trait struct {
	ifName, network string
	// texts are all that its configuration says, keys and values: an interface's name may be anywhere in it (master of a
	// plugin with linkInContainer, links of a bond, the key of a sysctl).
	texts []string
	// routes tells that a default route may come of it, or that it looks for a free routing table.
	routes bool
	// pool is what hands out its addresses where order decides who gets which, "" for nothing of that kind.
	pool string
	// functions are the physical functions of its devices, unknownFunction for one that cannot be told.
	functions []string
	// makes are the interfaces that it makes on the node if they are not there, for others to be on.
	makes []string
}

const unknownFunction = "?"

func (p *planning) traitOf(a *Attachment) (trait, error) {
	t := trait{ifName: a.IfName, network: a.Config.Name(), routes: !a.Routes.None() ||
		slices.ContainsFunc(a.Config.Types(), ownTables)}
	devices := map[string]bool{a.Device: true}
	for n := range a.Config.Types() {
		var conf map[string]any
		if err := a.Config.Decode(n, &conf); err != nil {
			return trait{}, err
		}
		walk("", conf, func(key string, value any) { t.note(key, value, devices) })
		if conf["type"] == "bridge" {
			bridge, _ := conf["bridge"].(string)
			t.makes = append(t.makes, cmp.Or(bridge, "cni0"))
		}
		ipam, _ := conf["ipam"].(map[string]any)
		switch typ, _ := ipam["type"].(string); typ {
		case "", "static", "host-local": // the latter has a pool for each network's name
		case "dhcp":
			t.routes = true
		default:
			t.pool, t.routes = typ, true // nobody knows what it brings
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

// note takes one value of the configuration.
func (t *trait) note(key string, value any, devices map[string]bool) {
	t.texts = append(t.texts, key)
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
		t.texts = append(t.texts, s)
	}
}

// ownTables tells the plugins that look for a free routing table in the pod.
func ownTables(typ string) bool { return typ == "sbr" || typ == "vrf" }

// isDefault tells the destination of a default route.
func isDefault(s string) bool {
	prefix, err := netip.ParsePrefix(s)
	return s == "default" || err == nil && prefix.Bits() == 0
}

// walk calls note for every value in a JSON document that is neither an object nor an array, with its key; that of an
// array's element is the array's.
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

// names tells whether an interface's name is anywhere in the configuration.
func (t *trait) names(ifName string) bool {
	return slices.ContainsFunc(t.texts, func(s string) bool { return strings.Contains(s, ifName) })
}

// meets tells that the order of two attachments may matter: one is made on the other or on what it makes, both may set
// a default route or look for a free routing table, they take addresses from one pool, or they use one physical
// function.
func (t *trait) meets(o *trait) bool {
	return t.names(o.ifName) || o.names(t.ifName) ||
		slices.ContainsFunc(t.makes, o.names) || slices.ContainsFunc(o.makes, t.names) ||
		t.routes && o.routes ||
		t.network == o.network || t.pool != "" && t.pool == o.pool ||
		slices.ContainsFunc(t.functions, func(f string) bool {
			return slices.ContainsFunc(o.functions,
				func(g string) bool { return f == g || f == unknownFunction || g == unknownFunction })
		})
}
