package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"multus/internal/cniconf"
	"multus/internal/engine/plan"
)

// maxFound limits the findings of each severity in one object that Review returns, beside the first one of each rule. A
// configuration of 256 KiB can have thousands, and its sender needs a few.
const maxFound = 100

// Cluster is what Review reads of the cluster.
type Cluster struct {
	// Network returns a network definition. Its error wraps plan.ErrNotFound if the definition does not exist. After any
	// other error, what depends on the definition is not checked.
	Network func(ref plan.Ref) (*plan.Definition, error)
	// Others returns the definitions with whose addresses those of a reviewed definition are compared. It may be nil.
	Others func() []plan.Definition
}

// Review checks one object of the API server, in JSON: a network definition or a pod. An object without a namespace
// gets the given one. The position of a finding is inside of a string of the object, which Finding.Path names, and not
// in a file. It returns an error if data is not a JSON object.
func Review(data []byte, namespace string, c Cluster, o Options) ([]Finding, error) {
	root, err := parseTree(string(data))
	if err != nil {
		return nil, fmt.Errorf("decode object: %w", err)
	}
	if root.kind() != isObject {
		return nil, errors.New("decode object: it is not a JSON object")
	}
	if root.get("kind").text() == kindPod {
		trimPod(root)
	}
	p := &layout{}
	object := p.node(root, "")
	p.inNamespace(object, namespace)
	o.Complete = true
	l := &linter{
		options: o, networks: map[plan.Ref]*network{}, review: true, unjudged: map[plan.Ref]bool{},
		counts: map[counted]int{},
	}
	l.document(0, p.lines, object)
	l.lookUp(c)
	l.compareWith(c)
	l.plan()
	l.apply()
	var out []Finding
	seen := map[Finding]bool{}
	for _, f := range l.found {
		if f.index == 0 {
			f = p.locate(f)
			if !seen[f] {
				out = append(out, f)
			}
			seen[f] = true
		}
	}
	return out, nil
}

// layout lays the strings of an object out, each on lines of its own, as if the object were a file. So the rules find
// positions as in a file, and the line of a position identifies the string.
type layout struct {
	lines [][]rune
	parts []part
}

// part is a value of the object, and the first line that it takes.
type part struct {
	line int
	path string
	// isString is false for a value inside of which there are no positions.
	isString bool
}

// add lays out one value, and returns the line at which it begins.
func (p *layout) add(path, value string, isString bool) int {
	at := len(p.lines) + 1
	p.parts = append(p.parts, part{at, path, isString})
	p.lines = append(p.lines, lines(value)...)
	return at
}

// trimPod removes the parts of a pod that no rule reads, which are most of it.
func trimPod(root *tree) {
	spec := root.get("spec")
	spec.keep("hostNetwork", "resourceClaims", "containers", "initContainers")
	for _, key := range []string{"containers", "initContainers"} {
		for _, c := range spec.get(key).list() {
			c.keep("name", "resources")
		}
	}
}

// keep removes all other members of an object.
func (t *tree) keep(keys ...string) {
	if t != nil {
		t.members = slices.DeleteFunc(t.members, func(m member) bool { return !slices.Contains(keys, m.key) })
	}
}

// unread are the parts of an object that no rule reads, and which may be large.
var unread = []string{"status", "metadata.managedFields"}

