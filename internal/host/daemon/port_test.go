package daemon

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"multus/internal/agent/metrics"
)

// lines is a log whose lines a test receives.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// TestHandshakeErrors checks that a client without TLS causes no line in the log but at level debug: everyone who
// reaches the port can cause them.
func TestHandshakeErrors(t *testing.T) {
	t.Parallel()
	logged := make(lines, 10)
	log := slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	server, err := metrics.New(true).Guarded(false, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p, err := openPort(ctx, "metrics", "127.0.0.1:0", server, log)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /metrics HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	select {
	case line := <-logged:
		if !strings.Contains(line, "level=DEBUG") || !strings.Contains(line, "TLS handshake error") {
			t.Error(line)
		}
	case <-time.After(10 * time.Second):
		t.Error("the handshake error is not in the daemon's log")
	}
}
