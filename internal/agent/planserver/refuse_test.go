package planserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/agent/metrics"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/source/file"
	wirev1 "multus/wire/v1"
)

// TestRefuse checks that the answer to a request which cannot be decoded says what to do, and that the log has the same
// text and the request.
func TestRefuse(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ body, message, next, request string }{
		"no JSON": {
			"{", "decode request /",
			"use the plugin that belongs to this daemon: a daemon of the DaemonSet installs it when it starts; by hand: " +
				"multus-daemon install --dest DIR", "",
		},
		"no configuration": {
			`{"command":"ADD","containerID":"0123456789abcdef","args":[["K8S_POD_NAMESPACE","team"],["K8S_POD_NAME","web-0"]],"config":"W10="}`,
			"pod team/web-0: ", "report this: the plugin sent a configuration that is not a JSON object",
			"; request 0123456789abc",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			s := &Server{
				conf: &config.Daemon{Raw: []byte("{}")}, metrics: metrics.New(true), observe: unobserved,
				log: slog.New(slog.NewJSONHandler(&log, nil)),
			}
			w := httptest.NewRecorder()
			s.plan(w, httptest.NewRequest("POST", wirev1.PathPlan, strings.NewReader(tc.body)))
			var ce types.Error
			if err := json.Unmarshal(w.Body.Bytes(), &ce); err != nil {
				t.Fatal(err)
			}
			if ce.Code != fault.Decoding || !strings.HasPrefix(ce.Msg, tc.message) || ce.Details != tc.next {
				t.Errorf("answered %+v", ce)
			}
			var line struct{ Err, Container string }
			if err := json.Unmarshal(log.Bytes(), &line); err != nil {
				t.Fatal(err)
			}
			if want := ce.Error() + tc.request; line.Err != want {
				t.Errorf("logged %q, want %q", line.Err, want)
			}
		})
	}
}

// TestFailureIsLogged checks that a failed ADD which a plugin reports is logged with the text of the event, and that
// its report, which has no status, is not kept in a file: nothing would remove the file.
func TestFailureIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	dir := t.TempDir()
	s := &Server{
		metrics: metrics.New(true), observe: unobserved, statuses: newTestWriter(dir),
		log: slog.New(slog.NewJSONHandler(&log, nil)),
	}
	report := &publish.Report{
		Command: "ADD", ContainerID: "0123456789abcdef", Pod: request.Pod{Namespace: "team", Name: "web-0", UID: "u"},
		Failure: &publish.Failure{EmitEvent: true, Message: "why; what to do"},
	}
	body, err := json.Marshal(wirev1.FromReport(report))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.report(w, httptest.NewRequest("POST", wirev1.PathReport, bytes.NewReader(body)))
	events, err := publish.Events(report)
	if err != nil || len(events) != 1 {
		t.Fatalf("%v, %v", events, err)
	}
	var line struct{ Err, Container, Pod string }
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, log.Bytes())
	}
	if line.Err != events[0].Text() || line.Container != report.ContainerID || line.Pod != "team/web-0" || w.Code != 200 {
		t.Errorf("%d, logged %+v, want %q", w.Code, line, events[0].Text())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files of a report without a status: %v, %v", left, err)
	}
}

// TestNotServed checks that the answer to a request of today's clients which is not supported says what to do instead
// (behaviour E3, R20, Q6).
func TestNotServed(t *testing.T) {
	t.Parallel()
	s := &Server{metrics: metrics.New(true), observe: unobserved}
	long := "/" + strings.Repeat("x", 5000)
	for path, words := range map[string][]string{
		"/delegate": {
			"POST /delegate is not served without hotPlug", "multus-dynamic-networks-controller", "hot-plug", "hotPlug",
			"deploy/components/hotplug", "docs/hot-plug.md",
		},
		"/cni": {
			"POST /cni is not served", "multus-daemon install", "docs/upgrade.md",
		},
		long: {"... is not served"},
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", path, nil))
		var ce types.Error
		if err := json.Unmarshal(w.Body.Bytes(), &ce); err != nil {
			t.Fatal(err)
		}
		for _, want := range words {
			if w.Code != 404 || !strings.Contains(ce.Msg, want) || len(ce.Msg) > 1024 {
				t.Errorf("%.20s: %d %q lacks %q", path, w.Code, ce.Msg, want)
			}
		}
	}
	page, err := os.ReadFile("../../../docs/upgrade.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"multus-dynamic-networks-controller", "hot-plug", "/delegate"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("docs/upgrade.md does not name %s", want)
		}
	}
}

