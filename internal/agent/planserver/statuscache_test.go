package planserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/eventually"
	wirev1 "multus/wire/v1"
)

// slowClient is a client that reads an answer when the test allows it.
type slowClient struct {
	*httptest.ResponseRecorder
	begun, read chan struct{}
}

func (c *slowClient) Write(b []byte) (int, error) {
	close(c.begun)
	<-c.read
	return c.ResponseRecorder.Write(b)
}

// TestStatusOfSlowClient checks that a client which does not read its answer does not block others.
func TestStatusOfSlowClient(t *testing.T) {
	t.Parallel()
	s := &Server{}
	for method, h := range map[string]http.HandlerFunc{http.MethodGet: s.status, http.MethodPost: s.statusCache.put} {
		slow := &slowClient{httptest.NewRecorder(), make(chan struct{}), make(chan struct{})}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			h(slow, httptest.NewRequestWithContext(t.Context(), method, wirev1.PathStatus+"?key=k",
				strings.NewReader(`{"key":"k"}`)))
		}()
		eventually.Receive(t, "the slow client's answer", slow.begun)
		other := make(chan int)
		go func() {
			w := httptest.NewRecorder()
			s.status(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, wirev1.PathStatus+"?key=other", nil))
			other <- w.Code
		}()
		if got := eventually.Receive(t, "the other client's answer", other); got != http.StatusOK {
			t.Errorf("%s: answered %d", method, got)
		}
		close(slow.read)
		eventually.Receive(t, "the handler returned", ended)
	}
}

// TestStatusesAreBounded checks that the cache of STATUS results does not grow with the number of configurations.
func TestStatusesAreBounded(t *testing.T) {
	t.Parallel()
	s := &statusCache{}
	now := time.Now()
	for i := range 10 * maxStatuses {
		s.store(wirev1.StatusResult{Key: fmt.Sprint(i)}, now)
	}
	if len(s.last) != maxStatuses {
		t.Errorf("%d results are cached", len(s.last))
	}
	s.store(wirev1.StatusResult{Key: "k"}, now.Add(2*wirev1.StatusTTL))
	if len(s.last) != 1 {
		t.Errorf("%d results are cached, want only the one that has not expired", len(s.last))
	}
}
