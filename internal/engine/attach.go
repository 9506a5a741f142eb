package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/engine/execute"
	"multus/internal/engine/plan"
	"multus/internal/failpoint"
)

// attaching is a plan while it is carried out.
type attaching struct {
	*call
	plan *plan.Plan
	// outcomes have a place for each attachment, so that those of one stage do not meet; nil if it was not tried.
	outcomes []*outcome
}

// outcome is what became of an attachment that was tried.
type outcome struct {
	result types.Result
	// begun tells that a delegate was executed, which is owed a DEL.
	begun bool
	err   error
	took  time.Duration
}

// attach does the plan: what can be known to fail is looked at first, then the plan is recorded, then the delegates
// run, one stage after another. It returns the results of those before the first that failed, also after an error: a
// plan with stages looks from outside like one without.
func (c *call) attach(ctx context.Context, p *plan.Plan) ([]types.Result, error) {
	if err := c.clearLeftover(ctx); err != nil {
		return nil, err
	}
	failpoint.At("leftover.cleared")
	if err := execute.Free(p); err != nil {
		return nil, err
	}
	if err := c.chooseVersions(ctx, p); err != nil {
		return nil, err
	}
	if err := c.record(ctx, p); err != nil {
		return nil, err
	}
	failpoint.At("ledger.written")
	at := &attaching{call: c, plan: p, outcomes: make([]*outcome, len(p.Attachments))}
	for _, stage := range p.Stages() {
		at.stage(ctx, stage)
		if first, err := at.failure(); err != nil {
			c.undo(ctx, p, at.begun)
			return at.results(first), err
		}
	}
	if err := c.store.NoteNetworks(p); err != nil {
		c.log.Warn("GC will not know of the network once its last pod is gone", "err", err)
	}
	return at.results(len(p.Attachments)), nil
}

// failure returns the errors of all attachments that failed, in the order of the list, and the index of the first. The
// first error decides the code.
func (at *attaching) failure() (first int, err error) {
	var errs []error
	for i, o := range at.outcomes {
		if o == nil || o.err == nil {
			continue
		}
		if len(errs) == 0 {
			first = i
		}
		errs = append(errs, at.failed(&at.plan.Attachments[i], o.err))
	}
	if len(errs) == 1 {
		return first, errs[0]
	}
	return first, errors.Join(errs...)
}

// chooseVersions gives each network whose configuration has no cniVersion one that its plugins support: the version of
// the outer configuration, which they inherit, may be newer than they are. ADD does it before the plan is recorded, so
// that DEL uses the same (behaviour B5); every verb without a record does it again. A network whose plugins do not say
// keeps the outer version.
func (c *call) chooseVersions(ctx context.Context, p *plan.Plan) error {
	for i := range p.Attachments {
		a := &p.Attachments[i]
		if !a.Inherited {
			continue
		}
		chosen, err := c.runner(p.Dirs).Version(ctx, a.Config, a.Config.Version())
		if err != nil || chosen == "" || chosen == a.Config.Version() {
			continue // its plugin reports at ADD what is wrong
		}
		if a.Config, err = a.Config.WithVersion(chosen); err != nil {
			return fmt.Errorf("network %s: %w", a.Name, err)
		}
	}
	return nil
}

// chooseVersionsWithin is chooseVersions for at most some time: a plugin that hangs must not use up the time of a verb
// that is about other networks, too.
func (c *call) chooseVersionsWithin(ctx context.Context, limit time.Duration, p *plan.Plan) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	return c.chooseVersions(ctx, p)
}

func (at *attaching) begun(i int) bool { return at.outcomes[i] != nil && at.outcomes[i].begun }

// results are those of the first n attachments, nil for one that was not tried.
func (at *attaching) results(n int) []types.Result {
	out := make([]types.Result, n)
	for i, o := range at.outcomes[:n] {
		if o != nil {
			out[i] = o.result
		}
	}
	return out
}

// stage attaches networks that need nothing of each other, as many at a time as the plan allows. After a failure none
// is begun; those at work come to their end, and are undone with the others.
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
			err := at.one(ctx, i)
			mu.Lock()
			failed = failed || err != nil
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
		if o := at.outcomes[i]; o != nil {
			at.tell(ctx, &at.plan.Attachments[i], o)
		}
	}
}

// one attaches one network, with a runner of its own: what a runner knows is about one attachment.
func (at *attaching) one(ctx context.Context, i int) error {
	a, o := &at.plan.Attachments[i], &outcome{}
	copyDeviceInfo(a)
	start := time.Now()
	o.result, o.begun, o.err = at.addOne(ctx, at.runner(at.plan.Dirs), at.plan, a)
	o.took = time.Since(start)
	if o.err == nil {
		failpoint.At("attached")
	}
	at.outcomes[i] = o
	return o.err
}

func (at *attaching) tell(ctx context.Context, a *plan.Attachment, o *outcome) {
	at.timed(a, o.took, o.err)
	if o.err == nil {
		at.verbose(ctx, "Add", a, o.result, o.took)
	}
}
