package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"multus/internal/fsx"
	"multus/internal/testutil/node"
	"multus/internal/testutil/page"
)

// results are the results of one run.
type results struct {
	Date     string                        `json:"date"`
	Machine  string                        `json:"machine"`
	Cells    cells                         `json:"cells"`
	Start    map[string]time.Duration      `json:"start"`
	Memory   map[int]int                   `json:"memory"`
	Requests map[string]map[string]float64 `json:"requests"`
	Disk     disk                          `json:"disk"`
	Steps    []steps                       `json:"steps"`
	Shares   []share                       `json:"shares"`
}

// disk is the time that the disk needs for one record.
type disk struct {
	Write  time.Duration `json:"write"`
	Remove time.Duration `json:"remove"`
}

// write writes bench.json, bench.md and bench.svg into dir and prints the table.
func (r *results) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	md := r.markdown()
	fmt.Println(string(md))
	for name, content := range map[string][]byte{"bench.json": b, "bench.md": md, "bench.svg": r.svg()} {
		if err := fsx.WriteAtomic(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r *results) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Measured on %s (%s).\n\n### Budgets\n\n%s", r.Date, r.Machine, page.Budgets(r.budgets()))
	fmt.Fprintf(&b, "\nIn other runs: no growth over 10,000 pods (`make faults`, the soak); 20 pods with two more "+
		"networks Ready within 1.6 times (`make e2e`, time to Ready).\n")
	fmt.Fprintf(&b, "\n### Times\n\nThe ratio is that of the medians to those of the delegates alone (raw). "+
		"Milliseconds.\n\n")
	fmt.Fprintln(&b, "| delegate | more networks | at once | subject | ADD ratio | DEL ratio | ADD p50 | p90 | p99 | "+
		"max | DEL p50 | p90 | p99 | max | CPU per pod: runtime's children | daemon | pods/s |")
	fmt.Fprintln(&b, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, c := range r.Cells {
		raw := r.Cells.find(c.Delegate, c.Networks, c.Concurrency, "raw")
		fmt.Fprintf(&b, "| %s | %d | %d | %s | %.2f | %.2f | %s | %s | %.1f | %.1f | %.0f |\n", c.Delegate, c.Networks,
			c.Concurrency, c.Subject,
			ms(c.Add.P50)/ms(raw.Add.P50), ms(c.Del.P50)/ms(raw.Del.P50), c.Add, c.Del, ms(c.PluginCPU), ms(c.DaemonCPU),
			c.Rate)
	}
	fmt.Fprintf(&b, "\n### Who uses the processor\n\nOne pod, ADD and DEL, bridge and host-local, one pod at a time; "+
		"milliseconds.\n\n| more networks | subject | plugin | delegates | daemon | plugin and daemon beside the delegates "+
		"|\n|---|---|---|---|---|---|\n")
	for _, s := range r.Shares {
		fmt.Fprintf(&b, "| %d | %s | %.1f | %.1f | %.1f | %.2f |\n", s.Networks, s.Subject, ms(s.Plugin), ms(s.Delegates),
			ms(s.Daemon), ratio(s.Plugin+s.Daemon, s.Delegates))
	}
	fmt.Fprintf(&b, "\n### Requests to the API server per pod (ADD and DEL)\n\n| pod | requests |\n|---|---|\n")
	for _, k := range sortedKeys(r.Requests) {
		var list []string
		for _, what := range sortedKeys(r.Requests[k]) {
			list = append(list, fmt.Sprintf("%s %.1f", what, r.Requests[k][what]))
		}
		fmt.Fprintf(&b, "| %s | %s |\n", k, strings.Join(list, ", "))
	}
	fmt.Fprintf(&b, "\n### Steps of one call\n\n| plugin | more networks | verb | delegates executed | files written "+
		"with fsync |\n|---|---|---|---|---|\n")
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "| %s | %d | %s | %d | %d |\n", s.Kind, s.Networks, s.Verb, s.Execs, s.Writes)
	}
	fmt.Fprintf(&b, "\n### The disk of this machine\n\nTo write a record so that it survives a power cut takes %.2f ms, "+
		"to remove it %.2f ms (medians). An ADD does the first once, a DEL the second.\n", ms(r.Disk.Write),
		ms(r.Disk.Remove))
	fmt.Fprintf(&b, "\n### Start of a process (`--version`)\n%s", startTable(r.Start))
	return b.Bytes()
}

// startTable returns the table of startUps.
func startTable(start map[string]time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n| program | start and end, median ms | beside an empty one |\n|---|---|---|\n")
	for _, k := range sortedKeys(start) {
		fmt.Fprintf(&b, "| %s | %.2f | %.2f |\n", k, ms(start[k]), ratio(start[k], start["empty"]))
	}
	return b.String()
}

