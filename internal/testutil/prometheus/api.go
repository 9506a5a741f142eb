package prometheus

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// maxAnswer limits an answer of the API.
const maxAnswer = 8 << 20

// Sample is one element of an instant vector.
type Sample struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
}

// Query returns the result of an instant query. It is empty while Prometheus starts.
func (s *Server) Query(t *testing.T, expr string) []Sample {
	t.Helper()
	var data struct {
		Result []Sample `json:"result"`
	}
	s.get(t, "query?query="+url.QueryEscape(expr), &data)
	return data.Result
}

// Series is one element of a range vector: the labels, and the points by time.
type Series struct {
	Metric map[string]string `json:"metric"`
	Values [][2]any          `json:"values"`
}

// Range returns the series of an expression over the last time, with a point for each second.
func (s *Server) Range(t *testing.T, expr string, last time.Duration) []Series {
	t.Helper()
	var data struct {
		Result []Series `json:"result"`
	}
	now := time.Now()
	s.get(t, fmt.Sprintf("query_range?query=%s&start=%d&end=%d&step=1", url.QueryEscape(expr), now.Add(-last).Unix(),
		now.Unix()), &data)
	return data.Result
}

// get decodes the data of an answer of the API. It reports whether there is one.
func (s *Server) get(t *testing.T, path string, data any) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return false // it starts
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return false
	}
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if json.Unmarshal(b, &answer) != nil || resp.StatusCode == http.StatusServiceUnavailable {
		return false
	}
	if answer.Status != "success" {
		t.Fatalf("%s: %s", path, answer.Error)
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return true
}

// Alert is an alert that is pending or fires.
type Alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"`
}

// Name returns the name of the alert.
func (a *Alert) Name() string { return a.Labels["alertname"] }

// has reports whether the alert has these labels.
func (a *Alert) has(labels map[string]string) bool {
	for key, value := range labels {
		if a.Labels[key] != value {
			return false
		}
	}
	return true
}

// Alerts returns the alerts that fire, or also those that are pending.
func (s *Server) Alerts(t *testing.T, pending bool) []Alert {
	t.Helper()
	var data struct {
		Alerts []Alert `json:"alerts"`
	}
	if !s.get(t, "alerts", &data) {
		t.Fatalf("no list of alerts\n%s", s.process.Tail())
	}
	return slices.DeleteFunc(data.Alerts, func(a Alert) bool { return a.State != "firing" && !pending })
}

// UntilEvaluated waits until all rules were evaluated after this call.
func (s *Server) UntilEvaluated(t *testing.T) {
	t.Helper()
	begin := time.Now()
	s.until(t, "an evaluation of the rules", func() bool {
		var data struct {
			Groups []struct {
				LastEvaluation time.Time `json:"lastEvaluation"`
			} `json:"groups"`
		}
		ok := s.get(t, "rules", &data) && len(data.Groups) > 0
		for _, g := range data.Groups {
			ok = ok && g.LastEvaluation.After(begin)
		}
		return ok
	})
}

// Firing returns the names of the alerts that fire, sorted, each once.
func (s *Server) Firing(t *testing.T) []string {
	t.Helper()
	names := map[string]bool{}
	for _, a := range s.Alerts(t, false) {
		names[a.Name()] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Fires waits until an alert with these labels fires, calling meanwhile what causes it, and checks its annotations.
// cause may be nil.
func (s *Server) Fires(t *testing.T, name string, labels map[string]string, summary string, cause func()) {
	t.Helper()
	var got Alert
	begin := time.Now()
	s.until(t, fmt.Sprintf("%s with %v fires", name, labels), func() bool {
		if cause != nil {
			cause()
		}
		alerts := s.Alerts(t, false)
		i := slices.IndexFunc(alerts, func(a Alert) bool { return a.Name() == name && a.has(labels) })
		if i >= 0 {
			got = alerts[i]
		}
		return i >= 0
	})
	t.Logf("%s fires after %.1f s: %s", name, time.Since(begin).Seconds(), got.Annotations["summary"])
	if !strings.Contains(got.Annotations["summary"], summary) || strings.Contains(fmt.Sprint(got.Annotations), "{{") {
		t.Errorf("%s: annotations %v, want %q", name, got.Annotations, summary)
	}
}

// Ends waits until no alert of this name fires or is pending.
func (s *Server) Ends(t *testing.T, name string) {
	t.Helper()
	begin := time.Now()
	s.until(t, "the end of "+name, func() bool {
		return !slices.ContainsFunc(s.Alerts(t, true), func(a Alert) bool { return a.Name() == name })
	})
	t.Logf("%s ends after %.1f s", name, time.Since(begin).Seconds())
}