// node returns the value as a YAML node.
func (p *layout) node(t *tree, path string) node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Column: 1}
	switch t.kind() {
	case isObject:
		n.Kind, n.Tag, n.Line = yaml.MappingNode, "!!map", p.add(path, "", false)
		for _, m := range t.members {
			at := join(path, m.key)
			if !slices.Contains(unread, at) {
				key := &yaml.Node{
					Kind: yaml.ScalarNode, Tag: "!!str", Value: m.key, Line: p.add(at, "", false), Column: 1,
				}
				n.Content = append(n.Content, key, p.node(m.value, at).Node)
			}
		}
	case isList:
		n.Kind, n.Tag, n.Line = yaml.SequenceNode, "!!seq", p.add(path, "", false)
		for i, item := range t.items {
			n.Content = append(n.Content, p.node(item, fmt.Sprintf("%s[%d]", path, i)).Node)
		}
	case isString:
		n.Value, n.Style = t.text(), verbatim
		n.Line = p.add(path, n.Value, true)
	default:
		if n.Value, n.Tag = fmt.Sprint(t.value), "!!int"; t.kind() == isBool {
			n.Tag = "!!bool"
		} else if t.kind() == isNull {
			n.Value, n.Tag = "", "!!null"
		}
		n.Line = p.add(path, "", false)
	}
	return node{n}
}

// join returns the path of a member. The keys of annotations have dots.
func join(path, key string) string {
	switch {
	case path == "":
		return key
	case strings.ContainsAny(key, "./"):
		return path + "[" + key + "]"
	}
	return path + "." + key
}

// inNamespace sets the namespace of an object that has none. Only the request has the namespace of a new object.
func (p *layout) inNamespace(object node, namespace string) {
	scalar := func(value string) *yaml.Node {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value, Line: p.add("", "", false), Column: 1}
	}
	meta := object.get("metadata")
	if meta.exists() && meta.Kind == yaml.MappingNode && meta.get("namespace").text() == "" {
		meta.Content = append(meta.Content, scalar("namespace"), scalar(namespace))
	}
}

// locate converts the position in the layout to one in a string of the object.
func (p *layout) locate(f Finding) Finding {
	i, found := slices.BinarySearchFunc(p.parts, f.Line, func(part part, line int) int { return part.line - line })
	if !found {
		i--
	}
	if i < 0 {
		f.Line, f.Column = 0, 0
		return f
	}
	at := p.parts[i]
	f.Path = at.path
	if f.Line = f.Line - at.line + 1; !at.isString {
		f.Line, f.Column = 0, 0
	}
	return f
}

// lookUp reads the definitions that pods request, each once.
func (l *linter) lookUp(c Cluster) {
	asked := map[plan.Ref]bool{}
	for _, e := range elements(l) {
		if asked[e.ref] || e.ref.Name == "" || strings.Contains(e.ref.Name, "/") {
			continue
		}
		asked[e.ref] = true
		def, err := c.Network(e.ref)
		switch {
		case err == nil:
			n := given(def)
			l.networks[n.ref], l.defined = n, append(l.defined, n)
		case !errors.Is(err, plan.ErrNotFound):
			l.unjudged[e.ref] = true
		}
	}
}

// compareWith adds the definitions on the wire of the reviewed one, before it.
func (l *linter) compareWith(c Cluster) {
	if c.Others == nil || len(l.defined) != 1 || len(l.pods) > 0 || l.defined[0].list == nil ||
		len(l.defined[0].spans()) == 0 {
		return
	}
	own := l.defined[0]
	wire := own.wire()
	if wire == "" {
		return
	}
	var others []*network
	for _, def := range c.Others() {
		if def.Ref == own.ref || !strings.Contains(def.Config, "host-local") ||
			!strings.Contains(def.Config, own.plugins()[0].typ) {
			continue
		}
		if n := given(&def); n.list != nil && n.wire() == wire {
			others = append(others, n)
		}
	}
	l.defined = append(others, own)
}

// given returns a definition of the cluster, which is not reviewed itself.
func given(def *plan.Definition) *network {
	n := &network{
		object: &object{file: 1, kind: kindDefinition, namespace: def.Namespace, name: def.Name},
		ref:    def.Ref, resource: def.ResourceName, config: text{value: def.Config},
	}
	if list, err := cniconf.Parse([]byte(def.Config)); err == nil && json.Valid([]byte(def.Config)) {
		if n.tree, err = parseTree(def.Config); err == nil {
			n.list = list
		}
	}
	return n
}
