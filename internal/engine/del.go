package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

// Del detaches a pod, from the ledger alone (behaviour.md D.4; architecture.md, decision 4). Success means
// that nothing can remain; an error means that something does, and that the runtime should come again.
func (e *Engine) Del(ctx context.Context, req *request.Request) error {
	c, err := e.begin(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, DelLimit, fmt.Errorf("DEL took longer than %s", DelLimit))
	defer cancel()
	err = c.lockedForDel(ctx, func() error { return c.del(ctx) })
	c.deps.Publisher.Publish(ctx, &publish.Report{Command: request.Del, Pod: c.pod(), ContainerID: c.req.ContainerID, Timings: c.timings})
	return c.inPod(err)
}

func (c *call) del(ctx context.Context) error {
	r, err := c.store.Read(c.req.ContainerID, c.req.IfName)
	if errors.Is(err, ledger.ErrNoDirectory) {
		c.log.Warn("nothing was ever attached", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	failpoint.At("del.read")
	if r != nil {
		return c.freeRecord(ctx, r)
	}
	p, err := c.unrecorded(ctx)
	if err == nil && p.Dirs.State != "" && p.Dirs.State != c.store.Dir {
		// The daemon's configuration keeps the state elsewhere (behaviour.md A90).
		c.store.Dir = p.Dirs.State
		if r, err := c.store.Read(c.req.ContainerID, c.req.IfName); err != nil || r != nil {
			return errors.Join(err, c.freeRecord(ctx, r))
		}
	}
	failpoint.At("del.unrecorded")
	if err != nil || len(p.Attachments) == 0 {
		return errors.Join(err, c.store.Remove(c.req.ContainerID))
	}
	err = c.free(ctx, p, ledger.Progress{})
	if err != nil && !execute.HasInterface(c.req.Netns, c.req.IfName) {
		// It was never known that anything was attached: what could be done has been done.
		c.log.Warn("DEL of a container without a record", "err", err)
		return c.store.Remove(c.req.ContainerID)
	}
	return err
}

func (c *call) freeRecord(ctx context.Context, r *ledger.Record) error {
	if r == nil {
		return nil
	}
	p, progress := c.planFor(r), r.Progress
	if progress.Begun == 0 && c.beforeBoot(r) {
		progress.Begun = len(p.Stages()) // libcni does not sync the results that would tell: after a power cut they are gone
	}
	return c.free(ctx, p, progress)
}

// unrecorded plans the DEL of a sandbox that neither the ledger nor libcni remembers (behaviour.md D60).
// When nobody can be asked, the sandbox itself tells: without its interface nothing was attached.
func (c *call) unrecorded(ctx context.Context) (*plan.Plan, error) {
	p, err := c.deps.Planner.Plan(ctx, c.req, c.conf)
	if err == nil {
		return p, nil
	}
	if code := fault.ToCNI(err).Code; code == fault.TryAgain && execute.HasInterface(c.req.Netns, c.req.IfName) {
		return &plan.Plan{}, err
	}
	c.log.Warn("failed to get the cached delegates file: no record, cannot properly delete", "err", err)
	return &plan.Plan{}, nil
}

// free deletes the attachments of a plan and forgets the sandbox. While anything remains the record stays
// as it is, so that the next DEL does all of it again (behaviour.md D69, D70 [quirk]: it is forgotten today).
func (c *call) free(ctx context.Context, p *plan.Plan, progress ledger.Progress) error {
	if err := errors.Join(c.detach(ctx, p, &progress, false), c.takeBack(ctx, p)); err != nil {
		return errors.Join(err, c.store.Note(p.ContainerID, progress))
	}
	failpoint.At("detached")
	c.store.Dir = p.Dirs.State
	err := c.store.Remove(p.ContainerID)
	failpoint.At("ledger.removed")
	return err
}

// detach runs DEL for the attachments of a plan in reverse order, for all of them whatever fails
// (behaviour.md D65). A failure that the progress does not excuse is an error, and counted there. undoing tells that the
// ADD itself asks.
func (c *call) detach(ctx context.Context, p *plan.Plan, progress *ledger.Progress, undoing bool) error {
	run := c.runner(p.Dirs)
	before := *progress
	before.Undone = before.Undone || undoing
	var errs []error
	for i := len(p.Attachments) - 1; i >= 0; i-- {
		failpoint.At("detach.before")
		a := &p.Attachments[i]
		start := time.Now()
		one, cancel := spare(ctx, i)
		err := c.delOne(one, run, p, a)
		cancel()
		took := time.Since(start)
		c.timed(a, took, err)
		if err != nil {
			err = c.failedDel(run, p, i, err, before, progress)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("network %q (interface %s): %w", a.Name, a.IfName, err))
			continue
		}
		if a.DeviceInfo != "" {
			_ = os.Remove(a.DeviceInfo) // behaviour.md D66: failures do not matter
		}
		failpoint.At("detach.after")
		c.verbose(ctx, "Del", a, a.Config, took)
	}
	if len(errs) == 0 {
		return nil
	}
	return fault.Wrap(errors.Join(errs...), fault.Internal, "nothing: the runtime tries again; look at the plugins' messages if it goes on",
		"%d of %d networks could not be deleted", len(errs), len(p.Attachments))
}

// failedDel returns nil for the failed DEL of an attachment that leaves nothing all the same, else the error. With the
// first failure of a sandbox it is recorded how far ADD had come: what tells that are the results of the attachments before
// this one, and those are deleted next.
func (c *call) failedDel(run *execute.Runner, p *plan.Plan, i int, err error, before ledger.Progress, progress *ledger.Progress) error {
	if progress.Begun == 0 {
		progress.Begun = run.Begun(p, i+1)
		if nerr := c.store.Note(p.ContainerID, *progress); nerr != nil {
			return errors.Join(err, nerr)
		}
	}
	unseen, ok := errors.AsType[*execute.UnseenError](err)
	if !ok {
		return err
	}
	progress.DelTries = before.DelTries + 1
	if p.StageOf(i) < progress.Begun && !excused(before, unseen) {
		return err
	}
	a := &p.Attachments[i]
	c.log.Warn("DEL of an attachment that is not there", "network", a.Name, "ifname", a.IfName, "err", err)
	return run.Forget(p, a)
}

// excused tells that a failed DEL of which nothing is seen leaves nothing although ADD may have come to it: ADD had come
// to an end and had undone what it did; or ADD was killed, maybe inside this plugin, and the plugin has told its reason
// more than unseenTries times.
func excused(before ledger.Progress, unseen *execute.UnseenError) bool {
	return before.Undone && !unseen.CutOff() || before.DelTries >= unseenTries && unseen.Answered()
}

// spare ends before ctx does, so that n more networks can be deleted: one delegate that hangs must not keep the
// others' from being called, at this DEL and at every later one.
func spare(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	left := time.Until(end)
	limit := left - time.Duration(n)*min(DelReserve, left/time.Duration(n+1))
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit.Round(time.Second)))
}

// deviceFile is the device plugin's file name for a device (behaviour.md H30).
func deviceFile(resource, id string) string {
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "-") }
	return flat(resource) + "-" + flat(id) + "-device.json"
}
