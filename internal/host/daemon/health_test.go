package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestHealth: probes get an answer on the loopback, and nothing else is served there.
func TestHealth(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	l.Close()
	if !ok {
		t.Fatal("no TCP address")
	}
	ready := make(chan error, 1)
	ready <- errors.New("not yet")
	srv := &server{ready: func() error {
		select {
		case err := <-ready:
			return err
		default:
			return nil
		}
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- serveHealth(ctx, addr.Port, srv) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	get := func(path string) int {
		for range 100 {
			resp, err := client.Get(fmt.Sprintf("http://%s%s", addr, path))
			if err == nil {
				resp.Body.Close()
				return resp.StatusCode
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatal("nobody listens")
		return 0
	}
	for _, tt := range []struct {
		path string
		want int
	}{{"/healthz", 200}, {"/readyz", 503}, {"/readyz", 200}, {"/v1/plan", 404}, {"/v1/status", 404}, {"/", 404}} {
		if got := get(tt.path); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.path, got, tt.want)
		}
	}
	if err := serveHealth(t.Context(), addr.Port, srv); err == nil {
		t.Error("a port that is taken is no error")
	}
	if err := serveHealth(t.Context(), 0, srv); err != nil {
		t.Errorf("no port: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("end: %v", err)
	}
}
