package engine

import (
	"context"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/engine/execute"
	"multus/internal/engine/plan"
	"multus/internal/failpoint"
)

// attaching is a plan while it is carried out. Each attachment has its own place in the slices, so that those of one
// stage do not meet.
type attaching struct {
	*call
	plan    *plan.Plan
	results []types.Result
	// begun tells for which attachments a delegate was executed: they are owed a DEL.
	begun []bool
	errs  []error
	took  []time.Duration
	tried []bool
}

// attach does the plan: what can be known to fail is looked at first, then the plan is recorded, then the delegates run,
// one stage after another. It returns the results of those before the first that failed, also after an error: a plan
// with stages looks from outside like one without.
func (c *call) attach(ctx context.Context, p *plan.Plan) ([]types.Result, error) {
	if err := c.clearLeftover(ctx); err != nil {
		return nil, err
	}
	failpoint.At("leftover.cleared")
	if err := execute.Free(p); err != nil {
		return nil, err
	}
	c.store.Dir = p.Dirs.State
	if err := c.record(ctx, p); err != nil {
		return nil, err
	}
	failpoint.At("ledger.written")
	if err := c.store.NoteNetworks(p); err != nil {
		c.log.Warn("GC will not know of the network once its last pod is gone", "err", err)
	}
	n := len(p.Attachments)
	at := &attaching{call: c, plan: p, results: make([]types.Result, n), begun: make([]bool, n), errs: make([]error, n), took: make([]time.Duration, n), tried: make([]bool, n)}
	for _, stage := range p.Stages() {
		at.stage(ctx, stage)
		for i := range p.Attachments { // in the order of the list, whoever was faster
			if at.errs[i] != nil {
				c.undo(ctx, p, at.begun)
				return at.results[:i], c.failed(&p.Attachments[i], at.errs[i])
			}
		}
	}
	return at.results, nil
}

// stage attaches networks that need nothing of each other, as many at a time as the plan allows. After a failure none is
// begun; those at work come to their end, and are undone with the others.
func (at *attaching) stage(ctx context.Context, numbers []int) {
	var mu sync.Mutex
	left, failed := numbers, false
	next := func() (i int, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if failed || len(left) == 0 {
			return 0, false
		}
		i, left = left[0], left[1:]
		return i, true
	}
	work := func() {
		for i, ok := next(); ok; i, ok = next() {
			at.one(ctx, i)
			mu.Lock()
			failed = failed || at.errs[i] != nil
			mu.Unlock()
		}
	}
	var others sync.WaitGroup
	for range min(at.plan.Concurrency, len(numbers)) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	for _, i := range numbers {
		at.tell(ctx, i)
	}
}

// one attaches one network, with a runner of its own: what a runner knows is about one attachment.
func (at *attaching) one(ctx context.Context, i int) {
	a := &at.plan.Attachments[i]
	copyDeviceInfo(a)
	start := time.Now()
	at.results[i], at.begun[i], at.errs[i] = at.addOne(ctx, at.runner(at.plan.Dirs), at.plan, a)
	at.took[i], at.tried[i] = time.Since(start), true
	if at.errs[i] == nil {
		failpoint.At("attached")
	}
}

// tell notes what became of an attachment that was tried.
func (at *attaching) tell(ctx context.Context, i int) {
	a := &at.plan.Attachments[i]
	if !at.tried[i] {
		return
	}
	at.timed(a, at.took[i], at.errs[i])
	if at.errs[i] == nil {
		at.verbose(ctx, "Add", a, at.results[i], at.took[i])
	}
}