// TestReportNeedsUID checks that a report over the socket without a pod UID is rejected, unless this daemon planned the
// sandbox for a pod without a UID. A report with nothing but timings needs no UID (behaviour E48).
func TestReportNeedsUID(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := file.New(file.Options{Dir: dir})
	conf, err := config.ParseDaemon([]byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	discard := slog.New(slog.DiscardHandler)
	s := &Server{
		conf: conf, metrics: metrics.New(true), observe: unobserved, log: discard,
		statuses: newTestWriter(filepath.Join(dir, "reports")),
	}
	s.resolver = &plan.Resolver{Networks: f, Pods: f, Log: discard}
	defer runWriter(t, s.statuses)()
	post := func(path string, v any) int {
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", path, bytes.NewReader(body)))
		return w.Code
	}
	status := statusReport("web")
	status.Pod.UID = ""
	failure := &publish.Report{
		Command: "ADD", ContainerID: status.ContainerID, Pod: status.Pod,
		Failure: &publish.Failure{EmitEvent: true, Message: "m"},
	}
	timings := &publish.Report{
		Command: "DEL", ContainerID: status.ContainerID, Pod: status.Pod,
		Timings: []publish.Timing{{Network: "n"}},
	}
	check := func(when string, want map[*publish.Report]int) {
		for r, code := range want {
			if got := post(wirev1.PathReport, wirev1.FromReport(r)); got != code {
				t.Errorf("%s: %s of container %s is answered %d, want %d", when, r.Command, r.ContainerID, got, code)
			}
		}
	}
	check("before the plan", map[*publish.Report]int{status: 400, failure: 400, timings: 200, statusReport("other"): 200})
	req := &request.Request{
		Command: request.Add, ContainerID: status.ContainerID, IfName: "eth0", Netns: "/x",
		Args: request.Args{{request.PodNamespace, "ns"}, {request.PodName, "web"}},
		Config: []byte(`{"cniVersion":"1.0.0","name":"m","type":"multus-shim","delegates":[{"cniVersion":"1.0.0","name":"c","type":"c"}],` +
			`"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{}}}`),
	}
	if got := post(wirev1.PathPlan, wirev1.FromRequest(req)); got != 200 {
		t.Fatalf("the plan is answered %d", got)
	}
	other, db := *status, *status
	other.ContainerID, db.Pod.Name = "c2", "db"
	check("after the plan", map[*publish.Report]int{status: 200, failure: 200, timings: 200, &other: 400, &db: 400})
}

// TestErrorsAreClipped checks that long values which a tenant wrote do not fill the answer and the log.
func TestErrorsAreClipped(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200<<10)
	var log bytes.Buffer
	s := &Server{
		conf: &config.Daemon{Raw: []byte("{}")}, metrics: metrics.New(true), observe: unobserved,
		log:      slog.New(slog.NewJSONHandler(&log, nil)),
		statuses: newTestWriter(t.TempDir()),
	}
	s.resolver = &plan.Resolver{Log: slog.New(slog.DiscardHandler)}
	request := fmt.Sprintf(`{"command":"ADD","containerID":"c","args":[["K8S_POD_NAMESPACE","ns"],["K8S_POD_NAME",%q]],"config":%q}`, long, // base64 of a configuration
		"eyJjbmlWZXJzaW9uIjoiMS4wLjAiLCJuYW1lIjoibSIsInR5cGUiOiJtdWx0dXMtc2hpbSIsImNsdXN0ZXJOZXR3b3JrIjoieCJ9")
	w := httptest.NewRecorder()
	s.plan(w, httptest.NewRequestWithContext(t.Context(), "POST", wirev1.PathPlan, strings.NewReader(request)))
	var ce types.Error
	if err := json.Unmarshal(w.Body.Bytes(), &ce); err != nil || ce.Msg == "" {
		t.Fatalf("%v, %s", err, w.Body.Bytes())
	}
	if w.Body.Len() > 4096 || log.Len() == 0 || log.Len() > 4096 {
		t.Errorf("the response has %d bytes, the log %d", w.Body.Len(), log.Len())
	}
	log.Reset()
	report := fmt.Sprintf(`{"command":"ADD","containerID":"c","pod":{"namespace":"ns","name":"p","uid":"u"},"failure":{"tell":true,"message":%q}}`, long)
	s.report(httptest.NewRecorder(),
		httptest.NewRequestWithContext(t.Context(), "POST", wirev1.PathReport, strings.NewReader(report)))
	if log.Len() == 0 || log.Len() > 4096 {
		t.Errorf("the log has %d bytes", log.Len())
	}
}
