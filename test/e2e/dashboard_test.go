package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/node"
	"multus/internal/testutil/prometheus"
)

// dashboard is what the tests read of deploy/dashboards/multus.json.
type dashboard struct {
	Panels []struct {
		ID          int    `json:"id"`
		Type        string `json:"type"`
		Title       string `json:"title"`
		Description string `json:"description"`
		GridPos     struct {
			X, Y, W, H int
		} `json:"gridPos"`
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
}

func readDashboard(t *testing.T) *dashboard {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(node.Root(t), "deploy/dashboards/multus.json"))
	if err != nil {
		t.Fatal(err)
	}
	d := &dashboard{}
	if err := json.Unmarshal(b, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// queries returns the queries of the panels by title, as Grafana sends them for all nodes and networks, and those of
// the variables. The part that makes a number of nothing is left out, so that a query of a metric that does not exist
// has no data.
func (d *dashboard) queries() map[string]string {
	set := strings.NewReplacer("$__rate_interval", "10s", "$node", ".*", "$network", ".*",
		" or vector(0)", "", " == 0", "")
	out := map[string]string{}
	for _, p := range d.Panels {
		for i, target := range p.Targets {
			out[fmt.Sprintf("%s %d", p.Title, i)] = set.Replace(target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if args, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			series, label, _ := strings.Cut(strings.TrimSuffix(args, ")"), ", ")
			out["variable "+v.Name] = fmt.Sprintf(`%s,%s!=""}`, strings.TrimSuffix(series, "}"), label)
		}
	}
	return out
}

// TestDashboard checks that each panel of the dashboard has a title, a description and a place of its own, and that
// each query returns data of a real Prometheus that scrapes a real daemon (behaviour F75).
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	taken, ids, titles := map[[2]int]string{}, map[int]bool{}, map[string]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || titles[p.Title] || p.Title == "" || p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("panel %d: %+v", p.ID, p)
		}
		ids[p.ID], titles[p.Title] = true, true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s is on %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
	begin := time.Now()
	m := newMonitored(t)
	m.fake(t, "failing", map[string]any{"fail": map[string]any{"ADD": map[string]any{"code": 100, "msg": "no"}}})
	m.bypass(t, m.pod(t, "missed", map[string]string{networks: "mac"}, true))
	n := 0
	activity := func() {
		n++
		if !m.review(t) {
			t.Fatal("the admission server does not answer")
		}
		ok := m.running(t, fmt.Sprintf("ok-%d", n), "mac")
		p := m.pod(t, fmt.Sprintf("failing-%d", n), map[string]string{networks: "failing"}, true)
		if _, err := m.Add(t, m.Conf(), p); err == nil {
			t.Fatal("ADD with a failing plugin succeeds")
		}
		_ = m.Del(t, m.Conf(), p)
		if err := m.Del(t, m.Conf(), ok); err != nil {
			t.Fatal(err)
		}
	}
	without := d.queries()
	if len(without) < 25 {
		t.Fatalf("%d queries", len(without))
	}
	failed := ""
	ended := func() bool {
		activity()
		failed = ""
		for title, expr := range without {
			if !hasData(m.Query(t, expr)) {
				failed += fmt.Sprintf("%s: %s\n", title, expr)
			} else {
				delete(without, title)
			}
		}
		return failed == ""
	}
	for i := 0; !ended(); i++ {
		if i == 20 {
			t.Fatalf("queries without data:\n%s", failed)
		}
	}
	for os.Getenv("DASHBOARD") != "" && time.Since(begin) < pictureTime {
		activity()
	}
	m.drawDashboard(t, d, time.Since(begin))
	if got := m.Query(t, "multus_of_another_name"); hasData(got) {
		t.Errorf("a metric that does not exist: %v", got)
	}
}

// hasData reports whether a vector has a number.
func hasData(vector []prometheus.Sample) bool {
	for _, s := range vector {
		if text, ok := s.Value[1].(string); ok && text != "NaN" {
			return true
		}
	}
	return false
}
