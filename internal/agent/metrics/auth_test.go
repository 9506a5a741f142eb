package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// reviews is a Reviewer that knows two tokens, and counts.
type reviews struct {
	n             int
	down, revoked bool
}

func (r *reviews) MayGet(_ context.Context, token, path string) (known, allowed bool, err error) {
	r.n++
	if r.down {
		return false, false, errors.New("away")
	}
	return token == "reader" || token == "other", token == "reader" && path == "/metrics" && !r.revoked, nil
}

// TestMetricsAuth checks who may read the metrics with metricsAuth, how often the API server is asked, and what happens
// while it does not answer (behaviour F76).
func TestMetricsAuth(t *testing.T) {
	t.Parallel()
	r, now := &reviews{}, clocktesting.NewFakeClock(time.Now())
	g := newGuard(r, now, slog.New(slog.DiscardHandler))
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
		now.Step(step.after)
		r.down, r.n = step.down, 0
		if got := get(step.header); got != step.code || r.n != step.n {
			t.Errorf("step %d, %.20s: %d after %d reviews, want %+v", i, step.header, got, r.n, step)
		}
	}
	r.down, r.n = false, 0
	now.Step(time.Hour)
	get("Bearer reader")
	last := 0
	for i := range 500 {
		last = get("Bearer " + strings.Repeat("z", i+1))
	}
	if r.n > reviewBurst || last != http.StatusTooManyRequests || len(g.refused.Keys()) > maxAnswers {
		t.Errorf("%d reviews, code %d, %d refusals", r.n, last, len(g.refused.Keys()))
	}
	for i := range 500 {
		now.Step(time.Second)
		get("Bearer " + strings.Repeat("y", i+1))
		get("Bearer reader")
	}
	r.n = 0
	if code := get("Bearer reader"); len(g.refused.Keys()) > maxAnswers || code != 200 || r.n > 1 {
		t.Errorf("%d refusals; the reader's permission is lost: code %d", len(g.refused.Keys()), code)
	}
	now.Step(allowedFor)
	r.revoked = true
	for i := range 2 * reviewBurst {
		get("Bearer " + strings.Repeat("x", i+1))
	}
	if code := get("Bearer reader"); code != http.StatusForbidden {
		t.Errorf("code %d for a token that was revoked, while unknown tokens use up the reviews", code)
	}
}

// TestReviewErrors checks that unknown tokens do not fill the log while the API server does not answer.
func TestReviewErrors(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	now := clocktesting.NewFakeClock(time.Now())
	g := newGuard(&reviews{down: true}, now, slog.New(slog.NewTextHandler(&log, nil)))
	for i := range 50 {
		now.Step(time.Second)
		if code := g.judge(t.Context(), fmt.Sprint("stranger-", i), "/metrics"); code != http.StatusServiceUnavailable {
			t.Fatalf("code %d", code)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines", n)
	}
}

// TestIdleConnections checks that a connection does not stay open for ever (behaviour F50).
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	if s := New(true).Server(true); s.IdleTimeout <= 0 || s.ReadHeaderTimeout <= 0 {
		t.Errorf("connections without a request are kept for %s, those without a header for %s", s.IdleTimeout,
			s.ReadHeaderTimeout)
	}
}