// startBudget is that of the plugin's start beside an empty program.
func startBudget(start map[string]time.Duration) page.Budget {
	return page.AtMost("multus-shim, start beside an empty Go program", ratio(start["multus-shim"], start["empty"]), 1.3)
}

// String returns four columns of the table.
func (t times) String() string {
	return fmt.Sprintf("%.1f | %.1f | %.1f | %.1f", ms(t.P50), ms(t.P90), ms(t.P99), ms(t.Max))
}

// budgets compares the results with the budgets, without the time of the delegates alone.
func (r *results) budgets() []page.Budget {
	size := 0.0
	if dir, err := os.Stat(filepath.Join(binDir(), "multus-shim")); err == nil {
		size = float64(dir.Size()) / 1e6
	}
	plain, rawPlain := r.Cells.find(noop, 0, 1, "thick"), r.Cells.find(noop, 0, 1, "raw")
	two, rawTwo := r.Cells.find(noop, 2, 1, "thick"), r.Cells.find(noop, 2, 1, "raw")
	burst, rawBurst := r.Cells.find(reference, 2, 64, "thick"), r.Cells.find(reference, 2, 64, "raw")
	out := []page.Budget{
		page.AtMost("multus-shim, MB", size, 5),
		page.AtMost("multus-shim, start beside a program that links libcni and netlink",
			ratio(r.Start["multus-shim"], r.Start["nothing"]), 1.5),
		startBudget(r.Start),
		page.AtMost("added to a plain pod's ADD, p50, ms", ms(plain.Add.P50-rawPlain.Add.P50), 3.5),
		page.AtMost("added to a plain pod's ADD, p99, ms", ms(plain.Add.P99-rawPlain.Add.P99), 10),
		page.AtMost("added to an ADD with 3 networks, p50, ms", ms(two.Add.P50-rawTwo.Add.P50), 5),
		page.AtMost("added CPU of a plain pod, ADD and DEL, ms", ms(plain.PluginCPU+plain.DaemonCPU-rawPlain.PluginCPU), 9),
		page.AtMost("added CPU of a pod with 3 networks, ADD and DEL, ms",
			ms(two.PluginCPU+two.DaemonCPU-rawTwo.PluginCPU), 9),
		page.AtLeast("64 ADDs in flight with 3 real networks: throughput beside raw", ratio(burst.Rate, rawBurst.Rate),
			0.85),
		page.AtMost("daemon, 110 pods, 1,000 definitions, MiB", float64(r.Memory[1000])/(1<<20), 30),
		page.AtMost("daemon, 110 pods, 10,000 definitions, MiB", float64(r.Memory[10000])/(1<<20), 60),
	}
	plainRequests, others := 0.0, 0.0
	for _, n := range r.Requests["thick, 0 networks"] {
		plainRequests += n
	}
	for what, n := range r.Requests["thick, 2 networks"] {
		if !strings.HasSuffix(what, " events") {
			others += n
		}
	}
	return append(out,
		page.AtMost("requests to the API server per plain pod", plainRequests, 1),
		page.AtMost("requests per pod with 3 networks, beside events", others, 1),
	)
}

func binDir() string { return node.BuiltDir() }

func ratio[V time.Duration | float64](a, b V) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// svg returns a chart of the medians of ADD with one pod at a time: the time of the delegates, and what is added.
func (r *results) svg() []byte {
	const row, left, width, scale = 22, 240, 900, 460
	type bar struct {
		label      string
		raw, total float64
	}
	var bars []bar
	most := 1.0
	for _, c := range r.Cells {
		if c.Concurrency != 1 || c.Subject == "raw" {
			continue
		}
		raw := r.Cells.find(c.Delegate, c.Networks, 1, "raw")
		bars = append(bars, bar{
			fmt.Sprintf("%s, %d more, %s", c.Delegate, c.Networks, c.Subject), ms(raw.Add.P50),
			ms(c.Add.P50),
		})
		most = max(most, ms(c.Add.P50))
	}
	var b bytes.Buffer
	height := row*len(bars) + 60
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/><text x="10" y="20" font-size="14">ADD of one pod, median: the delegates alone, and what is added</text>`+"\n", width, height)
	for i, x := range bars {
		y := 36 + i*row
		raw, added := min(x.raw, x.total)/most*scale, max(0, x.total-x.raw)/most*scale
		fmt.Fprintf(&b, `<text x="10" y="%d">%s</text><rect x="%d" y="%d" width="%.1f" height="14" fill="#9aa5b1"/><rect x="%.1f" y="%d" width="%.1f" height="14" fill="#d9822b"/>`,
			y+12, x.label, left, y, raw, left+raw, y, added)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%.1f ms, raw %.1f ms</text>`+"\n", left+raw+added+6, y+12, x.total, x.raw)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
