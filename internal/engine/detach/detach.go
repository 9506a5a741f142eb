// Package detach deletes the attachments of a sandbox: for DEL, for the undo of a failed ADD, and for a sandbox that is
// gone. It works from a record alone, and decides which failures of delegates leave nothing behind. It is imported by
// the engine and by reap.
package detach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"multus/internal/config"
	"multus/internal/engine/execute"
	"multus/internal/engine/hostdevice"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/link"
)

const (
	// Refusals is how many DELs may fail because a plugin refuses, with a reason of its own, to delete an attachment of
	// which no trace is left.
	Refusals = 2
	// RefusalsInPlace replaces Refusals if the network namespace still exists and only the interface is gone.
	RefusalsInPlace = 9
	// maxErrors is how many failures of one DEL are listed in the error.
	maxErrors = 8
	// UndoLimit bounds the undo of a failed ADD.
	UndoLimit = 20 * time.Second
	// Reserve is the part of the time of a DEL that is reserved for each remaining network when a delegate hangs.
	Reserve = 5 * time.Second
	// DelegateFloor is the minimum time of each delegate at DEL, however many delegates there are.
	DelegateFloor = 2 * time.Second
)

// Recorded deletes the attachments of a record that was read, and then the record.
func Recorded(ctx context.Context, b *session.Sandbox, r *ledger.Record) error {
	progress := r.Progress
	if progress.Begun == 0 && b.BeforeBoot(r) {
		progress.Begun = len(r.Stages()) // libcni does not sync its results: a power loss may have removed them
	}
	return Free(ctx, b, b.Current(r), progress)
}

// Free deletes the attachments of r as they are to be executed now, and removes the sandbox's record. While anything
// remains attached, the record stays and marks what was deleted, so that the next DEL continues with the rest
// (behaviour D69, D70: Multus 4.x removes the record). progress is what earlier DELs have recorded.
func Free(ctx context.Context, b *session.Sandbox, r *ledger.Record, progress ledger.Progress) error {
	d := newDetaching(b, r, progress)
	if err := errors.Join(d.all(ctx), hostdevice.RestoreNames(ctx, b.Session, r)); err != nil {
		return errors.Join(err, b.Ledger.RecordDeletions(r, d.now, d.deletions))
	}
	failpoint.At("detached")
	err := b.Ledger.Remove(r.ContainerID)
	failpoint.At("ledger.removed")
	return err
}

// Undo deletes the attachments of a failed ADD for which begun returns true, in reverse order (behaviour D28). It has a
// time limit of its own because the request may have ended already. The record is kept: the runtime sends a DEL after
// every failed ADD, and that DEL deletes the attachments once more. If the undo was complete, the record says so.
func Undo(ctx context.Context, b *session.Sandbox, r *ledger.Record, begun func(i int) bool) {
	failpoint.At("undo.before")
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), UndoLimit,
		fmt.Errorf("undo took longer than %s", UndoLimit))
	defer cancel()
	done, progress := *r, ledger.Progress{}
	done.Attachments = nil
	for i, stage := range r.StageNumbers() {
		if begun(i) {
			done.Attachments = append(done.Attachments, r.Attachments[i])
			progress.Begun = max(progress.Begun, stage+1)
		}
	}
	d := newDetaching(b, &done, progress)
	d.before.Undone = true
	err := d.all(ctx)
	progress = d.now
	if err == nil {
		progress = ledger.Progress{Undone: true}
	}
	if err := errors.Join(err, b.Ledger.RecordProgress(r.ContainerID, progress)); err != nil {
		b.Log.Error("undo of a failed ADD is incomplete; DEL will complete it", "err", err)
	}
	failpoint.At("undo.after")
}

// One deletes attachment i of the record of a running sandbox, and removes it from the record. undo is set if its ADD
// did not succeed. While anything of it remains, it stays in the record.
func One(ctx context.Context, b *session.Sandbox, r *ledger.Record, i int, undo bool) error {
	if err := Keep(ctx, b, r, i, undo); err != nil {
		return err
	}
	failpoint.At("apply.detached")
	return b.Ledger.Drop(r, &r.Attachments[i])
}

