package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/engine/detach"
	"multus/internal/engine/execute"
	"multus/internal/engine/hostdevice"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

// attaching is the execution of a plan by ADD: the plan is written to the ledger, the record is executed, and the
// outcome is published.
type attaching struct {
	*session.Sandbox
	plan *plan.Plan
	// record is the plan as it is executed. It is complete once it is written.
	record *ledger.Record
	// run runs the delegates of all attachments that are made one after another.
	run *execute.Runner
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
	// began is when the first plugin was called, and took the time since then.
	began time.Time
	took  time.Duration
}

func newAttaching(b *session.Sandbox, p *plan.Plan) *attaching {
	r := ledger.NewRecord(p)
	return &attaching{
		Sandbox: b, plan: p, record: r, run: b.Delegates(r), outcomes: make([]*outcome, len(p.Attachments)),
	}
}

// write checks what can be checked without side effects, and then writes the record.
func (at *attaching) write(ctx context.Context) error {
	if err := at.clearLeftover(ctx); err != nil {
		return err
	}
	failpoint.At("leftover.cleared")
	at.run.Prestart(request.Add, at.record, &at.record.Attachments[0])
	if err := at.Netns.CheckFree(at.record); err != nil {
		return err
	}
	if err := chooseVersions(ctx, at.Delegates(at.record), at.record); err != nil {
		return err
	}
	if err := readable(at.Session, at.record); err != nil {
		return err
	}
	err := hostdevice.Hold(ctx, at.Sandbox, at.record, func() error {
		if err := at.Ledger.Write(at.record); err != nil {
			return fault.StateNotWritten.Wrap(err, at.Request.Pod())
		}
		return nil
	})
	if err == nil {
		at.Recorded = time.Since(at.Start)
		failpoint.At("ledger.written")
	}
	return err
}

// clearLeftover frees the leftover state of an earlier ADD of the same container that was killed before its DEL. It
// leaves a container that is still attached alone: Netns.CheckFree rejects it later.
//
// Leftover state always has a record. A container without a record, such as every new one, has no leftover state, and
// libcni's results are not searched.
func (at *attaching) clearLeftover(ctx context.Context) error {
	if !at.Ledger.Has(at.Request.ContainerID) {
		return nil
	}
	r, err := at.Read()
	if err != nil || r == nil {
		return err
	}
	if attached, err := at.Netns.HasInterface(at.Request.Netns, at.Request.IfName); attached || err != nil {
		return err
	}
	if r.Progress.Undone && !r.Damaged { // the failed ADD has deleted all of its attachments
		return hostdevice.RestoreNames(ctx, at.Session, at.Current(r))
	}
	at.Log.Warn("freeing the resources of an earlier ADD of this container")
	err = detach.Recorded(ctx, at.Sandbox, r)
	detach.ReportGivenUp(ctx, at.Session, at.Pod(), at.Outcome)
	return err
}

// readable returns an error for a configuration that libcni cannot read, before anything is attached. libcni's form of
// it is kept for the delegates.
func readable(s *session.Session, r *ledger.Record) error {
	for i := range r.Attachments {
		a := &r.Attachments[i]
		if _, err := a.Config.Libcni(); err != nil {
			return fault.ConfigRefusedByCNI.Wrap(err, a.Name, s.Request.Pod())
		}
	}
	return nil
}

// execute runs the delegates stage by stage. If a stage fails, it deletes what was begun.
func (at *attaching) execute(ctx context.Context) error {
	for _, stage := range at.record.Stages() {
		at.stage(ctx, stage)
		if err := at.failure(); err != nil {
			at.run.Close() // of an attachment whose master is missing, a delegate may have been started
			detach.Undo(ctx, at.Sandbox, at.record, at.begun)
			return err
		}
	}
	noteNetworks(at.Sandbox, at.record)
	return nil
}

// noteNetworks notes the networks of a record for GC. A failure does not matter to the pod.
func noteNetworks(b *session.Sandbox, r *ledger.Record) {
	if err := b.Ledger.NoteNetworks(r); err != nil {
		b.Log.Warn("cannot note the network for GC, which skips it once its last pod is gone", "err", err)
	}
}

// failure returns the errors of all failed attachments in the order of the plan. The first one decides the error code.
func (at *attaching) failure() error {
	var errs []error
	for i, o := range at.outcomes {
		if o != nil && o.err != nil {
			errs = append(errs, failed(&at.record.Attachments[i], o.err))
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// failed adds the network to the error of a failed attachment (behaviour M2) and keeps the delegate's error code
// (behaviour D5). A configuration error that was found without running the delegate already names the network and is
// returned unchanged. If the error has a next step of its own, that one is kept.
func failed(a *ledger.Attachment, err error) error {
	e := fault.AddFailed.Wrap(err, a.Name, a.IfName, a.Name)
	if f, ok := errors.AsType[*fault.Error](err); ok {
		if f.Code == fault.BadConfig {
			return err
		}
		e.Code, e.Next = f.Code, f.Next
	}
	return e
}

func (at *attaching) begun(i int) bool { return at.outcomes[i] != nil && at.outcomes[i].begun }

// results returns the results of the attachments that precede the first failed one, with nil for each one that was not
// tried: a plan with stages looks from outside like one without.
func (at *attaching) results() []types.Result {
	var out []types.Result
	for _, o := range at.outcomes {
		switch {
		case o == nil:
			out = append(out, nil)
		case o.err != nil:
			return out
		default:
			out = append(out, o.result)
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
			at.conclude(ctx, &at.record.Attachments[i], o)
		}
	}
}

// one attaches one network.
func (at *attaching) one(ctx context.Context, i int) error {
	a, o := &at.record.Attachments[i], &outcome{}
	copyDeviceInfo(a)
	start := time.Now()
	if o.err = hostdevice.CheckMasters(at.Sandbox, at.record, a); o.err == nil {
		o.result, o.begun, o.err = at.runner(i).Add(ctx, at.record, a)
	}
	o.began, o.took = start, time.Since(start)
	if o.err == nil {
		failpoint.At("attached")
	}
	at.outcomes[i] = o
	return o.err
}

// runner returns the runner for one attachment. A runner is for one goroutine, and starts the first delegate of the
// next attachment ahead.
func (at *attaching) runner(i int) *execute.Runner {
	if at.plan.Concurrency < 2 {
		var next *ledger.Attachment
		if i+1 < len(at.record.Attachments) {
			next = &at.record.Attachments[i+1]
		}
		at.run.Then(request.Add, at.record, next)
		return at.run
	}
	if i == 0 { // the cluster network has a stage of its own
		return at.run
	}
	return at.Delegates(at.record)
}

// conclude records the timing of an attachment and logs the attachment if it succeeded.
func (at *attaching) conclude(ctx context.Context, a *ledger.Attachment, o *outcome) {
	at.Timed(a, o.began, o.took, o.err)
	if o.err == nil {
		at.Verbose(ctx, "Add", a, o.result, o.took)
	}
}
