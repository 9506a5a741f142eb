package planserver

import (
	"context"
	"net/http"

	"multus/internal/fault"
	wirev1 "multus/wire/v1"
)

// Socket is implemented by the socket at which plugins reach this daemon.
type Socket interface {
	// Waiting reports whether this daemon waits for another one that still serves.
	Waiting() bool
	// Check returns an error if a request to the socket does not arrive in this process. While the daemon waits for
	// another one, Check succeeds if the other one answers.
	Check(ctx context.Context) error
	// Probe sends a request for a path to the socket. It returns the HTTP status, and the InstanceHeader of the answer.
	Probe(ctx context.Context, path string) (code int, instance string, err error)
}

// Probes returns the handler of probes, /healthz and /readyz. Both succeed only if plugins reach this daemon at its
// socket. While this daemon waits for another one that still serves, /readyz returns the readiness of the other one: in
// a rolling update with surge, the old daemon is stopped once the new one is ready.
func (s *Server) Probes(sock Socket) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wirev1.PathHealth, func(w http.ResponseWriter, r *http.Request) {
		if sock.Waiting() { // a restart would not help
			answer(w, http.StatusOK, nil)
			return
		}
		if err := sock.Check(r.Context()); err != nil {
			unavailable(w, err)
			return
		}
		answer(w, http.StatusOK, nil)
	})
	mux.HandleFunc("GET "+wirev1.PathReady, func(w http.ResponseWriter, r *http.Request) {
		if err := sock.Check(r.Context()); err != nil {
			unavailable(w, err)
			return
		}
		if sock.Waiting() {
			code, _, err := sock.Probe(r.Context(), wirev1.PathReady)
			if err != nil {
				unavailable(w, err)
				return
			}
			answer(w, code, nil)
			return
		}
		s.readiness(w, r)
	})
	return mux
}

// unavailable answers 503 with the reason as a CNI error.
func unavailable(w http.ResponseWriter, err error) {
	ce := fault.ToCNI(err)
	ce.Code = fault.NotAvailable
	answer(w, http.StatusServiceUnavailable, ce)
}
