package planserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"multus/internal/agent/metrics"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
	"multus/internal/testutil/eventually"
	wirev1 "multus/wire/v1"
)

// hanging is a source with a large definition "large" and a small one "small". After the large definition "large-away"
// it waits until the request ends, as for an API server that is unavailable.
type hanging struct{ waiting chan string }

func (h *hanging) Network(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	padding := ""
	switch ref.Name {
	case "large":
		padding = strings.Repeat("x", largePlan)
	case "away":
		h.waiting <- ref.Name
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", plan.ErrUnavailable, ctx.Err())
	}
	return &plan.Definition{
		Ref:    ref,
		Config: fmt.Sprintf(`{"cniVersion":"1.0.0","name":"n","type":"bridge","x":%q}`, padding),
	}, nil
}

// Pod returns a pod that requests the networks that its name lists.
func (h *hanging) Pod(_ context.Context, ref plan.Ref) (*plan.Pod, error) {
	return &plan.Pod{
		Ref: ref, UID: "u",
		Annotations: map[string]string{netsel.Networks: strings.ReplaceAll(ref.Name, ".", ",")},
	}, nil
}

// TestLargePlans checks that only a few large plans are made at the same time, and that their places become free when
// their requests end. Other requests do not wait for them, nor for a definition that the API server does not return.
func TestLargePlans(t *testing.T) {
	t.Parallel()
	conf, err := config.ParseDaemon([]byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	h := &hanging{waiting: make(chan string, 100)}
	s := &Server{
		conf: conf, metrics: metrics.New(true), observe: unobserved, log: log, statuses: newTestWriter(t.TempDir()),
		decoding: make(semaphore, decoders), large: make(semaphore, largePlans),
	}
	s.resolver = &plan.Resolver{Networks: h, Pods: h, Log: log}
	answered := func(ctx context.Context, pod string) (code int, said string) {
		b, err := json.Marshal(&wirev1.Request{
			Command: request.Add, ContainerID: "c", Netns: "/run/netns/x", IfName: "eth0",
			Args:   [][2]string{{request.PodNamespace, "d"}, {request.PodName, pod}, {request.PodUID, "u"}},
			Config: []byte(`{"cniVersion":"1.0.0","name":"m","type":"multus-shim","clusterNetwork":"small"}`),
		})
		if err != nil {
			t.Error(err)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, wirev1.PathPlan, bytes.NewReader(b)))
		return w.Code, w.Body.String()
	}
	ask := func(ctx context.Context, pod string) int {
		code, _ := answered(ctx, pod)
		return code
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 100)
	const many = 5 * largePlans
	for range many {
		go func() { ended <- ask(ctx, "small.away") }()
		go func() { ended <- ask(ctx, "large.away") }()
	}
	for range many + largePlans {
		eventually.Receive(t, "a request that waits for the API server", h.waiting)
	}
	if code := ask(t.Context(), "small"); code != http.StatusOK {
		t.Errorf("a small plan at the same time: %d", code)
	}
	over, end := context.WithCancel(t.Context())
	end()
	if code, said := answered(over, "large"); code != http.StatusServiceUnavailable ||
		!strings.Contains(said, "wait to make a plan with ") || !strings.Contains(said, "nothing: the runtime tries again") {
		t.Errorf("one more large plan: %d %s", code, said)
	}
	for range decoders {
		s.decoding <- struct{}{}
	}
	if code, said := answered(over, "small"); code != http.StatusServiceUnavailable ||
		!strings.Contains(said, "wait to decode request /") {
		t.Errorf("one more request to decode: %d %s", code, said)
	}
	for range decoders {
		s.decoding.release()
	}
	if len(h.waiting) > 0 || len(s.large) != largePlans {
		t.Errorf("%d large plans are made", len(s.large))
	}
	cancel()
	for range 2 * many {
		if code := eventually.Receive(t, "the end of a request", ended); code != http.StatusServiceUnavailable {
			t.Errorf("a cancelled request: %d", code)
		}
	}
	if code := ask(t.Context(), "large"); code != http.StatusOK {
		t.Errorf("a large plan after them: %d", code)
	}
	if len(s.large)+len(s.decoding) != 0 {
		t.Errorf("%d and %d places are not released", len(s.large), len(s.decoding))
	}
}
