package graph

import (
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

func example() *Graph {
	g := &Graph{}
	eth1 := g.Add(Node{Interface, "eth1", ""})
	br := g.Add(Node{Interface, "cni0", "bridge"})
	storage := g.Add(Node{Network, "team-a/storage", "macvlan"})
	cluster := g.Add(Node{Network, "cluster", "bridge"})
	g.Join(eth1, storage, "")
	g.Join(br, cluster, "")
	for _, name := range []string{"team-a/web-0", `team-a/<"odd">&\`} {
		p := g.Add(Node{Pod, name, "node-1"})
		g.Add(Node{Pod, name, "again"})
		g.Join(cluster, p, "eth0 10.88.0.5")
		g.Join(cluster, p, "eth0 10.88.0.5")
		g.Join(storage, p, "net1 192.0.2.5")
	}
	g.Add(Node{Pod, "team-b/alone", ""})
	g.Want(storage, Key{Pod, "team-b/alone"}, "asked for net1")
	g.Join(storage, Key{Pod, "missing"}, "not drawn")
	return g
}

// TestGolden writes the same graph in each of the three formats.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(*Graph, io.Writer) error{
		"graph.dot": (*Graph).DOT,
		"graph.mmd": (*Graph).Mermaid, "graph.svg": (*Graph).SVG,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			if err := write(example(), &b); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("(-want +got); go test -update accepts what it got:\n%s", diff)
			}
		})
	}
}

// picture is an SVG that was read back.
type picture struct {
	ViewBox string `xml:"viewBox,attr"`
	Boxes   []struct {
		X      float64 `xml:"x,attr"`
		Y      float64 `xml:"y,attr"`
		Width  float64 `xml:"width,attr"`
		Height float64 `xml:"height,attr"`
	} `xml:"rect"`
	Texts []struct {
		Class string  `xml:"class,attr"`
		X     float64 `xml:"x,attr"`
		Y     float64 `xml:"y,attr"`
		Text  string  `xml:",chardata"`
	} `xml:"text"`
	Paths []struct {
		D string `xml:"d,attr"`
	} `xml:"path"`
}

// TestSVG checks for any names that the output is XML, that boxes are inside the picture and do not overlap, that
// strings are inside boxes and on different lines, and that each line goes from the right of a box to the left of
// another.
func TestSVG(t *testing.T) {
	t.Parallel()
	for name, g := range map[string]*Graph{"empty": {}, "example": example(), "crowd": crowd()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			if err := g.SVG(&b); err != nil {
				t.Fatal(err)
			}
			var p picture
			if err := xml.Unmarshal([]byte(b.String()), &p); err != nil {
				t.Fatalf("%v in\n%s", err, b.String())
			}
			if len(p.Boxes) != len(g.Nodes) || len(p.Paths) != len(g.edges()) {
				t.Errorf("%d boxes for %d nodes, %d lines for %d edges", len(p.Boxes), len(g.Nodes), len(p.Paths), len(g.edges()))
			}
			p.checkBoxes(t)
			p.checkTexts(t)
			p.checkPaths(t)
		})
	}
}

// crowd returns the graph of a busy node, with long names and many addresses.
func crowd() *Graph {
	g := &Graph{}
	for i := range 12 {
		pod := g.Add(Node{Pod, fmt.Sprintf("namespace-%d/deployment-with-a-name-7f8d9c6b5-x2x4%d", i, i), "node-1"})
		for j := range 1 + i%4 {
			network := g.Add(Node{
				Network, fmt.Sprintf("shared/network-%d", j),
				"bridge, portmap, tuning, firewall, bandwidth, and another one",
			})
			g.Join(g.Add(Node{Interface, fmt.Sprintf("eth%d", j/2), ""}), network, "")
			g.Join(network, pod, fmt.Sprintf("net%d 198.51.100.%d 2001:db8:1234:5678:9abc:def0:1234:%d", j, i, i))
		}
		g.Want(g.Add(Node{Network, "shared/none", "not defined"}), pod, "asked for")
	}
	return g
}

func (p *picture) checkBoxes(t *testing.T) {
	t.Helper()
	var left, top, width, height float64
	if _, err := fmt.Sscan(p.ViewBox, &left, &top, &width, &height); err != nil {
		t.Fatal(err)
	}
	for i, x := range p.Boxes {
		if x.X < 0 || x.Y < 0 || x.X+x.Width > width || x.Y+x.Height > height {
			t.Errorf("%+v is outside", x)
		}
		for _, y := range p.Boxes[:i] {
			if x.X < y.X+y.Width && y.X < x.X+x.Width && x.Y < y.Y+y.Height && y.Y < x.Y+x.Height {
				t.Errorf("%+v and %+v overlap", x, y)
			}
		}
	}
}

// checkTexts assumes the mean width of lower-case letters and digits in DejaVu Sans, the widest of the usual fonts.
func (p *picture) checkTexts(t *testing.T) {
	t.Helper()
	const big, small = 7.3, 6.2
	seen := map[string]bool{}
	for _, x := range p.Texts {
		half := big * float64(len([]rune(x.Text))) / 2
		if x.Class != "" {
			half *= small / big
		}
		left, right := x.X-half, x.X+half
		if x.Class == "row" {
			left, right = x.X, x.X+2*half
		}
		inside := false
		for _, y := range p.Boxes {
			inside = inside || left > y.X && right < y.X+y.Width && x.Y > y.Y+8 && x.Y < y.Y+y.Height-3
		}
		if !inside {
			t.Errorf("%+v is in no box", x)
		}
		if at := fmt.Sprintf("%.0f %.0f", x.X, x.Y); seen[at] {
			t.Errorf("%+v is on another text", x)
		} else {
			seen[at] = true
		}
	}
}

func (p *picture) checkPaths(t *testing.T) {
	t.Helper()
	for _, x := range p.Paths {
		var c [8]float64
		if _, err := fmt.Sscanf(x.D, "M%f %f C%f %f %f %f %f %f", &c[0], &c[1], &c[2], &c[3], &c[4], &c[5], &c[6],
			&c[7]); err != nil {
			t.Fatal(err)
		}
		begins, ends := false, false
		for _, y := range p.Boxes {
			begins = begins || c[0] == y.X+y.Width && c[1] > y.Y && c[1] < y.Y+y.Height
			ends = ends || c[6] == y.X && c[7] > y.Y && c[7] < y.Y+y.Height
		}
		if !begins || !ends {
			t.Errorf("%s does not go from a box to a box", x.D)
		}
	}
}
