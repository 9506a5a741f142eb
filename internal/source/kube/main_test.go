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

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"multus/internal/engine/plan"
)

// TestMain removes the handlers of client-go's error reports. They compare the time with that of the last report, which
// may be from another synctest bubble.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = nil
	m.Run()
}

func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

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

// isCached reports whether a cache follows the API server now, and has the definition.
func isCached(c *Cache, ref plan.Ref) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, held := c.defs[ref]
	return c.following() && held
}
