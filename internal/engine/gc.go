package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
)

// GC frees what belongs to no sandbox of the runtime's list, for every network ever attached on this node,
// and tells the delegates that know the verb what is valid (CNI SPEC 1.1 §GC; behaviour.md D100-D105, all
// [quirk]). A sandbox that is being worked on is passed over.
func (e *Engine) GC(ctx context.Context, req *request.Request) error {
	c, err := e.begin(req)
	if err != nil {
		return err
	}
	if err := c.conf.HasNetwork(); err != nil {
		return err
	}
	listed, given := c.conf.Valid()
	if !given {
		return fault.New(fault.BadConfig, "report this to the container runtime's authors", "GC without cni.dev/valid-attachments")
	}
	valid := map[string]bool{}
	for _, v := range listed {
		valid[v.ContainerID] = true
	}
	return c.inPod(c.gc(ctx, valid))
}

// network is one configuration that GC asks, with the attachments that stay.
type network struct {
	attachment plan.Attachment
	valid      []types.GCAttachment
}

func (c *call) gc(ctx context.Context, valid map[string]bool) error {
	containers, err := c.store.Containers()
	if err != nil {
		return err
	}
	failpoint.At("gc.listed")
	var errs []error
	var networks []*network
	note := func(a *plan.Attachment, keep bool, containerID string) {
		i := slices.IndexFunc(networks, func(n *network) bool { return n.attachment.Config.Name() == a.Config.Name() })
		if i < 0 {
			i = len(networks)
			networks = append(networks, &network{attachment: *a})
		}
		if keep {
			networks[i].valid = append(networks[i].valid, types.GCAttachment{ContainerID: containerID, IfName: a.IfName})
		}
	}
	// The cluster network is asked also when nothing is attached.
	if p, err := c.deps.Planner.Plan(ctx, c.req, c.conf); err == nil {
		note(&p.Attachments[0], false, "")
	} else {
		errs = append(errs, err)
	}
	seen := map[string]bool{}
	for _, id := range containers {
		seen[id] = true
		r, kept, err := c.collect(ctx, id, valid[id])
		errs = append(errs, err)
		for i := range r.Attachments {
			note(&r.Attachments[i], kept, id)
		}
	}
	errs = append(errs, c.newcomers(seen, func(a *plan.Attachment, id string) { note(a, true, id) }))
	failpoint.At("gc.collected")
	run := c.runner(plan.Dirs{State: c.conf.CNIDir, Binary: c.conf.BinDir})
	for _, n := range networks {
		failpoint.At("gc.before")
		if err := run.GC(ctx, &n.attachment, n.valid); err != nil {
			errs = append(errs, fmt.Errorf("network %q: %w", n.attachment.Name, err))
		}
	}
	return errors.Join(errs...)
}

// newcomers notes the attachments of the sandboxes that have come since GC looked: they are valid, listed or not.
func (c *call) newcomers(seen map[string]bool, note func(a *plan.Attachment, id string)) error {
	containers, err := c.store.Containers()
	errs := []error{err}
	for _, id := range containers {
		if seen[id] {
			continue
		}
		r, err := c.store.Read(id, ledger.UsualName)
		errs = append(errs, err)
		for i := 0; r != nil && i < len(r.Attachments); i++ {
			note(&r.Attachments[i], id)
		}
	}
	return errors.Join(errs...)
}

// collect frees one sandbox unless it is valid or being worked on, and returns what was attached.
func (c *call) collect(ctx context.Context, id string, valid bool) (r *ledger.Record, kept bool, err error) {
	none := &ledger.Record{ContainerID: id}
	l, err := fsx.TryAcquire(c.deps.LockFile, id)
	switch {
	case errors.Is(err, fsx.ErrLocked):
		valid = true // somebody is at it: what it has recorded counts
	case err != nil:
		return none, true, err
	default:
		defer func() { err = errors.Join(err, l.Release()) }()
	}
	r, err = c.store.Read(id, ledger.UsualName)
	if err != nil || r == nil {
		return none, valid, err
	}
	if valid {
		return r, true, nil
	}
	failpoint.At("gc.stale")
	one := *c
	one.req = &request.Request{Command: request.Del, ContainerID: id, IfName: ledger.UsualName, Path: c.req.Path, Netns: r.Netns}
	one.lock = l.File()
	if !execute.Exists(r.Netns) {
		one.req.Netns = ""
	}
	c.log.Warn("freeing a sandbox that the runtime does not know", "stale", id)
	return r, false, one.free(ctx, one.planFor(r))
}
