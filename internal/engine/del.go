package engine

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/engine/detach"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/reap"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
)

// Del detaches a pod and uses only the ledger (behaviour D.4). It returns nil if nothing can remain attached. An
// error means that something may remain and that the runtime has to repeat the DEL.
func (e *Engine) Del(ctx context.Context, req *request.Request) error {
	s, err := e.begin(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, DelLimit, fmt.Errorf("DEL took longer than %s", DelLimit))
	defer cancel()
	outcome := &session.Outcome{}
	b, err := lockForDel(ctx, s)
	if err == nil {
		err = errors.Join(e.del(ctx, b), b.Release())
		outcome = b.Outcome
	}
	detach.Report(ctx, s, s.Pod(), outcome)
	return withPod(req, err)
}

// lockForDel locks the sandbox. If only orphaned delegates hold the lock after LockLimit, it kills them and tries
// again.
func lockForDel(ctx context.Context, s *session.Session) (*session.Sandbox, error) {
	records := s.LedgerIn("")
	b, err := s.Lock(ctx, records, LockLimit)
	if errors.Is(err, fsx.ErrLocked) {
		if kept := reap.Orphans(s); kept != nil {
			return nil, errors.Join(err, kept)
		}
		b, err = s.Lock(ctx, records, reap.OrphanGrace)
	}
	return b, err
}

func (e *Engine) del(ctx context.Context, b *session.Sandbox) error {
	r, err := b.Read()
	if errors.Is(err, ledger.ErrNoDirectory) {
		b.Log.Warn("nothing was ever attached", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	failpoint.At("del.read")
	if r != nil {
		return detach.Recorded(ctx, b, r)
	}
	return e.delUnrecorded(ctx, b)
}

// delUnrecorded is the DEL of a sandbox without a record in the state directory of the runtime's configuration. It
// looks for the record in the state directory of the plan, because the daemon's configuration may set another one
// (behaviour A90). Without a record in either directory, it runs DEL for what can be planned now (behaviour D60).
func (e *Engine) delUnrecorded(ctx context.Context, b *session.Sandbox) error {
	p, err := e.planUnrecorded(ctx, b)
	if err == nil && p.Dirs.State != "" && p.Dirs.State != b.Ledger.Dir {
		b = b.In(p.Dirs.State)
		r, err := b.Read()
		if err != nil {
			return err
		}
		if r != nil {
			return detach.Recorded(ctx, b, r)
		}
	}
	failpoint.At("del.unrecorded")
	r := ledger.NewRecord(p)
	if err == nil {
		err = chooseVersions(ctx, b.Delegates(r), r)
	}
	if err != nil || len(r.Attachments) == 0 {
		return errors.Join(err, b.Ledger.Remove(b.Request.ContainerID))
	}
	if err = detach.Free(ctx, b, r, ledger.Progress{}); err == nil {
		return nil
	}
	attached, lookErr := b.Netns.HasInterface(b.Request.Netns, b.Request.IfName)
	if attached || lookErr != nil {
		return err
	}
	// There is no evidence that anything was attached, and DEL was run for what can be planned.
	b.Log.Warn("DEL of a container without a record", "err", err)
	return b.Ledger.Remove(b.Request.ContainerID)
}

// planUnrecorded plans the DEL of a sandbox of which neither the ledger nor libcni has a record. If no plan can be made
// now, the sandbox itself decides: without its interface nothing was attached, and the plan is empty. The plan is never
// nil.
func (e *Engine) planUnrecorded(ctx context.Context, b *session.Sandbox) (*plan.Plan, error) {
	p, err := e.deps.Planner.Plan(ctx, b.Request, b.Conf)
	if err == nil {
		return p, nil
	}
	if fault.ToCNI(err).Code == fault.TryAgain {
		attached, lookErr := b.Netns.HasInterface(b.Request.Netns, b.Request.IfName)
		if attached || lookErr != nil {
			return &plan.Plan{}, errors.Join(err, lookErr)
		}
	}
	b.Log.Warn("failed to get the cached delegates file: no record, cannot properly delete", "err", err)
	return &plan.Plan{}, nil
}
