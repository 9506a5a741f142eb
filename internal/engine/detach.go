package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"multus/internal/config"
	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/link"
)

const (
	// refusals is how many DELs may fail because a plugin refuses, with a reason of its own, to delete an attachment of
	// which no trace is left.
	refusals = 2
	// refusalsInPlace replaces refusals if the network namespace still exists and only the interface is gone.
	refusalsInPlace = 9
	// maxErrors is how many failures of one DEL are listed in the error.
	maxErrors = 8
)

// detaching is the DEL of the attachments of a plan.
type detaching struct {
	*call
	plan *plan.Plan
	run  *execute.Runner
	// stages holds the plan's stage numbers.
	stages []int
	// before is the progress that earlier DELs recorded. now is the progress of this DEL.
	before ledger.Progress
	now    *ledger.Progress
	errs   []error
	failed int
}

// detach runs DEL for the attachments of a plan in reverse order and continues after a failure (behaviour D65). It
// returns an error for each failure that tolerate does not ignore. undoing reports whether the caller is the undo of a
// failed ADD. If ctx ends, the remaining attachments are left to the next DEL, which continues from there. Otherwise
// the next DEL repeats all of them, as in today's Multus.
func (c *call) detach(ctx context.Context, p *plan.Plan, progress *ledger.Progress, undoing bool) error {
	d := &detaching{call: c, plan: p, run: c.runner(p.Dirs), stages: p.StageNumbers(), before: *progress, now: progress}
	d.before.Undone = d.before.Undone || undoing
	begun, err := d.begun()
	if err != nil {
		return err
	}
	for i, v := range slices.Backward(p.Attachments) {
		if v.Deleted || d.stages[i] >= begun {
			continue
		}
		if ctx.Err() != nil {
			progress.Cut = true
			d.fail(i+1, fmt.Errorf("%d networks were not reached: %w", i+1, context.Cause(ctx)))
			break
		}
		d.one(ctx, i)
	}
	if d.failed == 0 {
		return nil
	}
	if more := d.failed - len(d.errs); more > 0 {
		d.errs = append(d.errs, fmt.Errorf("and %d more", more))
	}
	return fault.Wrap(errors.Join(d.errs...), fault.Internal,
		"nothing: the runtime tries again; look at the plugins' messages if it goes on",
		"%d of %d networks could not be deleted", d.failed, len(p.Attachments))
}

// begun returns the number of stages to delete. DEL normally includes networks that ADD did not reach, because that is
// cheap and libcni's results may be lost. It excludes them if the plan has more networks than one pod may have: earlier
// versions had no limit.
func (d *detaching) begun() (int, error) {
	if len(d.plan.Attachments) <= config.DefaultMaxNetworks || d.before.Undone {
		return len(d.plan.Attachments), nil
	}
	d.now.Cut = true
	err := d.recordBegun(len(d.plan.Attachments))
	return d.now.Begun, err
}

// recordBegun records how far ADD got, unless an earlier DEL has recorded it. This is derived from libcni's results of
// the first n attachments. It must be recorded before DEL removes these results.
func (d *detaching) recordBegun(n int) error {
	if d.now.Begun != 0 {
		return nil
	}
	d.now.Begun = d.run.Begun(d.plan, d.stages, n)
	return d.store.RecordProgress(d.plan.ContainerID, *d.now)
}

// one detaches one network.
func (d *detaching) one(ctx context.Context, i int) {
	failpoint.At("detach.before")
	a := &d.plan.Attachments[i]
	start := time.Now()
	one, cancel := delContext(ctx, i)
	err := d.delOne(one, d.run, d.plan, a)
	cancel()
	took := time.Since(start)
	d.timed(a, took, err)
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
	a.Deleted = true
	failpoint.At("detach.after")
	d.verbose(ctx, "Del", a, a.Config, took)
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
	a := &d.plan.Attachments[i]
	noTrace, ok := errors.AsType[*execute.NoTraceError](err)
	if !ok {
		return d.abandon(a, err)
	}
	a.DelTries++
	if d.stages[i] < d.now.Begun && !d.isHarmless(a, noTrace) {
		return err
	}
	d.log.Warn("DEL of an attachment that does not exist", "network", a.Name, "ifname", a.IfName, "err", err)
	return d.run.RemoveResult(d.plan, a)
}

// isHarmless reports whether a failed DEL without a trace of the attachment can be ignored. There are two cases. Either
// ADD failed and was undone, and the plugin neither was killed nor gives a reason that may pass. Or ADD was killed,
// maybe inside this plugin, and DEL has failed more than refusals times with a final reason of the plugin.
func (d *detaching) isHarmless(a *plan.Attachment, noTrace *execute.NoTraceError) bool {
	return d.before.Undone && !noTrace.Killed() && !noTrace.Transient() || a.DelTries > refusals && noTrace.IsFinal()
}

// abandon gives up an attachment whose plugins refuse its DEL permanently. Otherwise the runtime would repeat DEL, and
// the kubelet would keep the pod, forever (CNI SPEC 1.1, DEL: plugins should complete without error even if resources
// are missing). An attachment is given up only if all of this holds: it is not the cluster network, its network
// namespace or at least its interface is gone, and its plugins have repeatedly given a final reason. What the plugins
// hold may be left, so the ledger keeps a note of the attachment.
func (d *detaching) abandon(a *plan.Attachment, err error) error {
	if a.Primary || !execute.IsFinal(err) {
		return err
	}
	limit := refusals
	lookErr := execute.CheckNamespace(d.plan.Netns)
	switch gone := d.plan.Netns == "" || errors.Is(lookErr, link.ErrNoNamespace); {
	case gone:
	case lookErr != nil:
		return err
	default:
		if there, lookErr := d.deps.Netns.HasInterface(d.plan.Netns, a.IfName); there || lookErr != nil {
			return err
		}
		limit = refusalsInPlace
	}
	if a.DelTries++; a.DelTries <= limit {
		return err
	}
	if nerr := d.store.Abandon(d.plan, a, err); nerr != nil {
		return errors.Join(err, nerr)
	}
	d.abandoned = append(d.abandoned, a.Name)
	d.log.Error("network given up: its plugins refuse DEL permanently, and its resources may still be reserved",
		"network", a.Name, "ifname", a.IfName, "ipam", a.Config.IPAMTypes(), "err", err)
	return d.run.RemoveResult(d.plan, a)
}

// delContext returns a context that ends before ctx, so that n more networks can be deleted: one delegate that hangs
// must not keep the others from being called, at this DEL and at every later one. The context lasts at least
// delegateFloor.
func delContext(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	left := time.Until(end)
	limit := max(delegateFloor, left-time.Duration(n)*min(DelReserve, left/time.Duration(n+1)))
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit.Round(time.Second)))
}
