package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/utils/clock"

	"multus/internal/admission"
	"multus/internal/agent/metrics"
	"multus/internal/engine/plan"
	"multus/internal/source/kube"
	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// none is a cluster without definitions.
type none struct{}

func (none) Network(context.Context, plan.Ref) (*plan.Definition, error) {
	return nil, plan.ErrNotFound
}
func (none) All() []plan.Definition { return nil }

func newServer(tb testing.TB, mutate Mutate) *server {
	tb.Helper()
	r, err := admission.New(admission.Options{Definitions: none{}})
	if err != nil {
		tb.Fatal(err)
	}
	return &server{
		options: Options{Clock: clock.RealClock{}}, change: mutate, reviewer: r, log: slog.New(slog.DiscardHandler),
		metrics: metrics.NewAdmission(admission.Rules(), admission.States(), func() map[string]int { return nil }),
	}
}

// post sends a body to a path.
func post(tb testing.TB, h http.Handler, path string, body io.Reader) *httptest.ResponseRecorder {
	tb.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(tb.Context(), http.MethodPost, path, body))
	return w
}

const (
	reviewOf = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":%s}`
	wrongPod = `{"uid":"u","namespace":"team","operation":"CREATE","resource":{"resource":"pods"},"object":` +
		`{"kind":"Pod","metadata":{"annotations":{"k8s.v1.cni.cncf.io/networks":"["}}}}`
)

// TestRequests checks the answers to requests that the API server sends, and to others: what cannot be read is an HTTP
// error, and a request that is too large is not read. (behaviour S19.)
func TestRequests(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body io.Reader
		code int
		want string
	}{
		"denied": {strings.NewReader(fmt.Sprintf(reviewOf, wrongPod)), http.StatusOK, `"uid":"u","allowed":false`},
		"other": {
			strings.NewReader(fmt.Sprintf(reviewOf, `{"uid":"u","operation":"CREATE","resource":{"group":"apps"}}`)),
			http.StatusOK, `"uid":"u","allowed":true`,
		},
		"no object": {
			strings.NewReader(fmt.Sprintf(reviewOf, `{"uid":"u","operation":"CREATE","resource":{"resource":"pods"}}`)),
			http.StatusUnprocessableEntity, "decode object",
		},
		"no JSON":    {strings.NewReader("x"), http.StatusBadRequest, "decode AdmissionReview"},
		"no request": {strings.NewReader(fmt.Sprintf(reviewOf, "null")), http.StatusBadRequest, "no request with a uid"},
		"no uid":     {strings.NewReader(fmt.Sprintf(reviewOf, "{}")), http.StatusBadRequest, "no request with a uid"},
		"another version": {
			strings.NewReader(strings.Replace(fmt.Sprintf(reviewOf, wrongPod), "io/v1", "io/v1beta1", 1)),
			http.StatusBadRequest, "not an AdmissionReview",
		},
		"too large": {
			io.LimitReader(endless{}, maxBody+2), http.StatusRequestEntityTooLarge, "too large",
		},
		"cut off": {io.MultiReader(strings.NewReader("{"), broken{}), http.StatusBadRequest, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := post(t, newServer(t, nil).webhook(), PathValidate, tc.body)
			if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.want) {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, tc.code, tc.want)
			}
		})
	}
	w := httptest.NewRecorder()
	get := httptest.NewRequestWithContext(t.Context(), http.MethodGet, PathValidate, nil)
	newServer(t, nil).webhook().ServeHTTP(w, get)
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
}

