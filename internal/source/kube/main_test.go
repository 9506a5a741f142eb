package kube

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// eventually waits until a condition that changes in the background is true.
func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), waitTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			tb.Fatalf("%s: not within %v", what, waitTimeout)
		case <-tick.C:
		}
	}
}

// start runs a cache. It returns a function that stops it, and the end of the test stops it, too.
func start(tb testing.TB, c *Cache) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	stop = func() {
		cancel()
		wg.Wait()
	}
	tb.Cleanup(stop)
	return stop
}

// isFollowing reports whether a cache follows the API server now.
func isFollowing(c *Cache) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.following()
}
