package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

// Del detaches a pod and uses only the ledger (behaviour D.4). It returns nil if nothing can remain attached. An
// error means that something may remain and that the runtime has to repeat the DEL.
func (e *Engine) Del(ctx context.Context, req *request.Request) error {
	c, err := e.begin(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, DelLimit, fmt.Errorf("DEL took longer than %s", DelLimit))
	defer cancel()
	err = c.lockedForDel(ctx, func() error { return c.del(ctx) })
	c.publishDel(ctx, c.pod())
	return c.withPod(err)
}

// publishDel publishes how long the delegates of a DEL took and which networks were given up.
func (c *call) publishDel(ctx context.Context, pod publish.Pod) {
	rep := &publish.Report{
		Command: request.Del, Pod: pod, ContainerID: c.req.ContainerID, Timings: c.timings,
		Time: time.Now().UnixNano(),
	}
	if len(c.abandoned) > 0 {
		rep.Failure = &publish.Failure{EmitEvent: true, Message: fmt.Sprintf(
			"networks given up at DEL, since their plugins refuse it permanently: %s. Their resources may still be reserved; "+
				"see: multusctl "+
				"ledger verify",
			strings.Join(c.abandoned, ", "))}
	}
	if err := c.deps.Publisher.Publish(ctx, rep); err != nil {
		c.log.Warn("the report of a DEL is not published", "err", err)
	}
}

// publishGivenUp is publishDel for a DEL that another verb runs. It publishes nothing if no network was given up:
// timings alone do not justify the time.
func (c *call) publishGivenUp(ctx context.Context, pod publish.Pod) {
	if len(c.abandoned) == 0 {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, publishLimit, fmt.Errorf("it took longer than %s", publishLimit))
	defer cancel()
	c.publishDel(ctx, pod)
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
	if err == nil && c.useState(p) {
		if r, err := c.store.Read(c.req.ContainerID, c.req.IfName); err != nil || r != nil {
			return errors.Join(err, c.freeRecord(ctx, r))
		}
	}
	failpoint.At("del.unrecorded")
	if err == nil {
		err = c.chooseVersions(ctx, p)
	}
	if err != nil || len(p.Attachments) == 0 {
		return errors.Join(err, c.store.Remove(c.req.ContainerID))
	}
	err = c.free(ctx, p, ledger.Progress{})
	if err == nil {
		return nil
	}
	if attached, lookErr := c.deps.Netns.HasInterface(c.req.Netns, c.req.IfName); !attached && lookErr == nil {
		// There is no evidence that anything was attached, and DEL was run for what can be planned.
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
		progress.Begun = len(p.Stages()) // libcni does not sync its results: a power loss may have removed them
	}
	return c.free(ctx, p, progress)
}

// unrecorded plans the DEL of a sandbox of which neither the ledger nor libcni has a record (behaviour D60). If no
// plan can be made now, the sandbox itself decides: without its interface nothing was attached.
func (c *call) unrecorded(ctx context.Context) (*plan.Plan, error) {
	p, err := c.deps.Planner.Plan(ctx, c.req, c.conf)
	if err == nil {
		return p, nil
	}
	if fault.ToCNI(err).Code == fault.TryAgain {
		if attached, lookErr := c.deps.Netns.HasInterface(c.req.Netns, c.req.IfName); attached || lookErr != nil {
			return &plan.Plan{}, errors.Join(err, lookErr)
		}
	}
	c.log.Warn("failed to get the cached delegates file: no record, cannot properly delete", "err", err)
	return &plan.Plan{}, nil
}

// free deletes the attachments of a plan and removes the sandbox's record. While anything remains attached, the record
// stays and marks what was deleted, so that the next DEL continues with the rest (behaviour D69, D70: Multus
// 4.x removes the record).
func (c *call) free(ctx context.Context, p *plan.Plan, progress ledger.Progress) error {
	if err := errors.Join(c.detach(ctx, p, &progress, false), c.restorePlanNames(ctx, p)); err != nil {
		return errors.Join(err, c.store.RecordDeleted(p, progress))
	}
	failpoint.At("detached")
	err := c.store.Remove(p.ContainerID)
	failpoint.At("ledger.removed")
	return err
}

// deviceFile returns the device plugin's file name for a device (behaviour H30).
func deviceFile(resource, id string) string {
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "-") }
	return flat(resource) + "-" + flat(id) + "-device.json"
}
