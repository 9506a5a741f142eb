package engine

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/config"
	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/reap"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

// Check runs CHECK. By default it runs no CHECK for the networks of a pod whose cluster network is set by
// clusterNetwork, as today's Multus does (behaviour D46): CRI-O calls CHECK right after every ADD and for every sandbox
// when it restarts, a failure stops the pod, and many plugins cannot answer CHECK behind a meta-plugin. The
// configuration key checkNetworks enables more. Inline delegates are checked in order.
func (e *Engine) Check(ctx context.Context, req *request.Request) error {
	s, err := e.begin(req)
	if err != nil {
		return err
	}
	if err := s.Conf.HasNetwork(); err != nil {
		return err
	}
	if err := s.Conf.ValidCheck(); err != nil {
		return err
	}
	if s.Conf.CheckNetworks == config.CheckNone && s.Conf.ClusterNetwork != "" {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, CheckLimit, fmt.Errorf("CHECK took longer than %s", CheckLimit))
	defer cancel()
	b, err := s.Lock(ctx, s.LedgerIn(""), LockLimit)
	if err == nil {
		err = errors.Join(e.check(ctx, b), b.Release())
	}
	return withPod(req, err)
}

func (e *Engine) check(ctx context.Context, b *session.Sandbox) error {
	r, run, err := e.checked(ctx, b)
	if err != nil {
		return err
	}
	failpoint.At("check.read")
	count := len(r.Attachments)
	switch b.Conf.CheckNetworks {
	case config.CheckCluster:
		count = 1
	case config.CheckNone:
		count = min(count, len(b.Conf.Delegates))
	}
	for i := range r.Attachments[:count] {
		a := &r.Attachments[i]
		if a.Pending {
			continue // a killed runner has left it, and the next one attaches it
		}
		failpoint.At("check.before")
		if err := run.Check(ctx, r, a); err != nil {
			return fault.CheckFailed.Wrap(err, a.Name, a.IfName)
		}
	}
	return nil
}

// checked returns what was attached, and the runner for it. A sandbox without a record is an error, except with inline
// delegates: today's Multus also runs CHECK for these without a record.
func (e *Engine) checked(ctx context.Context, b *session.Sandbox) (*ledger.Record, *execute.Runner, error) {
	r, err := b.Read()
	var p *plan.Plan
	if err == nil && r == nil { // the record may be in a directory that only the daemon's configuration names
		if p, err = e.deps.Planner.Plan(ctx, b.Request, b.Conf); err == nil && p.Dirs.State != "" {
			b = b.In(p.Dirs.State)
			r, err = b.Read()
		}
	}
	switch {
	case err != nil:
		return nil, nil, err
	case r != nil:
		r = b.Current(r)
		return r, b.Delegates(r), nil
	case b.Conf.CheckNetworks == config.CheckNone:
		r = ledger.NewRecord(p)
		run := b.Delegates(r)
		return r, run, chooseVersions(ctx, run, r)
	}
	return nil, nil, fault.NotAttached.New(b.Request.ContainerID)
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
	s, err := e.begin(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, CheckLimit, fmt.Errorf("CHECK took longer than %s", CheckLimit))
	defer cancel()
	b, err := s.Lock(ctx, s.LedgerIn(""), LockLimit)
	if err != nil {
		return nil, err
	}
	out, err := checkEach(ctx, b)
	return out, errors.Join(err, b.Release())
}

func checkEach(ctx context.Context, b *session.Sandbox) ([]Answer, error) {
	r, err := b.Ledger.Survey(b.Request.ContainerID, ledger.DefaultIfName)
	if err == nil {
		err = reap.DamageError(b.Ledger, r)
	}
	if err != nil {
		return nil, err
	}
	if len(r.Attachments) == 0 {
		return nil, fault.NotRecorded.New(b.Request.ContainerID)
	}
	r = b.Current(r)
	run := b.Delegates(r)
	out := make([]Answer, len(r.Attachments))
	for i := range r.Attachments {
		a := &r.Attachments[i]
		called, err := run.CheckCalled(ctx, r, a)
		out[i] = Answer{Network: a.Name, IfName: a.IfName, Called: called, Err: err}
	}
	return out, nil
}
