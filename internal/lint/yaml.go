package lint

import (
	"iter"

	"go.yaml.in/yaml/v3"
)

// node is a part of a YAML document. Its Node is nil if the document does not have the part.
type node struct{ *yaml.Node }

func (n node) exists() bool { return n.Node != nil }

// text returns the value of a scalar, and "" for anything else.
func (n node) text() string {
	if n.Node == nil {
		return ""
	}
	return n.Value
}

func (n node) mark() mark { return mark{n.Line, n.Column} }

// items returns the items of a list.
func (n node) items() []*yaml.Node {
	if n.Node == nil {
		return nil
	}
	return n.Content
}

// get returns the value of a key of a mapping.
func (n node) get(key string) node {
	for k, v := range n.pairs() {
		if k.Value == key {
			return v
		}
	}
	return node{}
}

// pairs yields the keys and values of a mapping. An alias is yielded as the node that it stands for.
func (n node) pairs() iter.Seq2[node, node] {
	return func(yield func(k, v node) bool) {
		if n.Node == nil || n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			v := n.Content[i+1]
			if v.Kind == yaml.AliasNode {
				v = v.Alias
			}
			if !yield(node{n.Content[i]}, node{v}) {
				return
			}
		}
	}
}

// duplicates calls found for each repeated key of a mapping, at any depth.
func (n node) duplicates(found func(key node)) {
	seen := map[string]bool{}
	for k := range n.pairs() {
		if seen[k.Value] {
			found(k)
		}
		seen[k.Value] = true
	}
	for _, c := range n.Content {
		node{c}.duplicates(found)
	}
}
