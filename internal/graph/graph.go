// Package graph draws pods, their networks and the underlying interfaces of the node as DOT, Mermaid and SVG. It has no
// knowledge of Kubernetes and reads nothing: it writes a Graph as text.
package graph

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Kind is the kind of a node of the graph.
type Kind string

// The kinds, in the order of the columns.
const (
	Interface Kind = "interface" // of the node
	Network   Kind = "network"
	Pod       Kind = "pod"
)

// Node is a box. Note is a second line in smaller type.
type Node struct {
	Kind Kind
	Name string
	Note string
}

// Edge joins two nodes. Label has the interface and its addresses.
type Edge struct {
	From, To Key
	Label    string
	// Wanted reports whether the edge is requested but does not exist.
	Wanted bool
}

// Key identifies a node.
type Key struct {
	Kind Kind
	Name string
}

// Graph is a graph. Edges to nodes that it does not have are not drawn.
type Graph struct {
	Nodes []Node
	Edges []Edge
}

// Add adds a node if the graph does not have it.
func (g *Graph) Add(n Node) Key {
	key := Key{n.Kind, n.Name}
	if !g.has(key) {
		g.Nodes = append(g.Nodes, n)
	}
	return key
}

// Join adds an edge if the graph does not have it.
func (g *Graph) Join(from, to Key, label string) { g.join(Edge{From: from, To: to, Label: label}) }

// Want adds an edge that is requested but does not exist, if the graph does not have it.
func (g *Graph) Want(from, to Key, label string) { g.join(Edge{from, to, label, true}) }

func (g *Graph) join(e Edge) {
	if !slices.Contains(g.Edges, e) {
		g.Edges = append(g.Edges, e)
	}
}

func (g *Graph) has(k Key) bool {
	return slices.ContainsFunc(g.Nodes, func(n Node) bool { return n.Kind == k.Kind && n.Name == k.Name })
}

// column returns the nodes of a kind in the order of their names.
func (g *Graph) column(kind Kind) []Node {
	var out []Node
	for _, n := range g.Nodes {
		if n.Kind == kind {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// edges returns the edges between existing nodes, in order.
func (g *Graph) edges() []Edge {
	var out []Edge
	for _, e := range g.Edges {
		if g.has(e.From) && g.has(e.To) {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(a.From.Name, b.From.Name), cmp.Compare(a.To.Name, b.To.Name), cmp.Compare(a.Label, b.Label))
	})
	return out
}

// kinds returns the columns from left to right.
func kinds() []Kind { return []Kind{Interface, Network, Pod} }

// DOT writes the graph for Graphviz.
func (g *Graph) DOT(w io.Writer) error {
	b := &strings.Builder{}
	b.WriteString("graph multus {\n  rankdir=LR;\n  node [fontname=\"sans-serif\", style=rounded, shape=box];\n  edge " +
		"[fontname=\"sans-serif\", fontsize=10];\n")
	shapes := map[Kind]string{
		Interface: "shape=box, style=filled, fillcolor=\"#eeeeee\"",
		Network:   "shape=ellipse, style=\"\"", Pod: "shape=box",
	}
	for _, kind := range kinds() {
		for _, n := range g.column(kind) {
			fmt.Fprintf(b, "  %s [label=%s, %s];\n", quote(id(n)), quote(label(n, "\n")), shapes[kind])
		}
	}
	for _, e := range g.edges() {
		dashed := ""
		if e.Wanted {
			dashed = ", style=dashed"
		}
		fmt.Fprintf(b, "  %s -- %s [label=%s%s];\n", quote(key(e.From)), quote(key(e.To)), quote(e.Label), dashed)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func id(n Node) string { return key(Key{n.Kind, n.Name}) }
func key(k Key) string { return string(k.Kind) + " " + k.Name }
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

func label(n Node, newline string) string {
	if n.Note == "" {
		return n.Name
	}
	return n.Name + newline + n.Note
}

// Mermaid writes the graph for renderers of Markdown.
func (g *Graph) Mermaid(w io.Writer) error {
	b := &strings.Builder{}
	b.WriteString("graph LR\n")
	brackets := map[Kind][2]string{Interface: {"[[", "]]"}, Network: {"([", "])"}, Pod: {"[", "]"}}
	names := map[Key]string{}
	for _, kind := range kinds() {
		for i, n := range g.column(kind) {
			name := fmt.Sprintf("%s%d", kind, i+1)
			names[Key{n.Kind, n.Name}] = name
			n.Name, n.Note = entities(n.Name), entities(n.Note)
			fmt.Fprintf(b, "  %s%s\"%s\"%s\n", name, brackets[kind][0], label(n, "<br>"), brackets[kind][1])
		}
	}
	for _, e := range g.edges() {
		line := "---"
		if e.Wanted {
			line = "-.-"
		}
		if e.Label != "" {
			line += fmt.Sprintf("|\"%s\"|", entities(e.Label))
		}
		fmt.Fprintf(b, "  %s %s %s\n", names[e.From], line, names[e.To])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// entities escapes a string so that Mermaid does not interpret it.
func entities(s string) string {
	return strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "\n", " ").Replace(s)
}
