package engine

import (
	"context"
	"fmt"

	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

// Check runs CHECK. By default it runs no CHECK for the networks of a pod whose cluster network is set by
// clusterNetwork, as today's Multus does (behaviour D46): CRI-O calls CHECK right after every ADD and for every sandbox
// when it restarts, a failure stops the pod, and many plugins cannot answer CHECK behind a meta-plugin. The
// configuration key checkNetworks enables more. Inline delegates are checked in order.
func (e *Engine) Check(ctx context.Context, req *request.Request) error {
	c, err := e.begin(req)
	if err != nil {
		return err
	}
	if err := c.conf.HasNetwork(); err != nil {
		return err
	}
	if err := c.conf.ValidCheck(); err != nil {
		return err
	}
	if c.conf.CheckNetworks == config.CheckNone && c.conf.ClusterNetwork != "" {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, CheckLimit, fmt.Errorf("CHECK took longer than %s", CheckLimit))
	defer cancel()
	return c.withPod(c.locked(ctx, LockLimit, func() error { return c.check(ctx) }))
}

func (c *call) check(ctx context.Context) error {
	p, err := c.checked(ctx)
	if err != nil {
		return err
	}
	failpoint.At("check.read")
	count := len(p.Attachments)
	switch c.conf.CheckNetworks {
	case config.CheckCluster:
		count = 1
	case config.CheckNone:
		count = min(count, len(c.conf.Delegates))
	}
	run := c.runner(p.Dirs)
	for i := range p.Attachments[:count] {
		a := &p.Attachments[i]
		failpoint.At("check.before")
		if err := run.Check(ctx, p, a); err != nil {
			return fault.Wrap(err, fault.Internal, "remove the sandbox: the runtime makes a new one",
				"network %q (interface %s) failed its CHECK", a.Name, a.IfName)
		}
	}
	return nil
}

// checked returns the plan of what was attached. A sandbox without a record is an error, except with inline delegates:
// today's Multus also runs CHECK for these without a record.
func (c *call) checked(ctx context.Context) (*plan.Plan, error) {
	r, err := c.store.Read(c.req.ContainerID, c.req.IfName)
	if err != nil {
		return nil, err
	}
	if r != nil {
		return c.planFor(r), nil
	}
	p, err := c.deps.Planner.Plan(ctx, c.req, c.conf)
	if err != nil {
		return nil, err // the record may be in a directory that only the daemon's configuration names
	}
	if c.useState(p) {
		r, err = c.store.Read(c.req.ContainerID, c.req.IfName)
	}
	switch {
	case err != nil:
		return nil, err
	case r != nil:
		return c.planFor(r), nil
	case c.conf.CheckNetworks == config.CheckNone:
		return p, c.chooseVersions(ctx, p)
	}
	return nil, fault.New(fault.Internal, "remove the sandbox: the runtime makes a new one",
		"container %s is not attached to any network", c.req.ContainerID)
}

// Answer is the outcome of CHECK for one network of a sandbox.
type Answer struct {
	Network, IfName string
	// Called reports whether the plugins were called. They are not if the configuration is older than CHECK, disables
	// CHECK, or inherits a version that they do not support.
	Called bool
	// Err is the plugins' error, or nil if everything is as ADD left it.
	Err error
}

// CheckEach runs CHECK for every network of a sandbox, whatever checkNetworks says, and returns all outcomes in the
// order of ADD. It is for command-line tools; a runtime calls Check.
func (e *Engine) CheckEach(ctx context.Context, req *request.Request) ([]Answer, error) {
	c, err := e.begin(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, CheckLimit, fmt.Errorf("CHECK took longer than %s", CheckLimit))
	defer cancel()
	var out []Answer
	err = c.locked(ctx, LockLimit, func() error {
		r, err := c.store.Survey(req.ContainerID, ledger.DefaultIfName)
		if err == nil {
			err = c.damageError(r)
		}
		if err != nil {
			return err
		}
		if len(r.Attachments) == 0 {
			return fault.New(fault.Internal, "look for its records: multusctl ledger ls",
				"container %s is not attached to any network", req.ContainerID)
		}
		p := c.planFor(r)
		run := c.runner(p.Dirs)
		for i := range p.Attachments {
			a := &p.Attachments[i]
			called, err := run.CheckCalled(ctx, p, a)
			out = append(out, Answer{Network: a.Name, IfName: a.IfName, Called: called, Err: err})
		}
		return nil
	})
	return out, err
}
