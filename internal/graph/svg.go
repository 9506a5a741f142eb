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
	margin    = 20
	boxHeight = 46
	rowHeight = 18
	boxGap    = 18
	columnGap = 170
	padding   = 12
	// charWidth and smallWidth are the widths of characters in names and in smaller type.
	charWidth, smallWidth = 7.7, 6.6
	leastWidth            = 110
	lines                 = 6 // number of line colours
)

const style = `
  text { font: 13px sans-serif; fill: #1a1a1a; text-anchor: middle; }
  text.note, text.row { font-size: 11px; fill: #444; }
  text.row { text-anchor: start; }
  rect { fill: #fff; stroke: #555; }
  rect.interface { fill: #eee; }
  rect.network { fill: #e8f1fb; stroke: #2a6db0; }
  rect.pod { fill: #eef8ee; stroke: #3b8b3b; }
  path { fill: none; stroke-width: 1.4; }
  path.line0 { stroke: #0072b2; } path.line1 { stroke: #d55e00; } path.line2 { stroke: #009e73; }
  path.line3 { stroke: #b8578b; } path.line4 { stroke: #b58900; } path.line5 { stroke: #3a9bd9; }
  path.wanted { stroke-dasharray: 5 4; }
  @media (prefers-color-scheme: dark) {
    text { fill: #eee; } text.note, text.row { fill: #bbb; }
    rect { fill: #222; } rect.interface { fill: #333; } rect.network { fill: #16283a; } rect.pod { fill: #18291a; }
  }`

// box is a node with its position. Each labelled line to the box ends at a row of its own, which has the label: labels
// beside the lines would overlap.
type box struct {
	Node
	x, y, width, height float64
	rows                []Edge
}

// header is the height of the part with the name.
const header = float64(boxHeight)

// rowMiddle returns where the line of a row ends.
func (x *box) rowMiddle(i int) float64 { return x.y + header + rowHeight*float64(i) + rowHeight/2 - 4 }

// SVG writes the graph as a picture. It has a column for each kind, and each box is as close to its neighbours as the
// other boxes permit. Lines have the colour of their network.
func (g *Graph) SVG(w io.Writer) error {
	boxes, width, height := g.place()
	colour := map[Key]int{}
	for i, n := range g.column(Network) {
		colour[Key{n.Kind, n.Name}] = i % lines
	}
	b := &strings.Builder{}
	fmt.Fprintf(b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" "+
		"role=\"img\" aria-label=\"Networks of pods\">\n<style>%s\n</style>\n",
		width, height, width, height, style)
	for _, e := range g.edges() {
		class := fmt.Sprintf("line%d", max(colour[e.From], colour[e.To]))
		if e.Wanted {
			class += " wanted"
		}
		x1, y1, x2, y2 := ends(boxes, e)
		bend := (x2 - x1) / 2
		fmt.Fprintf(b, "<path class=\"%s\" d=\"M%.0f %.0f C%.0f %.0f %.0f %.0f %.0f %.0f\"/>\n", class, x1, y1, x1+bend, y1,
			x2-bend, y2, x2, y2)
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

// ends returns where a line begins, at the right of a box, and where it ends: at its row of another box, or beside that
// box's name.
func ends(boxes map[Key]*box, e Edge) (x1, y1, x2, y2 float64) {
	from, to := boxes[e.From], boxes[e.To]
	y2 = to.y + header/2
	if i := slices.Index(to.rows, e); i >= 0 {
		y2 = to.rowMiddle(i)
	}
	return from.x + from.width, from.y + header/2, to.x, y2
}

func writeBox(b *strings.Builder, x *box) {
	fmt.Fprintf(b, "<rect class=\"%s\" x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" rx=\"6\"/>\n", x.Kind, x.x,
		x.y, x.width, x.height)
	middle, line := x.x+x.width/2, x.y+28
	if x.Note != "" {
		line = x.y + 20
		fmt.Fprintf(b, "<text class=\"note\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", middle, x.y+37, html.EscapeString(x.Note))
	}
	fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%.0f\">%s</text>\n", middle, line, html.EscapeString(x.Name))
	for i, e := range x.rows {
		fmt.Fprintf(b, "<text class=\"row\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", x.x+padding, x.rowMiddle(i)+4,
			html.EscapeString(e.Label))
	}
}

// place positions the nodes. Networks are in the order of their names. The boxes of the other columns are sorted by the
// mean position of their neighbours, so that few lines cross. Shorter columns are centred on the longest.
func (g *Graph) place() (boxes map[Key]*box, width, height float64) {
	boxes = map[Key]*box{}
	rank := map[Key]float64{}
	for i, n := range g.column(Network) {
		rank[Key{n.Kind, n.Name}] = float64(i)
	}
	x, bottoms := float64(margin), map[Kind]float64{}
	for _, kind := range kinds() {
		column := g.column(kind)
		if len(column) == 0 {
			continue
		}
		if kind != Network {
			slices.SortStableFunc(column, func(a, b Node) int { return cmp.Compare(g.mean(a, rank), g.mean(b, rank)) })
		}
		widest, y := float64(leastWidth), float64(margin)
		for _, n := range column {
			one := g.size(n)
			one.x, one.y = x, y
			boxes[Key{n.Kind, n.Name}] = one
			widest = max(widest, one.width)
			y += one.height + boxGap
		}
		for _, n := range column {
			boxes[Key{n.Kind, n.Name}].width = widest
		}
		bottoms[kind] = y - boxGap + margin
		width, height = x+widest+margin, max(height, bottoms[kind])
		x += widest + columnGap
	}
	for _, one := range boxes {
		one.y += (height - bottoms[one.Kind]) / 2
	}
	return boxes, max(width, 2*margin), max(height, 2*margin)
}

// size returns the box of a node without a position. It is wide enough for its strings, and high enough for its lines.
func (g *Graph) size(n Node) *box {
	x := &box{Node: n, height: header}
	for _, e := range g.edges() {
		if e.To == (Key{n.Kind, n.Name}) && e.Label != "" {
			x.rows = append(x.rows, e)
		}
	}
	chars := func(s string) float64 { return float64(utf8.RuneCountInString(s)) }
	x.width = max(charWidth*chars(n.Name), smallWidth*chars(n.Note)) + 2*padding
	for _, e := range x.rows {
		x.width = max(x.width, smallWidth*chars(e.Label)+2*padding)
	}
	if len(x.rows) > 0 {
		x.height += rowHeight * float64(len(x.rows))
	}
	return x
}

// mean returns the mean rank of a node's neighbours. A node without neighbours comes last.
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