// endless is a reader of spaces.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// broken is a connection that was cut off.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestMutate checks that requests to /mutate reach the function that is given, and are allowed without one.
func TestMutate(t *testing.T) {
	t.Parallel()
	body := fmt.Sprintf(reviewOf, wrongPod)
	if w := post(t, newServer(t, nil).webhook(), PathMutate, strings.NewReader(body)); !strings.Contains(w.Body.String(),
		`"allowed":true`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	patch := admissionv1.PatchTypeJSONPatch
	mutate := func(_ context.Context, req *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, error) {
		return &admissionv1.AdmissionResponse{Allowed: req.Namespace == "team", PatchType: &patch, Patch: []byte("[]")}, nil
	}
	w := post(t, newServer(t, mutate).webhook(), PathMutate, strings.NewReader(body))
	var got admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Kind != "AdmissionReview" ||
		got.Response.UID != "u" || !got.Response.Allowed || string(got.Response.Patch) != "[]" {
		t.Errorf("%v %s", err, w.Body)
	}
}

// TestRequestsAreBounded checks that a request that finds no place in time is refused, and that places become free.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	free := newPlaces(maxReviews)
	h := s.handle(free, s.validate)
	if !free.acquire(t.Context(), maxReviews) {
		t.Fatal("no place is free")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	w := httptest.NewRecorder()
	h(w, httptest.NewRequestWithContext(ctx, http.MethodPost, PathValidate, strings.NewReader("{}")))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	free.release(maxReviews)
	for range 2 {
		w := httptest.NewRecorder()
		h(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, PathValidate,
			strings.NewReader(fmt.Sprintf(reviewOf, wrongPod))))
		if w.Code != http.StatusOK || len(free.free) != maxReviews {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
}

// TestLargeObjects checks that an object that would need much memory is not reviewed, and that requests with large
// objects are reviewed one at a time (behaviour S19).
func TestLargeObjects(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	pod := func(size int) string {
		return fmt.Sprintf(reviewOf, `{"uid":"u","namespace":"team","operation":"CREATE","resource":{"resource":"pods"},`+
			`"object":{"kind":"Pod","metadata":{"annotations":{"k8s.v1.cni.cncf.io/networks":"[","x":"`+
			strings.Repeat("x", size)+`"}}}}`)
	}
	for size, want := range map[int]int{
		0: http.StatusOK, maxObject / 2: http.StatusOK, maxObject: http.StatusRequestEntityTooLarge,
	} {
		for _, path := range []string{PathValidate, PathMutate} {
			if w := post(t, s.webhook(), path, strings.NewReader(pod(size))); w.Code != want {
				t.Errorf("%s with %d bytes: %d %s", path, size, w.Code, w.Body)
			}
		}
	}
	for size, want := range map[int64]int{-1: maxReviews, 0: 1, largeBody - 1: 1, 3 * largeBody: 4, maxBody: maxReviews} {
		if got := placesFor(size); got != want {
			t.Errorf("a body of %d bytes takes %d places, want %d", size, got, want)
		}
	}
}

// TestConfiguration checks which files are accepted: without a file, as with the thin plugin, the defaults apply.
// (behaviour S6.)
func TestConfiguration(t *testing.T) {
	t.Parallel()
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "daemon-config.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	getenv := func(string) string { return "" }
	kubeconfig := write(`{"apiVersion":"v1","kind":"Config","current-context":"x",
"contexts":[{"name":"x","context":{"cluster":"x"}}],"clusters":[{"name":"x","cluster":{"server":"https://127.0.0.1:1"}}]}`)
	for want, path := range map[string]string{
		"":                                filepath.Join(t.TempDir(), "none"),
		"failed to unmarshall the daemon": write("{"),
		`admission.inUse is "x"`:          write(`{"admission":{"inUse":"x"}}`),
		`no rule "x"`:                     write(`{"admission":{"rules":{"x":"off"}}}`),
	} {
		s, err := assemble(Options{Config: path, Kubeconfig: kubeconfig, Getenv: getenv, Clock: clock.RealClock{}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err == nil && (s.attached == nil || s.ready() == nil) {
			t.Error("pods are not watched, or the server is ready before anything was read")
		}
	}
	off := Options{Config: write(`{"admission":{"inUse":"off"}}`), Kubeconfig: kubeconfig, Getenv: getenv}
	if s, err := assemble(off); err != nil || s.attached != nil {
		t.Errorf("pods are watched with inUse: off, or %v", err)
	}
	if _, err := assemble(Options{Config: off.Config, Getenv: getenv}); !errors.Is(err, kube.ErrNoCluster) {
		t.Errorf("%v", err)
	}
}
