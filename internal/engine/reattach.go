package engine

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/engine/detach"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fsx"
)

// Reattach attaches networks of a running sandbox again whose interfaces no longer exist, from what is recorded about
// them: their definitions may be gone (behaviour R28). req is the ADD of the sandbox as its record describes it, pod is
// the pod as the API server has it, and ifNames are the interfaces.
//
// Each network is marked in the record before its delegates are called, and stays in the record whatever happens, so
// that a DEL of the sandbox deletes it with the others, and that the next call repeats what was killed or has failed.
// An interface that exists is never deleted, unless an earlier call was killed while it made that interface. Nothing is
// done while another operation holds the sandbox's lock.
func (e *Engine) Reattach(ctx context.Context, req *request.Request, stateDir string, pod request.Pod,
	ifNames []string,
) error {
	return e.change(ctx, req, stateDir, func(ctx context.Context, s *session.Session, records *ledger.Store) error {
		return e.reattach(ctx, s, records, pod, ifNames)
	})
}

func (e *Engine) reattach(ctx context.Context, s *session.Session, records *ledger.Store, pod request.Pod,
	ifNames []string,
) (err error) {
	place, err := e.lockPlace(ctx, s.Request.ContainerID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, place.Release()) }()
	lock, err := fsx.TryAcquire(s.LockFile, s.Request.ContainerID)
	if errors.Is(err, fsx.ErrLocked) {
		return nil // it is repeated
	}
	if err != nil {
		return err
	}
	b := s.Locked(records, lock)
	defer func() { err = errors.Join(err, b.Release()) }()
	r, err := b.Read()
	if err != nil {
		return err
	}
	if running, err := runs(s, r); err != nil || !running {
		return err
	}
	ap := &applying{Sandbox: b, changes: &plan.Changes{Pod: pod}, record: b.Current(r)}
	for _, ifName := range ifNames {
		if i := ap.index(ifName); i >= 0 {
			ap.reattach(ctx, i)
		}
	}
	if len(ap.events) == 0 {
		return nil
	}
	return errors.Join(append(ap.errs, ap.publish(ctx))...)
}

// reattach attaches attachment i again if its interface is lost.
func (ap *applying) reattach(ctx context.Context, i int) {
	a := &ap.record.Attachments[i]
	if a.Primary || a.Pending || hasDevice(a) {
		return
	}
	lost, err := ap.isLost(a)
	switch {
	case err == nil && lost:
		err = ap.again(ctx, i)
	case err == nil && !a.Reattaching:
		return
	}
	if err == nil {
		err = ap.Ledger.MarkReattaching(ap.record, a, false)
	}
	failpoint.At("reattach.done")
	if err != nil {
		ap.fail(publish.FailedAddingInterface, failed(a, err))
		return
	}
	a.Reattaching, ap.changed = false, true
	ap.events = append(ap.events, publish.Restored(a.Name, a.IfName, ap.Request.ContainerID))
}

// isLost reports whether the interface of an attachment does not exist, or was made by an ADD that was killed: libcni
// has a result of every ADD that ended.
func (ap *applying) isLost(a *ledger.Attachment) (bool, error) {
	there, err := ap.Netns.HasInterface(ap.record.Netns, a.IfName)
	if err != nil || !there {
		return err == nil, err
	}
	if !a.Reattaching {
		return false, nil
	}
	run := ap.Delegates(ap.record)
	defer run.Close()
	_, err = run.Result(ap.record, a)
	return err != nil, nil
}

// again deletes what is left of attachment i, and attaches it with the same configuration.
func (ap *applying) again(ctx context.Context, i int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	a := &ap.record.Attachments[i]
	if err := ap.Ledger.MarkReattaching(ap.record, a, true); err != nil {
		return err
	}
	a.Reattaching = true
	failpoint.At("reattach.recorded")
	if err := detach.Keep(ctx, ap.Sandbox, ap.record, i, true); err != nil {
		return err
	}
	failpoint.At("reattach.deleted")
	_, begun, err := ap.attach(ctx, a)
	if err == nil || !begun {
		return err
	}
	ctx, cancel := undoContext(ctx)
	defer cancel()
	if undone := detach.Keep(ctx, ap.Sandbox, ap.record, i, true); undone != nil {
		err = errors.Join(err, fmt.Errorf("undo is incomplete and is repeated: %w", undone))
	}
	return err
}
