package graph

import (
	"encoding/xml"
	"errors"
	"flag"
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
	g.Join(storage, Key{Pod, "nobody"}, "not drawn")
	return g
}

// TestGolden: the same graph in each of the three languages.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(*Graph, io.Writer) error{"graph.dot": (*Graph).DOT, "graph.mmd": (*Graph).Mermaid, "graph.svg": (*Graph).SVG} {
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

// TestSVG: whatever the names are, it is XML, and no two boxes of it overlap.
func TestSVG(t *testing.T) {
	t.Parallel()
	for _, g := range []*Graph{{}, example()} {
		var b strings.Builder
		if err := g.SVG(&b); err != nil {
			t.Fatal(err)
		}
		for dec := xml.NewDecoder(strings.NewReader(b.String())); ; {
			_, err := dec.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, b.String())
			}
		}
		boxes, width, height := g.place()
		if len(boxes) != len(g.Nodes) {
			t.Errorf("%d boxes for %d nodes", len(boxes), len(g.Nodes))
		}
		for k, x := range boxes {
			if x.x < 0 || x.y < 0 || x.x+x.width > width || x.y+boxHeight > height {
				t.Errorf("%v is outside", k)
			}
			for other, y := range boxes {
				if k != other && x.x < y.x+y.width && y.x < x.x+x.width && x.y < y.y+boxHeight && y.y < x.y+boxHeight {
					t.Errorf("%v and %v overlap", k, other)
				}
			}
		}
	}
}
