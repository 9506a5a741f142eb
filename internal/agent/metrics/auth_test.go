package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// reviews is a Reviewer that knows two tokens, and counts.
type reviews struct {
	n    int
	down bool
}

func (r *reviews) MayGet(_ context.Context, token, path string) (known, allowed bool, err error) {
	r.n++
	if r.down {
		return false, false, errors.New("away")
	}
	return token == "reader" || token == "other", token == "reader" && path == "/metrics", nil
}

// TestMetricsAuth checks who may read the metrics with metricsAuth, how often the API server is asked, and what happens
// while it does not answer (behaviour F76).
func TestMetricsAuth(t *testing.T) {
	t.Parallel()
	r, now := &reviews{}, time.Now()
	g := newGuard(r, slog.New(slog.DiscardHandler))
	g.now = func() time.Time { return now }
	h := g.wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	get := func(header string) int {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
		req.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code
	}
	for i, step := range []struct {
		header  string
		after   time.Duration
		down    bool
		code, n int // n is the number of reviews
	}{
		{"", 0, false, 401, 0},
		{"Basic reader", 0, false, 401, 0},
		{"Bearer " + strings.Repeat("x", maxToken+1), 0, false, 401, 0},
		{"Bearer stranger", 0, false, 401, 1},
		{"Bearer other", 0, false, 403, 1},
		{"Bearer reader", 0, false, 200, 1},
		{"bearer reader", time.Minute, false, 200, 0},
		{"Bearer other", 0, false, 403, 1}, // a refusal is kept for a shorter time
		{"Bearer reader", 2 * time.Minute, false, 200, 1},
		{"Bearer reader", 30 * time.Minute, true, 200, 1},
		{"Bearer other", 0, true, 503, 1},
		{"Bearer reader", time.Hour, true, 503, 1},
	} {
		now, r.down, r.n = now.Add(step.after), step.down, 0
		if got := get(step.header); got != step.code || r.n != step.n {
			t.Errorf("step %d, %.20s: %d after %d reviews, want %+v", i, step.header, got, r.n, step)
		}
	}
	r.down, r.n = false, 0
	now = now.Add(time.Hour)
	get("Bearer reader")
	last := 0
	for i := range 500 {
		last = get("Bearer " + strings.Repeat("z", i+1))
	}
	if r.n > reviewBurst || last != http.StatusTooManyRequests || len(g.answers) > maxAnswers {
		t.Errorf("%d reviews, code %d, %d answers", r.n, last, len(g.answers))
	}
	for i := range 500 {
		now = now.Add(time.Second)
		get("Bearer " + strings.Repeat("y", i+1))
		get("Bearer reader")
	}
	if len(g.answers) > maxAnswers || get("Bearer reader") != 200 {
		t.Errorf("%d answers, and the reader's is lost", len(g.answers))
	}
}
