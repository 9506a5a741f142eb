package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// waitTimeout limits how long a test waits. It is long enough for a machine under load.
const waitTimeout = 30 * time.Second

var (
	aPod = request.Pod{Namespace: "team-a", Name: "web-0", UID: "uid-1"}
	aRef = plan.Ref{Namespace: "team-a", Name: "web-0"}
)

// serve starts a TLS server and returns a client of it.
func serve(tb testing.TB, handler http.HandlerFunc) *Client {
	tb.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.StartTLS()
	tb.Cleanup(s.Close)
	return clientOf(tb, &rest.Config{
		Host: s.URL, TLSClientConfig: rest.TLSClientConfig{CAData: pemOf(s)},
		Timeout: requestTimeout,
	})
}

func clientOf(tb testing.TB, config *rest.Config) *Client {
	tb.Helper()
	c, err := New(config)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// answer returns a handler that sends a Status, as the API server does.
func answer(code int, header, status string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if k, v, ok := strings.Cut(header, ": "); ok {
			w.Header().Set(k, v)
		}
		if strings.HasPrefix(status, "{") {
			w.Header().Set("Content-Type", "application/json")
		} else {
			w.Header().Set("Content-Type", "text/plain")
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, status)
	}
}

func statusBody(code int, reason, details string) string {
	return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"m","reason":%q,"details":{%s},"code":%d}`, reason, details, code)
}

func reset(_ http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }

// errorTable has the answers that a real API server does not give on demand. kube_cluster_test.go tests the others.
var errorTable = []struct {
	name    string
	handler http.HandlerFunc
	lookup  error // sentinel of package plan, or nil
	publish error
}{
	{"404", answer(404, "", statusBody(404, "NotFound", `"name":"web-0"`)), plan.ErrNotFound, publish.ErrGone},
	{"401 expired token", answer(401, "", statusBody(401, "Unauthorized", "")), plan.ErrUnavailable, publish.ErrRetry},
	{"403", answer(403, "", statusBody(403, "Forbidden", "")), nil, nil},
	{
		"403 namespace is going away",
		answer(403, "", statusBody(403, "Forbidden", `"causes":[{"reason":"NamespaceTerminating"}]`)), nil, publish.ErrGone,
	},
	{"408", answer(408, "", statusBody(408, "Timeout", "")), plan.ErrUnavailable, publish.ErrRetry},
	{"409", answer(409, "", statusBody(409, "Conflict", "")), nil, publish.ErrRetry},
	{
		"422 other UID", answer(422, "",
			statusBody(422, "Invalid", `"causes":[{"reason":"FieldValueInvalid","field":"metadata.uid"}]`)), nil,
		publish.ErrGone,
	},
	{"422 too long", answer(422, "",
		statusBody(422, "Invalid", `"causes":[{"reason":"FieldValueTooLong","field":"metadata.annotations"}]`)), nil, nil},
	{"400", answer(400, "", statusBody(400, "BadRequest", "")), nil, nil},
	{"429", answer(429, "", "Too many requests"), plan.ErrUnavailable, publish.ErrRetry},
	{
		"429 retry after a minute", answer(429, "Retry-After: 60", "Too many requests"), plan.ErrUnavailable,
		publish.ErrRetry,
	},
	{"500", answer(500, "", "etcdserver: request timed out"), plan.ErrUnavailable, publish.ErrRetry},
	{"502", answer(502, "", "bad gateway"), plan.ErrUnavailable, publish.ErrRetry},
	{"503", answer(503, "", "starting"), plan.ErrUnavailable, publish.ErrRetry},
	{"504", answer(504, "", statusBody(504, "Timeout", "")), plan.ErrUnavailable, publish.ErrRetry},
	{"reset", reset, plan.ErrUnavailable, publish.ErrRetry},
	{
		"never answers", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, plan.ErrUnavailable,
		publish.ErrRetry,
	},
}

func checkErr(t *testing.T, call string, err, want error, others ...error) {
	t.Helper()
	if err == nil {
		t.Fatalf("%s: no error", call)
	}
	for _, sentinel := range others {
		if is := errors.Is(err, sentinel); is != errors.Is(sentinel, want) {
			t.Errorf("%s: errors.Is(%q, %q) = %v", call, err, sentinel, is)
		}
	}
}

func TestErrorMapping(t *testing.T) {
	t.Parallel()
	for _, tt := range errorTable {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				tt.handler(w, r)
			})
			// The caller limits every call, because the table has cases that are retried until the end.
			within := func(call func(context.Context) error) error {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				return call(ctx)
			}
			err := within(func(ctx context.Context) error { _, err := c.Pod(ctx, aRef); return err })
			checkErr(t, "Pod", err, tt.lookup, plan.ErrNotFound, plan.ErrUnavailable)
			err = within(func(ctx context.Context) error { _, err := c.Network(ctx, aRef); return err })
			checkErr(t, "Network", err, tt.lookup, plan.ErrNotFound, plan.ErrUnavailable)
			err = within(func(ctx context.Context) error { return c.SetStatus(ctx, aPod, "k", "v", nil) })
			checkErr(t, "SetStatus", err, tt.publish, publish.ErrGone, publish.ErrRetry)
			err = within(func(ctx context.Context) error { return c.Emit(ctx, aPod, publish.Event{Reason: "R"}) })
			checkErr(t, "Emit", err, tt.publish, publish.ErrGone, publish.ErrRetry)
		})
	}
}

func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	c := clientOf(t, &rest.Config{
		Host:            "https://" + l.Addr().String(),
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = c.Pod(ctx, aRef)
	checkErr(t, "Pod", err, plan.ErrUnavailable, plan.ErrUnavailable, plan.ErrNotFound)
	if !strings.Contains(err.Error(), "attempts") {
		t.Errorf("error %q does not contain the number of attempts", err)
	}
	err = c.SetStatus(t.Context(), aPod, "k", "v", nil)
	checkErr(t, "SetStatus", err, publish.ErrRetry, publish.ErrRetry, publish.ErrGone)
}

// TestUntrustedServer checks that a certificate which cannot be verified is not retried.
func TestUntrustedServer(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(answer(404, "", ""))
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	t.Cleanup(s.Close)
	_, err := clientOf(t, &rest.Config{Host: s.URL}).Pod(t.Context(), aRef)
	checkErr(t, "Pod", err, nil, plan.ErrUnavailable, plan.ErrNotFound)
}

func TestForbiddenNamesTheRole(t *testing.T) {
	t.Parallel()
	c := serve(t, answer(403, "", statusBody(403, "Forbidden", "")))
	_, podErr := c.Pod(t.Context(), aRef)
	_, netErr := c.Network(t.Context(), aRef)
	tests := []struct {
		call string
		err  error
		want []string
	}{
		{"Pod", podErr, []string{`verb "get"`, `resource "pods"`, `namespace "team-a"`}},
		{"Network", netErr, []string{
			`verb "get"`, `resource "network-attachment-definitions"`,
			`API group "k8s.cni.cncf.io"`,
		}},
		{"SetStatus", c.SetStatus(t.Context(), aPod, "k", "v", nil), []string{`verb "patch"`, `resource "pods/status"`}},
		{"Emit", c.Emit(t.Context(), aPod, publish.Event{}), []string{`verb "create"`, `resource "events"`}},
	}
	for _, tt := range tests {
		if _, ok := errors.AsType[*ForbiddenError](tt.err); !ok {
			t.Errorf("%s: %v is no ForbiddenError", tt.call, tt.err)
			continue
		}
		for _, part := range tt.want {
			if !strings.Contains(tt.err.Error(), part) {
				t.Errorf("%s: error %q does not contain %q", tt.call, tt.err, part)
			}
		}
	}
}

// TestReadIsRetried checks that a read succeeds if the API server is back within the caller's time.
func TestReadIsRetried(t *testing.T) {
	t.Parallel()
	for _, trouble := range []struct {
		name    string
		handler http.HandlerFunc
	}{
		{"503", answer(503, "", "starting")},
		{"429 with Retry-After", answer(429, "Retry-After: 1", "later")},
		{"500", answer(500, "", "oops")},
		{"reset", reset},
	} {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) <= 2 {
					trouble.handler(w, r)
					return
				}
				answer(200, "", `{"metadata":{"uid":"u"}}`)(w, r)
			})
			pod, err := c.Pod(t.Context(), aRef)
			if err != nil || pod.UID != "u" {
				t.Errorf("Pod = %+v, %v", pod, err)
			}
			if n := requests.Load(); n != 3 {
				t.Errorf("%d requests, want 3", n)
			}
		})
	}
}

// TestWritesAreOneRequest checks that writes are not retried, because the caller has a queue.
func TestWritesAreOneRequest(t *testing.T) {
	t.Parallel()
	for _, code := range []int{429, 500, 503} {
		var requests atomic.Int32
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			answer(code, "Retry-After: 1", "later")(w, r)
		})
		checkErr(t, "SetStatus", c.SetStatus(t.Context(), aPod, "k", "v", nil), publish.ErrRetry, publish.ErrRetry)
		checkErr(t, "Emit", c.Emit(t.Context(), aPod, publish.Event{}), publish.ErrRetry, publish.ErrRetry)
		if n := requests.Load(); n != 2 {
			t.Errorf("%d: %d requests for two writes", code, n)
		}
	}
}

// TestRetryAfterBeyondDeadline checks that a read fails at once if the server requests a pause beyond the deadline.
func TestRetryAfterBeyondDeadline(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		answer(429, "Retry-After: 3600", "later")(w, r)
	})
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	_, err := c.Pod(ctx, aRef)
	checkErr(t, "Pod", err, plan.ErrUnavailable, plan.ErrUnavailable)
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	if pause(ctx, time.Hour) || ctx.Err() != nil {
		t.Error("waits for a deadline that comes before the next attempt")
	}
}

// TestRateLimitIsUnavailable checks that the client's own rate limit is reported like an overloaded server.
func TestRateLimitIsUnavailable(t *testing.T) {
	t.Parallel()
	c := serve(t, answer(200, "", `{}`))
	config := &rest.Config{Host: "https://192.0.2.1", QPS: 0.001, Burst: 1}
	limited := clientOf(t, config)
	c.core = limited.core
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for range 2 {
		_, err := c.Pod(ctx, aRef)
		checkErr(t, "Pod", err, plan.ErrUnavailable, plan.ErrUnavailable)
	}
}

// TestEventsHaveTheirOwnLimit checks that waiting events delay no status and no read.
func TestEventsHaveTheirOwnLimit(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(answer(200, "", `{"metadata":{"uid":"u"}}`))
	t.Cleanup(s.Close)
	c := clientOf(t, &rest.Config{
		Host: s.URL, QPS: 0.001, Burst: 1,
		TLSClientConfig: rest.TLSClientConfig{CAData: pemOf(s)},
	})
	pod := request.Pod{Namespace: "team-a", Name: "web-0"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	emit := func() error { return c.Emit(ctx, pod, publish.Event{Type: publish.Normal, Reason: "r", Message: "m"}) }
	if err := emit(); err != nil {
		t.Fatal(err)
	}
	if err := emit(); !errors.Is(err, publish.ErrRetry) {
		t.Fatalf("the second event is not held up: %v", err)
	}
	if err := c.SetStatus(ctx, pod, "k", "v", nil); err != nil {
		t.Errorf("a status waits for events: %v", err)
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	type sent struct{ method, path, accept, contentType, agent, body string }
	got := make(chan sent, 1)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- sent{
			r.Method, r.URL.Path, r.Header.Get("Accept"), r.Header.Get("Content-Type"), r.UserAgent(),
			string(body),
		}
		answer(200, "", `{"metadata":{"uid":"u","annotations":{"a":"b","k8s.v1.cni.cncf.io/resourceName":"r"}},"spec":{"config":"{ \"x\": 1 }\n"}}`)(w, r)
	}))
	t.Cleanup(s.Close)
	c := clientOf(t, &rest.Config{
		Host: s.URL, UserAgent: "multus/1",
		TLSClientConfig: rest.TLSClientConfig{CAData: pemOf(s)},
	})

	pod, err := c.Pod(t.Context(), aRef)
	if err != nil || pod.UID != "u" || pod.Annotations["a"] != "b" || pod.Ref != aRef {
		t.Errorf("Pod = %+v, %v", pod, err)
	}
	r := <-got
	if r.method != "GET" || r.path != "/api/v1/namespaces/team-a/pods/web-0" || r.agent != "multus/1" ||
		!strings.HasPrefix(r.accept, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1") {
		t.Errorf("Pod sends %+v", r)
	}

	def, err := c.Network(t.Context(), plan.Ref{Namespace: "n", Name: "x"})
	if err != nil || def.Config != "{ \"x\": 1 }\n" || def.ResourceName != "r" {
		t.Errorf("Network = %+v, %v", def, err)
	}
	if r = <-got; r.path != "/apis/k8s.cni.cncf.io/v1/namespaces/n/network-attachment-definitions/x" {
		t.Errorf("Network sends %+v", r)
	}

	for uid, want := range map[string]string{
		"uid-1": `{"metadata":{"uid":"uid-1","annotations":{"k":"[\"v\"]"}}}`,
		"":      `{"metadata":{"annotations":{"k":"[\"v\"]"}}}`,
	} {
		if err := c.SetStatus(t.Context(), request.Pod{Namespace: "n", Name: "p", UID: uid}, "k", `["v"]`, nil); err != nil {
			t.Error(err)
		}
		if r = <-got; r.method != "PATCH" || r.path != "/api/v1/namespaces/n/pods/p/status" ||
			r.contentType != "application/merge-patch+json" || r.body != want {
			t.Errorf("SetStatus sends %+v, want body %s", r, want)
		}
	}

	if err := c.Emit(t.Context(), aPod,
		publish.Event{
			Type: publish.Warning, Reason: "NoNetworkFound", Message: "m",
			ContainerID: "0123456789abcdef",
		}); err != nil {
		t.Error(err)
	}
	r = <-got
	var e coreEvent
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatal(err)
	}
	if r.method != "POST" || r.path != "/api/v1/namespaces/team-a/events" || e.Source.Component != "multus" ||
		e.Count != 1 ||
		e.InvolvedObject.UID != "uid-1" || e.InvolvedObject.Kind != "Pod" || e.Type != "Warning" ||
		e.Reason != "NoNetworkFound" ||
		e.Message != "m" || e.Metadata.Annotations[RequestAnnotation] != "0123456789abcdef" {
		t.Errorf("Emit sends %+v", r)
	}
}

func TestEmptyNames(t *testing.T) {
	t.Parallel()
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("request %s", r.URL) })
	if _, err := c.Pod(t.Context(), plan.Ref{Name: "p"}); err == nil {
		t.Error("Pod without namespace: no error")
	}
	if _, err := c.Network(t.Context(), plan.Ref{Namespace: "n"}); err == nil {
		t.Error("Network without name: no error")
	}
	if err := c.SetStatus(t.Context(), request.Pod{Name: "p"}, "k", "v", nil); err == nil {
		t.Error("SetStatus without namespace: no error")
	}
	if err := c.Emit(t.Context(), request.Pod{Namespace: "n"}, publish.Event{}); err == nil {
		t.Error("Emit without name: no error")
	}
	if _, err := c.PodEvents(t.Context(), plan.Ref{Namespace: "n"}); err == nil {
		t.Error("PodEvents without name: no error")
	}
}

// TestEventNames checks that events have unique names, except those that are recorded once a minute by all processes.
func TestEventNames(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	often := publish.Event{Reason: "R", Message: "m"}
	if one := eventID(aPod, often, now); one == eventID(aPod, often, now) {
		t.Error("two events with one name")
	}
	seldom := often
	seldom.Seldom = true
	first := eventID(aPod, seldom, now)
	if eventID(aPod, seldom, now.Add(54*time.Second)) != first {
		t.Error("the same event was sent twice in a minute")
	}
	again := seldom
	again.ContainerID = "the next attempt"
	if eventID(aPod, again, now) != first {
		t.Error("the event was sent again for the next attempt")
	}
	other, otherPod := seldom, aPod
	other.Message, otherPod.UID = "n", "another"
	for what, id := range map[string][eventIDBytes]byte{
		"a minute later": eventID(aPod, seldom, now.Add(time.Minute)), "another message": eventID(aPod, other, now),
		"another pod": eventID(otherPod, seldom, now),
	} {
		if id == first {
			t.Errorf("%s has the same name", what)
		}
	}
}

func TestEventBounds(t *testing.T) {
	t.Parallel()
	for _, pod := range []string{
		"web-0", strings.Repeat("a", 253),
		strings.Repeat("a", 235) + "-----" + strings.Repeat("b", 13), strings.Repeat("a.", 126) + "a",
	} {
		name := eventName(pod, [eventIDBytes]byte{1})
		stem := name[:strings.LastIndex(name, ".")]
		if len(name) > maxObjectName || strings.HasSuffix(stem, "-") || strings.HasSuffix(stem, ".") ||
			!strings.HasPrefix(pod, stem) {
			t.Errorf("eventName(%q) = %q (%d)", pod, name, len(name))
		}
	}
}

// TestEventNamesRequest checks that the message ends with the request, however long it is, and that a message without a
// request may be longer.
func TestEventNamesRequest(t *testing.T) {
	t.Parallel()
	const id, name = "0123456789abcdef", "; request 0123456789abc"
	for _, message := range []string{"m", strings.Repeat("m", 2*maxEventMessage)} {
		if got := newEvent(aPod, publish.Event{Message: message}, time.Now()).Message; len(got) != min(len(message),
			maxEventMessage) {
			t.Errorf("message of %d bytes without a request: %d", len(message), len(got))
		}
		got := newEvent(aPod, publish.Event{Message: message, ContainerID: id, Seldom: true}, time.Now()).Message
		if !strings.HasSuffix(got, name) || len(got) != min(len(message+name), maxEventMessage) {
			t.Errorf("message of %d bytes: %d, ends with %q", len(message), len(got), got[max(0, len(got)-40):])
		}
	}
}

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	for attempt := 1; attempt < 100; attempt++ {
		if d := retryDelay(io.EOF, attempt); d < firstBackoff/2 || d > maxBackoff {
			t.Errorf("attempt %d: %v", attempt, d)
		}
	}
}