// Keep is One for an attachment that stays in the record because it is attached again.
func Keep(ctx context.Context, b *session.Sandbox, r *ledger.Record, i int, undo bool) error {
	one := *r
	one.Attachments = []ledger.Attachment{r.Attachments[i]}
	one.Attachments[0].Stage = 0
	d := newDetaching(b, &one, ledger.Progress{Begun: 1}) // so that no progress of a DEL is recorded
	d.before.Undone = undo
	if err := errors.Join(d.all(ctx), hostdevice.RestoreNames(ctx, b.Session, &one)); err != nil {
		return errors.Join(err, b.Ledger.RecordDeletions(&one, ledger.Progress{}, d.deletions))
	}
	return nil
}

// detaching is the DEL of the attachments of a record.
type detaching struct {
	*session.Sandbox
	record *ledger.Record
	run    *execute.Runner
	// stages holds the record's stage numbers.
	stages []int
	// before is the progress that earlier DELs recorded. now is the progress of this DEL.
	before, now ledger.Progress
	// deletions has one entry per attachment. They continue what earlier DELs recorded.
	deletions []ledger.Deletion
	errs      []error
	failed    int
}

func newDetaching(b *session.Sandbox, r *ledger.Record, progress ledger.Progress) *detaching {
	d := &detaching{
		Sandbox: b, record: r, run: b.Delegates(r), stages: r.StageNumbers(), before: progress, now: progress,
		deletions: make([]ledger.Deletion, len(r.Attachments)),
	}
	for i := range r.Attachments {
		d.deletions[i] = r.Attachments[i].Deletion
	}
	return d
}

// all runs DEL for the attachments in reverse order and continues after a failure (behaviour D65). It returns an error
// for each failure that tolerate does not ignore. If ctx ends, the remaining attachments are left to the next DEL,
// which continues from there. Otherwise the next DEL repeats all of them, as in today's Multus.
func (d *detaching) all(ctx context.Context) error {
	begun, err := d.begun()
	if err != nil {
		return err
	}
	defer d.run.Close()
	var due []int
	for i := range slices.Backward(d.record.Attachments) {
		if !d.deletions[i].Deleted && d.stages[i] < begun {
			due = append(due, i)
		}
	}
	for n, i := range due {
		if ctx.Err() != nil {
			d.now.Cut = true
			d.fail(i+1, fmt.Errorf("%d networks were not reached: %w", i+1, context.Cause(ctx)))
			break
		}
		var next *ledger.Attachment
		if n+1 < len(due) {
			next = &d.record.Attachments[due[n+1]]
		}
		d.run.Then(request.Del, d.record, next)
		d.one(ctx, i)
	}
	if d.failed == 0 {
		return nil
	}
	if more := d.failed - len(d.errs); more > 0 {
		d.errs = append(d.errs, fmt.Errorf("and %d more", more))
	}
	return fault.DelFailed.Wrap(errors.Join(d.errs...), d.failed, len(d.record.Attachments))
}

// begun returns the number of stages to delete. DEL normally includes networks that ADD did not reach, because that is
// cheap and libcni's results may be lost. It excludes them if the plan has more networks than one pod may have: earlier
// versions had no limit.
func (d *detaching) begun() (int, error) {
	if len(d.record.Attachments) <= config.DefaultMaxNetworks || d.before.Undone {
		return len(d.record.Attachments), nil
	}
	d.now.Cut = true
	err := d.recordBegun(len(d.record.Attachments))
	return d.now.Begun, err
}

// recordBegun records how far ADD got, unless an earlier DEL has recorded it. This is derived from libcni's results of
// the first n attachments. It must be recorded before DEL removes these results.
func (d *detaching) recordBegun(n int) error {
	if d.now.Begun != 0 {
		return nil
	}
	d.now.Begun = d.run.Begun(d.record, d.stages, n)
	return d.Ledger.RecordProgress(d.record.ContainerID, d.now)
}

// one detaches one network.
func (d *detaching) one(ctx context.Context, i int) {
	failpoint.At("detach.before")
	a := &d.record.Attachments[i]
	start := time.Now()
	one, cancel := delContext(ctx, i)
	err := d.del(one, a)
	cancel()
	took := time.Since(start)
	d.Timed(a, start, took, err)
	if d.Request.Command != request.Del {
		d.Timings[len(d.Timings)-1].Command = request.Del // of the undo of an ADD, for example
	}
	if err != nil {
		err = d.tolerate(i, err)
	}
	if err != nil {
		d.fail(1, fmt.Errorf("network %q (interface %s): %w", a.Name, a.IfName, err))
		return
	}
	if a.DeviceInfo != "" {
		_ = os.Remove(a.DeviceInfo) // behaviour D66: failures do not matter
	}
	d.deletions[i].Deleted = true
	if a.Claim != nil {
		d.Claims = append(d.Claims, *a.Claim)
	}
	failpoint.At("detach.after")
	d.Verbose(ctx, "Del", a, a.Config, took)
}

