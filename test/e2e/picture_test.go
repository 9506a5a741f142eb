package e2e

import (
	"fmt"
	"html"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/node"
	"multus/internal/testutil/prometheus"
)

// Sizes of the picture of the dashboard, in pixels.
const (
	cell       = 40 // one of the 24 columns of Grafana's grid, and one of its rows
	inset      = 6
	titleSpace = 26
	legendLine = 14
	axisSpace  = 46
)

// pictureTime is the time that the picture in the documentation shows.
const pictureTime = time.Minute

const pictureStyle = `
  text { font: 12px sans-serif; fill: #1a1a1a; } text.row { font-size: 16px; font-weight: bold; }
  text.small { font-size: 10px; fill: #555; } rect { fill: #fff; stroke: #ccc; } path { fill: none; stroke-width: 1.5; }
  .c0 { stroke: #0072b2; } .c1 { stroke: #d55e00; } .c2 { stroke: #009e73; } .c3 { stroke: #b8578b; } .c4 { stroke: #b58900; }`

// series is a line of a chart.
type series prometheus.Series

// points returns the numbers of a series, in seconds since 1970.
func (s *series) points() (times, values []float64) {
	for _, v := range s.Values {
		at, ok := v[0].(float64)
		text, isText := v[1].(string)
		n, err := strconv.ParseFloat(text, 64)
		if ok && isText && err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
			times, values = append(times, at), append(values, n)
		}
	}
	return times, values
}

// label returns the values of the labels that differ between the series of a panel.
func (s *series) label() string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(s.Metric)) {
		if !strings.HasPrefix(key, "__") && key != "job" && key != "instance" {
			out = append(out, s.Metric[key])
		}
	}
	return strings.Join(out, " ")
}

// picture draws the panels of the dashboard with the data of a Prometheus. Grafana draws them in its own way: this
// shows which data each panel has.
func (d *dashboard) picture(t *testing.T, p *prometheus.Server, last time.Duration) string {
	t.Helper()
	expressions := d.queries()
	height := 0
	var body strings.Builder
	for i := range d.Panels {
		panel := &d.Panels[i]
		g := panel.GridPos
		x, y, w, h := g.X*cell, g.Y*cell, g.W*cell, g.H*cell
		height = max(height, y+h)
		title := html.EscapeString(panel.Title)
		if panel.Type == "row" {
			fmt.Fprintf(&body, `<text class="row" x="%d" y="%d">%s</text>`+"\n", x+inset, y+cell/2+inset, title)
			continue
		}
		var all []series
		for n := range panel.Targets {
			for _, one := range p.Range(t, expressions[fmt.Sprintf("%s %d", panel.Title, n)], last) {
				all = append(all, series(one))
			}
		}
		below := legendLine * (1 + min(len(all), 4))
		drawn := chart(all, float64(w-3*inset-axisSpace), float64(h-titleSpace-2*inset-below))
		if !strings.Contains(drawn, "<path") && !strings.Contains(drawn, "<circle") {
			t.Errorf("panel %s has nothing to draw", panel.Title)
		}
		fmt.Fprintf(&body, `<g transform="translate(%d %d)"><rect x="2" y="2" width="%d" height="%d"/>`, x, y, w-4, h-4)
		fmt.Fprintf(&body, `<text x="%d" y="18">%s</text><g transform="translate(%d %d)">%s</g></g>`+"\n", inset+4, title,
			inset+axisSpace, titleSpace, drawn)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d"><style>%s</style>`+"\n%s</svg>\n",
		24*cell, height, pictureStyle, body.String())
}

// chart draws the series as lines, with the largest and the smallest number at the left, and a legend below.
func chart(all []series, width, height float64) string {
	low, high, from, to := 0.0, 0.0, math.Inf(1), math.Inf(-1)
	for i := range all {
		times, values := all[i].points()
		for n := range times {
			low, high = min(low, values[n]), max(high, values[n])
			from, to = min(from, times[n]), max(to, times[n])
		}
	}
	if high == low {
		high = low + 1
	}
	var b strings.Builder
	const axis = `<text class="small" x="-4" y="%.0f" text-anchor="end">%.3g</text>`
	fmt.Fprintf(&b, axis+axis, 8.0, high, height, low)
	for i := range all {
		times, values := all[i].points()
		var path strings.Builder
		for n := range times {
			x, y := width*(times[n]-from)/max(to-from, 1), height-height*(values[n]-low)/(high-low)
			fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[n == 0], x, y)
			if len(times) == 1 {
				fmt.Fprintf(&b, "<circle class=\"c%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"2\"/>", i%5, x, y)
			}
		}
		if len(times) > 1 {
			fmt.Fprintf(&b, "<path class=\"c%d\" d=\"%s\"/>", i%5, path.String())
		}
		if line := height + float64(legendLine*(i+1)) + 2; i < 4 {
			fmt.Fprintf(&b, `<path class="c%d" d="M 0 %.0fh12"/><text class="small" x="16" y="%.0f">%s</text>`, i%5, line-3, line,
				html.EscapeString(all[i].label()))
		}
	}
	return b.String()
}

// drawDashboard draws the dashboard. With DASHBOARD, the name of a file below the repository, it is written there.
func (m *monitored) drawDashboard(t *testing.T, d *dashboard, last time.Duration) {
	t.Helper()
	text := d.picture(t, m.Server, last)
	if file := os.Getenv("DASHBOARD"); file != "" {
		if err := os.WriteFile(filepath.Join(node.Root(t), file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
