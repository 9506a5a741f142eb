package graph

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Sizes of the drawing, in pixels.
const (
	margin     = 20
	boxHeight  = 46
	boxGap     = 22
	columnGap  = 230
	charWidth  = 7.5
	leastWidth = 110
)

const style = `
  text { font: 13px sans-serif; fill: #1a1a1a; text-anchor: middle; }
  text.note, text.label { font-size: 11px; fill: #555; }
  rect { fill: #fff; stroke: #555; }
  rect.interface { fill: #eee; }
  rect.network { fill: #e8f1fb; stroke: #2a6db0; }
  rect.pod { fill: #eef8ee; stroke: #3b8b3b; }
  path { fill: none; stroke: #999; }
  @media (prefers-color-scheme: dark) {
    text { fill: #eee; } text.note, text.label { fill: #aaa; }
    rect { fill: #222; } rect.interface { fill: #333; } rect.network { fill: #16283a; } rect.pod { fill: #18291a; }
  }`

// box is a node with its place.
type box struct {
	Node
	x, y, width float64
}

// SVG writes the graph as a picture: a column for each kind, and each box as near to what it is joined with as the
// others let it.
func (g *Graph) SVG(w io.Writer) error {
	boxes, width, height := g.place()
	b := &strings.Builder{}
	fmt.Fprintf(b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" role=\"img\" aria-label=\"Networks of pods\">\n<style>%s\n</style>\n",
		width, height, width, height, style)
	for _, e := range g.edges() {
		from, to := boxes[e.From], boxes[e.To]
		x1, y1, x2, y2 := from.x+from.width, from.y+boxHeight/2, to.x, to.y+boxHeight/2
		bend := (x2 - x1) / 2
		fmt.Fprintf(b, "<path d=\"M%.0f %.0f C%.0f %.0f %.0f %.0f %.0f %.0f\"/>\n", x1, y1, x1+bend, y1, x2-bend, y2, x2, y2)
		if e.Label != "" {
			// Near the right end, where the lines of one network have parted.
			fmt.Fprintf(b, "<text class=\"label\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", x1+0.7*(x2-x1), y1+0.78*(y2-y1)-4, html.EscapeString(e.Label))
		}
	}
	for _, kind := range kinds() {
		for _, n := range g.column(kind) {
			writeBox(b, boxes[Key{n.Kind, n.Name}])
		}
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func writeBox(b *strings.Builder, x box) {
	fmt.Fprintf(b, "<rect class=\"%s\" x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%d\" rx=\"6\"/>\n", x.Kind, x.x, x.y, x.width, boxHeight)
	middle, line := x.x+x.width/2, x.y+28
	if x.Note != "" {
		line = x.y + 20
		fmt.Fprintf(b, "<text class=\"note\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", middle, x.y+37, html.EscapeString(x.Note))
	}
	fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%.0f\">%s</text>\n", middle, line, html.EscapeString(x.Name))
}

// place gives each node its place. Networks are in the order of their names; the boxes of the other columns are sorted
// by the mean place of what they are joined with, so that few lines cross.
func (g *Graph) place() (boxes map[Key]box, width, height float64) {
	boxes = map[Key]box{}
	rank := map[Key]float64{}
	for i, n := range g.column(Network) {
		rank[Key{n.Kind, n.Name}] = float64(i)
	}
	x := float64(margin)
	for _, kind := range kinds() {
		column := g.column(kind)
		if len(column) == 0 {
			continue
		}
		if kind != Network {
			slices.SortStableFunc(column, func(a, b Node) int { return cmp.Compare(g.mean(a, rank), g.mean(b, rank)) })
		}
		widest := float64(leastWidth)
		for _, n := range column {
			chars := max(utf8.RuneCountInString(n.Name), utf8.RuneCountInString(n.Note))
			widest = max(widest, charWidth*float64(chars)+24)
		}
		for i, n := range column {
			y := float64(margin + i*(boxHeight+boxGap))
			boxes[Key{n.Kind, n.Name}] = box{Node: n, x: x, y: y, width: widest}
			height = max(height, y+boxHeight+margin)
		}
		width = x + widest + margin
		x += widest + columnGap
	}
	return boxes, max(width, 2*margin), max(height, 2*margin)
}

// mean is the mean rank of a node's neighbours; without one it comes last.
func (g *Graph) mean(n Node, rank map[Key]float64) float64 {
	self := Key{n.Kind, n.Name}
	sum, count := 0.0, 0.0
	for _, e := range g.edges() {
		for _, pair := range [][2]Key{{e.From, e.To}, {e.To, e.From}} {
			if r, ok := rank[pair[1]]; ok && pair[0] == self {
				sum, count = sum+r, count+1
			}
		}
	}
	if count == 0 {
		return float64(len(g.Nodes))
	}
	return sum / count
}
