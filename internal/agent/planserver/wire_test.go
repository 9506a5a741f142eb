package planserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"multus/internal/agent/metrics"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/source/file"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/wire"
	wirev1 "multus/wire/v1"
)

// wireServer returns a daemon with the definitions of testdata/networks.
func wireServer(t *testing.T) *Server {
	t.Helper()
	conf, err := config.ParseDaemon([]byte(`{"binDir":"/opt/cni/bin","cniDir":"/var/lib/cni/multus"}`))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	f := file.New(file.Options{Dir: filepath.Join("testdata", "networks")})
	s := &Server{
		conf: conf, metrics: metrics.New(true), observe: unobserved, log: log, statuses: newTestWriter(t.TempDir()),
	}
	s.resolver = &plan.Resolver{Networks: f, Pods: f, Log: log}
	return s
}

func (s *Server) exchange(t *testing.T, method, path string, body []byte) (int, []byte) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, bytes.NewReader(body)))
	return w.Code, w.Body.Bytes()
}

// lacking returns the paths of the members of want that got lacks or has with another value.
func lacking(path string, want, got any) (out []string) {
	switch w := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		for _, k := range slices.Sorted(maps.Keys(w)) {
			out = append(out, lacking(path+"."+k, w[k], g[k])...)
		}
		return out
	case []any:
		g, _ := got.([]any)
		for i := range w {
			var item any
			if i < len(g) {
				item = g[i]
			}
			out = append(out, lacking(fmt.Sprintf("%s[%d]", path, i), w[i], item)...)
		}
		return out
	}
	if !reflect.DeepEqual(want, got) {
		return []string{fmt.Sprintf("%s: %v, want %v", path, got, want)}
	}
	return nil
}

// TestStatusWait checks that the pod waits for its status if the daemon's configuration says so, and while reports in
// files are not seen at once (behaviour D122).
func TestStatusWait(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ configured, watching, want bool }{
		{false, true, false}, {true, true, true}, {false, false, true},
	} {
		s := wireServer(t)
		if tc.configured {
			s.conf.Raw = []byte(`{"statusWait":true}`)
		}
		stop := func() {}
		if tc.watching {
			stop = runWriter(t, s.statuses)
			eventually.True(t, "a watch of reports", s.statuses.Watching)
		}
		code, body := s.exchange(t, http.MethodPost, wirev1.PathPlan, wire.Message(t, "plan-request.json"))
		stop()
		var p wirev1.Plan
		if err := json.Unmarshal(body, &p); err != nil || code != http.StatusOK || p.StatusWait != tc.want {
			t.Errorf("%+v: %d, %v, %s", tc, code, err, body)
		}
	}
}

// TestWireAnswers checks that the answers have all members that an earlier daemon sent, for an earlier plugin.
func TestWireAnswers(t *testing.T) {
	t.Parallel()
	s := wireServer(t)
	code, body := s.exchange(t, http.MethodPost, wirev1.PathPlan, wire.Message(t, "plan-request.json"))
	if lost := lacking("", wire.Decode(t, wire.Message(t, "plan-answer.json")),
		wire.Decode(t, body)); code != http.StatusOK || len(lost) > 0 {
		t.Errorf("plan: %d, lost: %s", code, strings.Join(lost, "; "))
	}
	code, body = s.exchange(t, http.MethodPost, wirev1.PathPlan, []byte("{"))
	if lost := lacking("", wire.Decode(t, wire.Message(t, "error.json")),
		wire.Decode(t, body)); code != http.StatusBadRequest || len(lost) > 0 {
		t.Errorf("error: %d, lost: %s", code, strings.Join(lost, "; "))
	}
	for _, name := range []string{"report-add.json", "report-failure.json", "report-del.json"} {
		if code, body := s.exchange(t, http.MethodPost, wirev1.PathReport, wire.Message(t, name)); code != http.StatusOK ||
			string(body) != "{}" {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	code, _ = s.exchange(t, http.MethodPost, wirev1.PathStatus, wire.Message(t, "status.json"))
	if code != http.StatusOK {
		t.Errorf("status: %d", code)
	}
	code, body = s.exchange(t, http.MethodGet, wirev1.PathStatus+"?key=k", nil)
	if lost := lacking("", wire.Decode(t, wire.Message(t, "status.json")), wire.Decode(t, body)); code != http.StatusOK ||
		len(lost) > 0 {
		t.Errorf("status: %d, lost: %s", code, strings.Join(lost, "; "))
	}
}

func unobserved(*publish.Report) {}
