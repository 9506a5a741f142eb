package podstatus

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// forbiddenPause is the pause after a missing permission, and the longest pause after an error of unknown kind.
	forbiddenPause = 2 * time.Minute
	// forbiddenProbes is the number of forbidden statuses that are tried after each forbiddenPause.
	forbiddenProbes = 4
)

// forbidden has the reports for which the permission is missing, in the order in which they are tried again. The zero
// value is ready to use.
type forbidden struct {
	mu      sync.Mutex
	reports []*pending
}

func (f *forbidden) add(p *pending) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reports = append(f.reports, p)
}

// take removes the reports that no longer wait, and up to n others. It returns the latter, which are probes from then
// on.
func (f *forbidden) take(l *latest, n int) (probes []*pending) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var rest []*pending
	for _, p := range f.reports {
		switch {
		case len(probes) < n:
			if l.beginProbe(p) {
				probes = append(probes, p)
			}
		case l.waits(p):
			rest = append(rest, p)
		}
	}
	f.reports = rest
	return probes
}

// probeForbidden retries some of the forbidden statuses from time to time, until ctx ends. One timer serves all of
// them. When one of them is accepted, all are retried (settle).
func (w *Writer) probeForbidden(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.clock.After(forbiddenPause/2 + rand.N(forbiddenPause)):
			w.retryForbidden(forbiddenProbes)
		}
	}
}

// retryForbidden queues up to n forbidden statuses.
func (w *Writer) retryForbidden(n int) { w.queue(w.forbidden.take(w.latest, n)...) }
