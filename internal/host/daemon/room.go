package daemon

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"multus/internal/fault"
)

const (
	// decoders is how many requests are decoded at the same time, and decodeLimit how long a client may take to send one.
	decoders    = 4
	decodeLimit = 10 * time.Second
	// largePlan is the size of the configurations of a plan from which on it is large, and largePlans is how many of those
	// are made and answered at the same time: each takes some ten times its size, and the memory of the daemon is limited.
	// Ordinary plans, a few kilobytes each, wait for nobody.
	largePlan  = 64 << 10
	largePlans = 4
	// answerLimit is how long a client may take to read an answer.
	answerLimit = 10 * time.Second
)

// places are as many as its capacity; nil has no limit.
type places chan struct{}

func (p places) enter(ctx context.Context) error {
	if p == nil {
		return nil
	}
	select { // a free place is taken, whether or not ctx has ended
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

func (p places) leave() {
	if p != nil {
		<-p
	}
}

// room is the place of one request among those with a large plan, once its plan is large, until the answer is sent.
type room struct {
	ctx  context.Context //nolint:containedctx // of the request, as the room is
	all  places
	held bool
}

// grow waits for a place when the plan becomes large.
func (r *room) grow(bytes int) error {
	if r.held || bytes < largePlan {
		return nil
	}
	if err := r.all.enter(r.ctx); err != nil {
		return fault.Wrap(err, fault.TryAgain, "nothing: the runtime tries again",
			"wait to make a plan with %d bytes of configurations", bytes)
	}
	r.held = true
	return nil
}

func (r *room) giveBack() {
	if r.held {
		r.held = false
		r.all.leave()
	}
}

// receive decodes a request into v, and limits the time of its client. The recorders of tests have no such limits.
func (s *server) receive(ctx context.Context, w http.ResponseWriter, r *http.Request, v any) error {
	if err := s.decoding.enter(ctx); err != nil {
		return fault.Wrap(err, fault.TryAgain, "nothing: the runtime tries again", "wait to decode request %s", r.URL.Path)
	}
	defer s.decoding.leave()
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(decodeLimit))
	if err := decode(w, r, v); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Time{}) // it would end the request, which waits now
	return nil
}

// limitAnswer limits the time in which the client reads the answer that is written next.
func limitAnswer(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerLimit))
}
