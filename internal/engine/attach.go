package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/engine/plan"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

// attaching is the execution of a plan by ADD.
type attaching struct {
	*call
	plan *plan.Plan
	// outcomes has one entry per attachment, so that the attachments of one stage can write without a lock. An entry is
	// nil if its attachment was not tried.
	outcomes []*outcome
}

// outcome is the outcome of one attachment that was tried.
type outcome struct {
	result types.Result
	// begun reports whether a delegate was executed. If so, the attachment needs a DEL.
	begun bool
	err   error
	took  time.Duration
}

// attach executes the plan. It first checks what can be checked without side effects, then records the plan, and then
// runs the delegates stage by stage. It returns the results of the attachments that precede the first failed one, also
// with an error: a plan with stages looks from outside like one without.
func (c *call) attach(ctx context.Context, p *plan.Plan) ([]types.Result, error) {
	if err := c.clearLeftover(ctx); err != nil {
		return nil, err
	}
	failpoint.At("leftover.cleared")
	if err := c.deps.Netns.CheckFree(p); err != nil {
		return nil, err
	}
	if err := c.chooseVersions(ctx, p); err != nil {
		return nil, err
	}
	if err := c.readable(p); err != nil {
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
		c.log.Warn("cannot note the network for GC, which skips it once its last pod is gone", "err", err)
	}
	return at.results(len(p.Attachments)), nil
}

// readable returns an error for a configuration that libcni cannot read, before anything is attached. libcni's form of
// it is kept for the delegates.
func (c *call) readable(p *plan.Plan) error {
	for i := range p.Attachments {
		a := &p.Attachments[i]
		if _, err := a.Config.Libcni(); err != nil {
			return fault.Wrap(err, fault.BadConfig, "correct the network's configuration: multusctl lint shows the place",
				"network %s of pod %s: CNI does not accept its configuration", a.Name, c.req.Pod())
		}
	}
	return nil
}

// failure returns the errors of all failed attachments in the order of the plan, and the index of the first one. The
// first error decides the error code.
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

// chooseVersions selects a cniVersion for each network whose configuration has none. Such a network inherits the
// version of the outer configuration, which may be newer than its plugins support. ADD selects the version before the
// plan is recorded, so that DEL uses the same one (behaviour B5). Every verb without a record selects it again. If the
// plugins do not report their versions, the network keeps the outer version.
func (c *call) chooseVersions(ctx context.Context, p *plan.Plan) error {
	for i := range p.Attachments {
		a := &p.Attachments[i]
		if !a.Inherited {
			continue
		}
		chosen, err := c.runner(p.Dirs).Version(ctx, a.Config, a.Config.Version())
		if err != nil || chosen == "" || chosen == a.Config.Version() {
			continue // the plugin reports the problem at ADD
		}
		if a.Config, err = a.Config.WithVersion(chosen); err != nil {
			return fmt.Errorf("network %s: %w", a.Name, err)
		}
	}
	return nil
}

// chooseVersionsWithin is chooseVersions with a time limit. A plugin that hangs must not use up the time of a verb that
// also handles other networks.
func (c *call) chooseVersionsWithin(ctx context.Context, limit time.Duration, p *plan.Plan) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	return c.chooseVersions(ctx, p)
}

func (at *attaching) begun(i int) bool { return at.outcomes[i] != nil && at.outcomes[i].begun }

// results returns the results of the first n attachments, with nil for each one that was not tried.
func (at *attaching) results(n int) []types.Result {
	out := make([]types.Result, n)
	for i, o := range at.outcomes[:n] {
		if o != nil {
			out[i] = o.result
		}
	}
	return out
}

// stage attaches networks that do not depend on each other, at most plan.Concurrency at a time. After a failure no
// further attachment is begun. Attachments that are in progress finish and are undone with the others.
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
			at.conclude(ctx, &at.plan.Attachments[i], o)
		}
	}
}

// one attaches one network. It uses a runner of its own, because a runner keeps state about one attachment.
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

// conclude records the timing of an attachment and logs the attachment if it succeeded.
func (at *attaching) conclude(ctx context.Context, a *plan.Attachment, o *outcome) {
	at.timed(a, o.took, o.err)
	if o.err == nil {
		at.verbose(ctx, "Add", a, o.result, o.took)
	}
}
