package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// portPoll is the interval at which a port that is in use is tried again.
const portPoll = 2 * time.Second

// port is a TCP port of the daemon. If another process uses it, such as the daemon that this one replaces, it is bound
// as soon as it is free. Meanwhile the daemon serves without it, because pods do not need it.
type port struct {
	what, addr string
	server     *http.Server
	log        *slog.Logger
	listener   net.Listener // nil while another process has the port
}

// openPort tries to bind a port. A port that is in use is not an error.
func openPort(ctx context.Context, what, addr string, server *http.Server, log *slog.Logger) (*port, error) {
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug) // any client causes errors
	p := &port{what: what, addr: addr, server: server, log: log}
	err := p.bind(ctx)
	if errors.Is(err, syscall.EADDRINUSE) {
		log.Warn("port is in use: trying again until it is free", "port", addr, "for", what)
		return p, nil
	}
	return p, err
}

// openHealth opens the port for the kubelet's probes on the node's loopback. The kubelet cannot probe a unix socket,
// and a command in the container for every probe would cost more than everything else that the daemon does.
func openHealth(ctx context.Context, number int, server *http.Server, log *slog.Logger) (*port, error) {
	return openPort(ctx, "probes", net.JoinHostPort("127.0.0.1", strconv.Itoa(number)), server, log)
}

func (p *port) bind(ctx context.Context) (err error) {
	if p.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", p.addr); err != nil {
		return fmt.Errorf("listen for %s: %w", p.what, err)
	}
	if p.server.TLSConfig != nil {
		p.listener = tls.NewListener(p.listener, p.server.TLSConfig)
	}
	return nil
}

// run serves the port until ctx ends.
func (p *port) run(ctx context.Context) error {
	for p.listener == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(portPoll):
		}
		err := p.bind(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		if err == nil {
			p.log.Info("port is free now: serving it", "port", p.addr, "for", p.what)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = p.server.Close() }) // a client whose request is cut off repeats it
	defer stop()
	if err := p.server.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s on %s: %w", p.what, p.addr, err)
	}
	return nil
}
