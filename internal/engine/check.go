package engine

import (
	"context"
	"fmt"

	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

// Check asks the delegates of everything that ADD attached, in order, with the cached results
// (behaviour.md D45-D49; D46 [quirk]: today only inline delegates are asked, and a container that was never
// added passes).
func (e *Engine) Check(ctx context.Context, req *request.Request) error {
	c, err := e.begin(req)
	if err != nil {
		return err
	}
	return c.inPod(c.locked(ctx, LockLimit, func() error { return c.check(ctx) }))
}

func (c *call) check(ctx context.Context) error {
	if err := c.conf.HasNetwork(); err != nil {
		return err
	}
	r, err := c.store.Read(c.req.ContainerID, c.req.IfName)
	if err == nil && r == nil {
		r, err = c.recordElsewhere(ctx)
	}
	if err != nil {
		return err
	}
	if r == nil {
		return fault.New(fault.Internal, "remove the sandbox: the runtime makes a new one", "container %s is not attached to any network", c.req.ContainerID)
	}
	failpoint.At("check.read")
	p := c.planFor(r)
	run := c.runner(p.Dirs)
	for i := range p.Attachments {
		a := &p.Attachments[i]
		failpoint.At("check.before")
		if err := run.Check(ctx, p, a); err != nil {
			return fault.Wrap(err, fault.Internal, "remove the sandbox: the runtime makes a new one",
				"network %q (interface %s) failed its CHECK", a.Name, a.IfName)
		}
	}
	return nil
}

// recordElsewhere looks where the daemon's configuration keeps the state, if that is another directory
// (behaviour.md A90).
func (c *call) recordElsewhere(ctx context.Context) (*ledger.Record, error) {
	p, err := c.deps.Planner.Plan(ctx, c.req, c.conf)
	if err != nil || p.Dirs.State == c.store.Dir {
		return nil, nil //nolint:nilerr,nilnil // nobody knows of another place: there is no record
	}
	c.store.Dir = p.Dirs.State
	return c.store.Read(c.req.ContainerID, c.req.IfName)
}

// Status tells whether an ADD could work now: whether the cluster network says so (behaviour.md D90-D94).
// It answers within StatusLimit; what takes longer counts as not available (code 50).
func (e *Engine) Status(ctx context.Context, req *request.Request) error {
	c, err := e.begin(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, StatusLimit, fmt.Errorf("STATUS took longer than %s", StatusLimit))
	defer cancel()
	err = c.status(ctx)
	if err == nil {
		return nil
	}
	ce := fault.ToCNI(err)
	if ce.Code == fault.TryAgain || ctx.Err() != nil {
		ce.Code = fault.NotAvailable
	}
	return ce
}
