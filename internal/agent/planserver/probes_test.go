package planserver

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestNotReady checks that the answer of /readyz contains the reason.
func TestNotReady(t *testing.T) {
	t.Parallel()
	s := &Server{ready: func() error { return errors.New("not yet") }}
	w := httptest.NewRecorder()
	s.readiness(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "not yet") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
