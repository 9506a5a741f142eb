package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}).ServeHTTP(w,
		httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

func newTestMetrics() *Metrics {
	m := New(true)
	m.Gauges(func() float64 { return 3 }, func() float64 { return 7 }, func() float64 { return 1 })
	m.Resync()
	m.HotPlug(func() float64 { return 2 }, func() float64 { return 1 })
	m.Claims(func() float64 { return 5 })
	m.Missing(func() map[string]int { return map[string]int{"team": 4} })
	m.Attachments(func() map[string]int { return map[string]int{"team/lan": 6} })
	m.Changed(time.Second)
	m.StatusWritten("c", time.Now().Add(-time.Second).UnixNano(), nil)
	m.Observe(&publish.Report{Command: request.Update, Events: []publish.Event{
		{Reason: publish.AddedInterface},
		{Reason: publish.FailedRemovingInterface},
		{Reason: publish.InterfaceChangeIgnored},
		{Reason: publish.InterfaceLost},
	}})
	return m
}

// TestMetricNames checks that promlint accepts our metrics, except the name that today's Multus uses (behaviour F51,
// Q9; multus-cni#808).
func TestMetricNames(t *testing.T) {
	t.Parallel()
	m := newTestMetrics()
	m.Count("/v1/plan", func(http.ResponseWriter, *http.Request) {})(httptest.NewRecorder(),
		httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/plan", nil))
	m.Planned("ADD", 0, time.Millisecond)
	m.Observe(&publish.Report{
		Command: "ADD", Trace: &publish.Trace{Seconds: 2},
		Timings: []publish.Timing{
			{Network: "ns/n", Plugin: "macvlan", Seconds: .02},
			{Network: "ns/n", Plugin: "macvlan", Seconds: 1, Failed: true, Killed: "timeout"},
		},
	})
	a := NewAdmission([]string{"mac"}, []string{"valid", "invalid"}, func() map[string]int {
		return map[string]int{"valid": 5}
	})
	a.Reviewed("pod", "deny", "mac", time.Millisecond)
	a.Reviewed("pod", "deny", "a rule that does not exist", time.Millisecond)
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	text := scrape(t, m)
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "multus_") { // both have the metrics of the Go runtime
			text += line
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "multus_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	page, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := regexp.MustCompile("(?m)^\\| `(multus_\\w+)`").FindAllStringSubmatch(string(page), -1)
	for _, row := range documented {
		if !strings.Contains(text, "# TYPE "+row[1]+" ") {
			t.Errorf("docs/metrics.md has %s, which does not exist", row[1])
		}
	}
	if n := strings.Count(text, "# TYPE multus_"); n != len(documented) {
		t.Errorf("%d metrics, %d in docs/metrics.md", n, len(documented))
	}
	for _, want := range []string{
		`multus_server_request_total{code="200",handler="/v1/plan",method="post"} 1`,
		`multus_delegate_duration_seconds_count{command="ADD",plugin="macvlan",result="ok"} 1`,
		`multus_delegate_duration_seconds_count{command="ADD",plugin="macvlan",result="error"} 1`,
		`multus_plan_duration_seconds_count{code="0",command="ADD"} 1`,
		`multus_hotplug_total{result="ok",verb="attach"} 1`, `multus_hotplug_total{result="error",verb="detach"} 1`,
		`multus_status_drift_total{kind="lost"} 1`, `multus_status_drift_total{kind="restored"} 0`,
		`multus_admission_requests_total{kind="pod",rule="mac",verdict="deny"} 1`,
		`multus_admission_requests_total{kind="pod",rule="other",verdict="deny"} 1`,
		`multus_definitions{state="valid"} 5`, `multus_definitions{state="invalid"} 0`,
		`multus_add_duration_seconds_count{result="ok"} 1`, `multus_delegate_killed_total{reason="timeout"} 1`,
		`multus_delegate_killed_total{reason="signal"} 0`, `multus_attachments{network="team/lan"} 6`,
		`multus_delegate_calls_total{command="ADD",network="ns/n",plugin="macvlan",result="error"} 1`,
		`multus_build_info{goversion="` + runtime.Version() + `",revision="`, "multus_status_duration_seconds_count 1",
		"multus_status_queue_length 3", "multus_ledger_entries 7", "multus_slot_owned 1", "multus_status_retries_total 0",
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

// TestLabelsAreBounded checks that the names which users choose increase neither the number of series nor their length,
// and that nothing with labels is recorded without a port.
func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	m := newTestMetrics()
	many := map[string]int{}
	m.registry.MustRegister(&byName{
		count: func() map[string]int { return many },
		desc:  prometheus.NewDesc("multus_test", "x", []string{"namespace"}, nil),
	})
	use := func(i int) {
		name := fmt.Sprint("x\xff", i, strings.Repeat("é", i)) // a label must be valid UTF-8
		m.Observe(&publish.Report{
			Command: name,
			Timings: []publish.Timing{
				{Network: name, Plugin: name, Seconds: 1, Killed: name}, {Network: name, Plugin: "macvlan"},
			},
		})
		if !m.off {
			many[name]++
		}
		m.Planned(name, 0, time.Second)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/plan", nil)
		r.Method = name
		m.Count("/v1/plan", func(http.ResponseWriter, *http.Request) {})(httptest.NewRecorder(), r)
	}
	series := func() (n int) {
		for line := range strings.Lines(scrape(t, m)) {
			if strings.HasPrefix(line, "multus_") {
				n++
			}
			if len(line) > 300 {
				t.Fatalf("a line of %d bytes", len(line))
			}
		}
		return n
	}
	m.off = true
	none := series()
	use(0)
	if got := series(); got != none {
		t.Errorf("%d series are recorded without a port", got-none)
	}
	m.off = false
	for i := range maxNames + 1 {
		use(i)
	}
	first := series()
	for i := range 2000 {
		use(i)
	}
	if got := series(); got != first {
		t.Errorf("%d series became %d", first, got)
	}
}

// TestNamesMakeRoom checks that a network that is not used any more makes room for another one (behaviour F71).
func TestNamesMakeRoom(t *testing.T) {
	t.Parallel()
	var forgotten []string
	n := &names{forget: func(name string) { forgotten = append(forgotten, name) }}
	now := time.Now()
	for i := range maxNames {
		n.label(fmt.Sprint(i), now.Add(time.Duration(i)))
	}
	n.label("0", now.Add(time.Minute))
	for _, tc := range []struct {
		name, want, forgotten string
		after                 time.Duration
	}{
		{"5", "5", "", time.Minute},
		{"", other, "", time.Minute},
		{"new", other, "", time.Minute},
		{"new", "new", "1", idle + time.Minute},
		{"another", "another", "2", idle + time.Minute},
		{"1", "1", "3", idle + time.Minute},
	} {
		forgotten = nil
		if got := n.label(tc.name, now.Add(tc.after)); got != tc.want || strings.Join(forgotten, ",") != tc.forgotten {
			t.Errorf("%s after %s: %s, forgotten %q", tc.name, tc.after, got, forgotten)
		}
	}
}

// TestGaugesKeepTheirNames checks that a name with a series keeps it while there is something to count, and that
// nothing is lost of the sum (behaviour F71).
func TestGaugesKeepTheirNames(t *testing.T) {
	t.Parallel()
	counts := map[string]int{}
	c := &byName{count: func() map[string]int { return counts }}
	for i := range maxNames {
		counts[fmt.Sprint("a", i)] = 1
	}
	if got := c.bounded(); len(got) != maxNames || got[other] != 0 {
		t.Errorf("%d names", len(got))
	}
	counts["large"], counts["small"] = 9, 1
	if got := c.bounded(); got[other] != 10 || got["a7"] != 1 || len(got) != maxNames+1 {
		t.Errorf("%v", got)
	}
	delete(counts, "a7")
	if got := c.bounded(); got["large"] != 9 || got[other] != 1 {
		t.Errorf("%v", got)
	}
}

// TestProfilesAreForTheLoopback checks that requests from other machines are rejected (behaviour F50).
func TestProfilesAreForTheLoopback(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]int{
		"127.0.0.1:5": http.StatusOK, "[::1]:5": http.StatusOK,
		"192.0.2.1:5": http.StatusForbidden, "nonsense": http.StatusForbidden,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/debug/pprof/", nil)
		r.RemoteAddr = addr
		w := httptest.NewRecorder()
		loopback(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })(w, r)
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", addr, w.Code, want)
		}
	}
}
