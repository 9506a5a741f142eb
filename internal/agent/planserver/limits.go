package planserver

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"multus/internal/fault"
)

const (
	// decoders limits the number of requests that are decoded at the same time. decodeLimit limits the time in which a
	// client sends one.
	decoders    = 4
	decodeLimit = 10 * time.Second
	// A plan is large if its configurations have at least largePlan bytes in total. largePlans limits the number of large
	// plans that are made and sent at the same time, because each takes about ten times its size and the memory of the
	// daemon is limited. Ordinary plans have a few kilobytes and are not limited.
	largePlan  = 64 << 10
	largePlans = 4
	// answerLimit limits the time in which a client reads an answer.
	answerLimit = 10 * time.Second
)

// semaphore limits the number of concurrent requests to its capacity. A nil semaphore has no limit.
type semaphore chan struct{}

func (p semaphore) acquire(ctx context.Context) error {
	if p == nil {
		return nil
	}
	select { // take a free place even if ctx has ended
	case p <- struct{}{}:
		return nil
	default:
	}
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %d others: %w", cap(p), context.Cause(ctx))
	}
}

func (p semaphore) release() {
	if p != nil {
		<-p
	}
}

// largePlanPlace is the place of one request among those with large plans. The request holds a place from when its plan
// becomes large until its answer is sent.
type largePlanPlace struct {
	ctx  context.Context //nolint:containedctx // the place belongs to one request
	all  semaphore
	held bool
}

// grow acquires a place when the plan becomes large. It waits for a free one.
func (r *largePlanPlace) grow(bytes int) error {
	if r.held || bytes < largePlan {
		return nil
	}
	if err := r.all.acquire(r.ctx); err != nil {
		return fault.PlanWaited.Wrap(err, bytes)
	}
	r.held = true
	return nil
}

func (r *largePlanPlace) release() {
	if r.held {
		r.held = false
		r.all.release()
	}
}

// receive decodes a request into v, and limits how long the client may take. An httptest.ResponseRecorder has no
// deadlines, so that errors of setting them are ignored.
func (s *Server) receive(ctx context.Context, w http.ResponseWriter, r *http.Request, v any) error {
	if err := s.decoding.acquire(ctx); err != nil {
		return fault.DecodeWaited.Wrap(err, r.URL.Path)
	}
	defer s.decoding.release()
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(decodeLimit))
	if err := decode(w, r, v); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Time{}) // the read deadline would cancel the request while it waits
	return nil
}

// limitAnswer limits the time in which the client reads the next answer.
func limitAnswer(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerLimit))
}