// del runs DEL of one attachment. The host-device plugin returns an error if the device is no longer in the pod, and so
// does every later DEL after one that was killed late. In that case no trace of the attachment is left, although libcni
// still has its result (multus-cni#669).
func (d *detaching) del(ctx context.Context, a *ledger.Attachment) error {
	err := d.run.Del(ctx, d.record, a)
	if err == nil || a.HostDevice == nil || hostdevice.InSandbox(d.record.Netns, a) {
		return err
	}
	if noTrace, ok := errors.AsType[*execute.NoTraceError](err); ok {
		return noTrace
	}
	return &execute.NoTraceError{Err: err}
}

func (d *detaching) fail(n int, err error) {
	d.failed += n
	if len(d.errs) < maxErrors {
		d.errs = append(d.errs, err)
	}
}

// tolerate returns nil if the failed DEL of an attachment leaves nothing behind, or if it can never succeed. Otherwise
// it returns the error. On the first failure of a sandbox it records how far ADD got.
func (d *detaching) tolerate(i int, err error) error {
	if nerr := d.recordBegun(i + 1); nerr != nil {
		return errors.Join(err, nerr)
	}
	a := &d.record.Attachments[i]
	noTrace, ok := errors.AsType[*execute.NoTraceError](err)
	if !ok {
		return d.abandon(i, err)
	}
	d.deletions[i].Tries++
	if d.stages[i] < d.now.Begun && !d.isHarmless(i, noTrace) {
		return err
	}
	d.Log.Warn("DEL of an attachment that does not exist", "network", a.Name, "ifname", a.IfName, "err", err)
	return d.run.RemoveResult(d.record, a)
}

// isHarmless reports whether a failed DEL without a trace of the attachment can be ignored. There are two cases. Either
// ADD failed and was undone, and the plugin neither was killed nor gives a reason that may pass. Or ADD was killed,
// maybe inside this plugin, and DEL has failed more than Refusals times with a final reason of the plugin.
func (d *detaching) isHarmless(i int, noTrace *execute.NoTraceError) bool {
	return d.before.Undone && !noTrace.Killed() && !noTrace.Transient() ||
		d.deletions[i].Tries > Refusals && noTrace.IsFinal()
}

// abandon gives up an attachment whose plugins refuse its DEL permanently. Otherwise the runtime would repeat DEL, and
// the kubelet would keep the pod, forever (CNI SPEC 1.1, DEL: plugins should complete without error even if resources
// are missing). An attachment is given up only if all of this holds: it is not the cluster network, its network
// namespace or at least its interface is gone, and its plugins have repeatedly given a final reason. What the plugins
// hold may be left, so the ledger keeps a note of the attachment.
func (d *detaching) abandon(i int, err error) error {
	a := &d.record.Attachments[i]
	if a.Primary || !execute.IsFinal(err) {
		return err
	}
	limit := Refusals
	lookErr := execute.CheckNamespace(d.record.Netns)
	switch gone := d.record.Netns == "" || errors.Is(lookErr, link.ErrNoNamespace); {
	case gone:
	case lookErr != nil:
		return err
	default:
		if there, lookErr := d.Netns.HasInterface(d.record.Netns, a.IfName); there || lookErr != nil {
			return err
		}
		limit = RefusalsInPlace
	}
	if d.deletions[i].Tries++; d.deletions[i].Tries <= limit {
		return err
	}
	if nerr := d.Ledger.Abandon(d.record, a, err); nerr != nil {
		return errors.Join(err, nerr)
	}
	d.GivenUp = append(d.GivenUp, a.Name)
	d.Log.Error("network given up: its plugins refuse DEL permanently, and its resources may still be reserved",
		"network", a.Name, "ifname", a.IfName, "ipam", a.Config.IPAMTypes(), "err", err)
	return d.run.RemoveResult(d.record, a)
}

// delContext returns a context that ends before ctx, so that n more networks can be deleted: one delegate that hangs
// must not keep the others from being called, at this DEL and at every later one. The context lasts at least
// DelegateFloor.
func delContext(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	left := time.Until(end)
	limit := max(DelegateFloor, left-time.Duration(n)*min(Reserve, left/time.Duration(n+1)))
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit.Round(time.Second)))
}
