package lint

import (
	"iter"

	"go.yaml.in/yaml/v3"
)

// yamlMap is a YAML mapping. It is empty without a node, or if the node is no mapping.
type yamlMap struct{ *yaml.Node }

// get returns the value of a key, or nil.
func (m yamlMap) get(key string) *yaml.Node {
	for k, v := range m.pairs() {
		if k.Value == key {
			return resolve(v)
		}
	}
	return nil
}

// keys yields the keys and their positions.
func (m yamlMap) keys() iter.Seq2[string, mark] {
	return func(yield func(string, mark) bool) {
		for k := range m.pairs() {
			if !yield(k.Value, mark{k.Line, k.Column}) {
				return
			}
		}
	}
}

func (m yamlMap) pairs() iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(k, v *yaml.Node) bool) {
		if m.Node == nil || m.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(m.Content); i += 2 {
			if !yield(m.Content[i], m.Content[i+1]) {
				return
			}
		}
	}
}

// resolve returns the node to which an alias refers, or the node itself.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// duplicates reports repeated keys of a mapping. Clients of the API server differ in which of them counts.
func (m yamlMap) duplicates(o object) {
	duplicates(o, m.Node)
}

func duplicates(o object, n *yaml.Node) {
	seen := map[string]bool{}
	for k := range (yamlMap{n}).pairs() {
		if seen[k.Value] {
			o.add(mark{k.Line, k.Column}, Error, "yaml", "remove one of them", "the key %q is duplicated", k.Value)
		}
		seen[k.Value] = true
	}
	for _, c := range n.Content {
		duplicates(o, c)
	}
}
