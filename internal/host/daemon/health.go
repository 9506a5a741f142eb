package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strconv"

	"multus/api"
	"multus/internal/fault"
)

// openHealth opens the port for the kubelet's probes on the node's loopback. The kubelet cannot probe a unix socket,
// and a command in the container for every probe would cost more than everything else that the daemon does.
func openHealth(ctx context.Context, number int, log *slog.Logger) (*port, error) {
	return openPort(ctx, "probes", net.JoinHostPort("127.0.0.1", strconv.Itoa(number)), log)
}

// healthServer returns the server for probes. Both probes succeed only if plugins reach this daemon at its socket.
// While this daemon waits for another one that still serves, /readyz returns the readiness of the other one: in a
// rolling update with surge, the old daemon is stopped once the new one is ready.
func healthServer(s *server, sock *socket) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathHealth, func(w http.ResponseWriter, r *http.Request) {
		if sock.waiting() { // a restart would not help
			answer(w, http.StatusOK, nil)
			return
		}
		if err := sock.check(r.Context()); err != nil {
			unavailable(w, err)
			return
		}
		answer(w, http.StatusOK, nil)
	})
	mux.HandleFunc("GET "+api.PathReady, func(w http.ResponseWriter, r *http.Request) {
		if err := sock.check(r.Context()); err != nil {
			unavailable(w, err)
			return
		}
		if sock.waiting() {
			code, _, err := sock.probe(r.Context(), api.PathReady)
			if err != nil {
				unavailable(w, err)
				return
			}
			answer(w, code, nil)
			return
		}
		s.readiness(w, r)
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: probeLimit, ReadTimeout: probeLimit, WriteTimeout: 3 * probeLimit}
}

// unavailable answers 503 with the reason as a CNI error.
func unavailable(w http.ResponseWriter, err error) {
	ce := fault.ToCNI(err)
	ce.Code = fault.NotAvailable
	answer(w, http.StatusServiceUnavailable, ce)
}
