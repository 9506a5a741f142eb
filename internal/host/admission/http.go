package admission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"

	"multus/internal/admission"
)

// The paths of the webhook.
const (
	PathValidate = "/validate"
	PathMutate   = "/mutate"
)

const (
	// maxBody limits the size of a request: the API server accepts objects of 3 MiB, and sends two versions of one.
	maxBody = 8 << 20
	// maxObject limits the size of an object that is reviewed. The trees of a review take up to a hundred times as much.
	maxObject = 256 << 10
	// maxReviews limits the requests whose objects are in memory. For each further largeBody bytes a request counts once
	// more, so that the largest ones are reviewed alone.
	maxReviews = 8
	largeBody  = maxObject / maxReviews
	// reviewLimit limits the time of a request. It is shorter than the time that the API server waits (3 s).
	reviewLimit = 2500 * time.Millisecond
	// lookupLimit limits the time to look up what is not in memory.
	lookupLimit = time.Second
)

// Mutate reviews a request and may change its object. After an error the API server applies the failurePolicy.
type Mutate func(ctx context.Context, req *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, error)

// webhook returns the handler of the API server's requests.
func (s *server) webhook() http.Handler {
	free := newPlaces(maxReviews)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+PathValidate, s.handle(free, s.validate))
	mux.HandleFunc("POST "+PathMutate, s.handle(free, s.mutate))
	return mux
}

// review is what the handlers have in common: it answers one request.
type review func(ctx context.Context, req *admissionv1.AdmissionRequest) (*admission.Outcome, error)

func (s *server) validate(ctx context.Context, req *admissionv1.AdmissionRequest) (*admission.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	return s.reviewer.Review(ctx, req)
}

func (s *server) mutate(ctx context.Context, req *admissionv1.AdmissionRequest) (*admission.Outcome, error) {
	o := &admission.Outcome{
		AdmissionResponse: &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true},
		Kind:              "mutation", Verdict: admission.VerdictAllow,
	}
	if s.change == nil {
		return o, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	var err error
	if o.AdmissionResponse, err = s.change(ctx, req); err != nil {
		return nil, err
	}
	o.UID = req.UID
	switch {
	case !o.Allowed:
		o.Verdict = admission.VerdictDeny
	case len(o.Warnings) > 0:
		o.Verdict = admission.VerdictWarn
	}
	return o, nil
}

// handle returns the handler of one path. If a request cannot be reviewed, the answer is an HTTP error, after which the
// API server applies the failurePolicy.
func (s *server) handle(free *places, do review) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), reviewLimit)
		defer cancel()
		n := placesFor(r.ContentLength)
		if !free.acquire(ctx, n) {
			http.Error(w, "too many requests are being reviewed", http.StatusServiceUnavailable)
			return
		}
		defer free.release(n)
		begin := s.options.Clock.Now()
		out, code, err := answer(ctx, r, do)
		if err != nil {
			s.bad.Do(func() { // clients that are no API server can send anything
				s.log.Warn("a request cannot be reviewed", "path", r.URL.Path, "client", r.RemoteAddr, "err", err)
			})
			s.metrics.Reviewed(admission.KindOther, "error", "", s.options.Clock.Since(begin))
			http.Error(w, err.Error(), code)
			return
		}
		body, err := admission.Encode(out.AdmissionResponse)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.metrics.Reviewed(out.Kind, out.Verdict, out.Rule, s.options.Clock.Since(begin))
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // a client that is gone needs no answer
	}
}

// placesFor returns how many of the maxReviews places a request with a body of this size takes. A size below 0 is
// unknown.
func placesFor(size int64) int {
	if size < 0 {
		return maxReviews
	}
	return int(min(maxReviews, 1+size/largeBody))
}

// answer reviews the request in a body. The code is that of an error.
func answer(ctx context.Context, r *http.Request, do review) (*admission.Outcome, int, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("read request: %w", err)
	}
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("read request: %w", err)
	}
	req, err := admission.Decode(body)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	if size := len(req.Object.Raw); size > maxObject {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("%s %s/%s has %d bytes, and is not reviewed above %d",
			req.Resource.Resource, req.Namespace, req.Name, size, maxObject)
	}
	out, err := do(ctx, req)
	return out, http.StatusUnprocessableEntity, err
}

// probes returns the handler of the kubelet's probes and of the metrics.
func (s *server) probes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.Handle("GET /metrics", s.metrics.Handler())
	return mux
}

// The reasons why the server is not ready.
var (
	errDraining    = errors.New("the server ends")
	errDefinitions = errors.New("network definitions are not read yet: the API server does not answer, or does not " +
		"allow multus-admission to list them")
	errPods = errors.New("pods are not read yet: the API server does not answer, or does not allow multus-admission to " +
		"watch them; inUse: off needs no permission")
)

func (s *server) ready() error {
	select {
	case <-s.draining:
		return errDraining
	default:
	}
	switch {
	case !s.cache.Synced():
		return errDefinitions
	case s.attached != nil && !s.attached.Synced():
		return errPods
	}
	return s.certs.Ready()
}
