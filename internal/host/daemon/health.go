package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"

	"multus/api"
)

// serveHealth answers the kubelet's probes on the node's loopback until ctx ends: the kubelet cannot speak to a unix
// socket, and a command in the container for every probe would cost more than everything else that the daemon does. It
// serves nothing but the two answers. Port 0 is none.
func serveHealth(ctx context.Context, port int, s *server) error {
	if port == 0 {
		return nil
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for probes: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathHealth, func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, nil) })
	mux.HandleFunc("GET "+api.PathReady, s.status)
	hs := &http.Server{Handler: mux, ReadHeaderTimeout: waitLimit, ReadTimeout: waitLimit, WriteTimeout: waitLimit}
	stop := context.AfterFunc(ctx, func() { _ = hs.Close() }) // a probe that is cut off is asked again
	defer stop()
	if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve probes on %s: %w", addr, err)
	}
	return nil
}
