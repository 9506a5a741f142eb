package daemon

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"multus/api"
	"multus/internal/config"
	"multus/internal/fault"
)

// TestRefuse: a request that cannot be read is answered with what to do, and the log has the same words and the request.
func TestRefuse(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ body, message, next, request string }{
		"no JSON": {"{", "decode request /", "use the plugin that belongs to this daemon: multus-daemon install", ""},
		"no configuration": {
			`{"command":"ADD","containerID":"0123456789abcdef","args":[["K8S_POD_NAMESPACE","team"],["K8S_POD_NAME","web-0"]],"config":"W10="}`,
			"pod team/web-0: ", "report this: the plugin sent a configuration that is no object", "; request 0123456789abc",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			s := &server{conf: &config.Daemon{Raw: []byte("{}")}, metrics: newTestMetrics(), log: slog.New(slog.NewJSONHandler(&log, nil))}
			w := httptest.NewRecorder()
			s.plan(w, httptest.NewRequest("POST", api.PathPlan, strings.NewReader(tc.body)))
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
