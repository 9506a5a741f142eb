package planserver

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"multus/internal/agent/hotplug"
	"multus/internal/agent/metrics"
	"multus/internal/agent/repair"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/netsel"
	"multus/internal/testutil/eventually"
	wirev1 "multus/wire/v1"
)

// newRunningServer returns a server with a queue that has a pod, and the queue.
func newRunningServer(t *testing.T) (*Server, *hotplug.Queue) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	q := hotplug.New(clock.RealClock{}, log)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	q.Observe(&plan.Pod{
		Ref: plan.Ref{Namespace: "team", Name: "web"}, UID: "u",
		Annotations: map[string]string{netsel.Networks: "lan", netsel.Status: `[{"name":"cluster","default":true}]`},
	})
	eventually.True(t, "the pod is ready", func() bool { return q.Waiting() == 1 })
	return New(Options{
		HotPlug: q, Metrics: metrics.New(true), Observe: unobserved, Log: log,
		Statuses: newTestWriter(t.TempDir()), Resolver: &plan.Resolver{},
		Config: &config.Daemon{
			Raw: []byte("{}"), CNIDir: "/state", HotPlugLinger: config.Duration{Duration: 2 * time.Second},
		},
	}), q
}

// ask sends a request to the handler of the socket, and returns the answer.
func ask(t *testing.T, s *Server, method, path, body string) (code int, answer string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// TestWork checks the requests of a runner: work, and its results.
func TestWork(t *testing.T) {
	t.Parallel()
	s, q := newRunningServer(t)
	const web = `{"namespace":"team","name":"web","uid":"u"}`
	const none = `{"pods":[],"stateDir":"/state","linger":"2s"}`
	const some = `{"pods":[` + web + `],"stateDir":"/state","linger":"2s"}`
	for _, step := range []struct{ method, path, body, want string }{
		{"GET", wirev1.PathWork, "", some},
		{"GET", wirev1.PathWork + "?wait=60s", "", some}, // as long as there is no result
		{"POST", wirev1.PathWork, `{"results":[{"pod":{"name":"x"}},{"pod":{}},{}]}`, "{}"},
		{"POST", wirev1.PathWork, `{"results":null}`, "{}"},
		{"GET", wirev1.PathWork, "", some},
		{"POST", wirev1.PathWork, `{"results":[{"pod":` + web + `}]}`, "{}"},
		{"GET", wirev1.PathWork, "", none},
		{"GET", wirev1.PathWork + "?wait=-1s", "", none},
		{"GET", wirev1.PathWork + "?wait=soon", "", none},
		{"POST", wirev1.PathWork, `{"results":[{"pod":` + web + `,"error":"late"}]}`, "{}"},
		{"GET", wirev1.PathWork, "", none},
	} {
		if code, got := ask(t, s, step.method, step.path, step.body); code != http.StatusOK || got != step.want {
			t.Errorf("%s %s %s: %d, %s, want %s", step.method, step.path, step.body, code, got, step.want)
		}
	}
	if q.Waiting() != 0 {
		t.Errorf("%v pods wait", q.Waiting())
	}
}

// TestMissingPods checks the list of the pods that run without their networks.
func TestMissingPods(t *testing.T) {
	t.Parallel()
	s, _ := newRunningServer(t)
	if code, answer := ask(t, s, "GET", wirev1.PathMissing, ""); code != http.StatusNotFound {
		t.Errorf("without a search: %d, %s", code, answer)
	}
	dir := t.TempDir()
	s.unattached = repair.New(repair.Options{Dir: dir, Clock: clock.RealClock{}, Rule: config.RepairReport})
	if code, answer := ask(t, s, "GET", wirev1.PathMissing, ""); code != http.StatusOK || answer != `{"pods":[]}` {
		t.Errorf("none: %d, %s", code, answer)
	}
}

// TestWorkUnreadable checks the answers to messages that no runner sends.
func TestWorkUnreadable(t *testing.T) {
	t.Parallel()
	s, _ := newRunningServer(t)
	for _, path := range []string{wirev1.PathWork, wirev1.PathDiff} {
		for _, body := range []string{"", "[]", `{"results":{}`, `{"results":[[]],"attached":[[]]}`, `{"results":"x","attached":1}`} {
			if code, answer := ask(t, s, "POST", path, body); code != http.StatusBadRequest || !strings.Contains(answer, `"code":6`) {
				t.Errorf("%s %s: %d, %s", path, body, code, answer)
			}
		}
		large := `{"x":"` + strings.Repeat("x", maxBody) + `"}`
		if code, _ := ask(t, s, "POST", path, large); code != http.StatusBadRequest {
			t.Errorf("%s with %d bytes: %d", path, len(large), code)
		}
		if code, _ := ask(t, s, "DELETE", path, ""); code != http.StatusMethodNotAllowed {
			t.Errorf("DELETE %s: %d", path, code)
		}
	}
	// Without a request there is no configuration.
	if code, answer := ask(t, s, "POST", wirev1.PathDiff, `{"attached":[{"size":-1}]}`); code != http.StatusBadRequest {
		t.Errorf("%d, %s", code, answer)
	}
}

// TestNoHotPlug checks that a daemon which does not change running pods answers a runner with an error. The runner ends
// then.
func TestNoHotPlug(t *testing.T) {
	t.Parallel()
	s, _ := newRunningServer(t)
	s.hotPlug = nil
	for method, body := range map[string]string{"GET": "", "POST": "{}"} {
		code, got := ask(t, s, method, wirev1.PathWork, body)
		if code != http.StatusNotFound || !strings.Contains(got, "hotPlug") {
			t.Errorf("%s: %d, %s", method, code, got)
		}
	}
	if s.unattended() {
		t.Error("a runner has to be started")
	}
}

// TestStatusHasWork checks that the answer to STATUS reports whether a runner has to be started.
func TestStatusHasWork(t *testing.T) {
	t.Parallel()
	s, _ := newRunningServer(t)
	for _, want := range []bool{true, false} {
		var result wirev1.StatusResult
		if _, got := ask(t, s, "GET", wirev1.PathStatus+"?key=k", ""); json.Unmarshal([]byte(got), &result) != nil ||
			result.Work != want || result.Known {
			t.Errorf("%s, want work: %t", got, want)
		}
		ask(t, s, "GET", wirev1.PathWork, "") // a runner works now
	}
}

// TestWorkOfLostRunner checks that a request for work ends with its client.
func TestWorkOfLostRunner(t *testing.T) {
	t.Parallel()
	s, q := newRunningServer(t)
	ask(t, s, "GET", wirev1.PathWork, "")
	ask(t, s, "POST", wirev1.PathWork, `{"results":[{"pod":{"namespace":"team","name":"web","uid":"u"}}]}`)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r := httptest.NewRequestWithContext(ctx, "GET", wirev1.PathWork+"?wait=1000h", http.NoBody)
		s.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}()
	cancel()
	eventually.Receive(t, "the request ends", ended)
	if q.Waiting() != 0 || q.Unattended() {
		t.Error("there is work")
	}
}
