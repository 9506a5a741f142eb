package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
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

func (c *call) gc(ctx context.Context, valid map[string]bool) error {
	nets := &networks{byName: map[string]*network{}}
	// The cluster network is asked also when it was never attached.
	p, planErr := c.deps.Planner.Plan(ctx, c.req, c.conf)
	if planErr == nil {
		if p.Dirs.State != "" {
			c.store.Dir = p.Dirs.State // the daemon's configuration may keep it elsewhere (behaviour.md A90)
		}
		nets.know(p.Attachments[0].Name, p.Attachments[0].Config, p.Dirs.Binary)
	}
	collectErr := c.collectUnlisted(ctx, valid, nets)
	failpoint.At("gc.collected")
	noted, notedErr := c.store.Networks()
	for _, n := range noted {
		nets.know(n.Name, n.Config, n.BinDir)
	}
	return errors.Join(planErr, collectErr, notedErr, c.tellNetworks(ctx, nets))
}

// collectUnlisted frees the recorded sandboxes that are not valid, and notes the networks of all.
func (c *call) collectUnlisted(ctx context.Context, valid map[string]bool, nets *networks) error {
	containers, err := c.store.Containers()
	if err != nil {
		return err
	}
	failpoint.At("gc.listed")
	var errs []error
	seen := map[string]bool{}
	for _, id := range containers {
		seen[id] = true
		r, kept, err := c.collect(ctx, id, func(*ledger.Record) bool { return !valid[id] })
		errs = append(errs, err)
		nets.note(r, kept, c.conf.BinDir)
	}
	errs = append(errs, c.sweepDevices(ctx))
	return errors.Join(append(errs, c.newcomers(seen, nets))...)
}

// newcomers notes the attachments of the sandboxes that have come since GC looked: they are valid, listed or not.
func (c *call) newcomers(seen map[string]bool, nets *networks) error {
	containers, err := c.store.Containers()
	errs := []error{err}
	for _, id := range containers {
		if seen[id] {
			continue
		}
		r, err := c.store.Read(id, ledger.UsualName)
		errs = append(errs, err)
		if r != nil {
			nets.note(r, true, c.conf.BinDir)
		}
	}
	return errors.Join(errs...)
}

// tellNetworks runs GC of every network's delegates. What was noted of a network of which nothing is left is
// forgotten once its plugins have cleaned up.
func (c *call) tellNetworks(ctx context.Context, nets *networks) error {
	var errs []error
	for _, name := range nets.order {
		n := nets.byName[name]
		failpoint.At("gc.before")
		err := c.runner(plan.Dirs{State: c.store.Dir, Binary: n.binDir}).GC(ctx, n.config, n.valid)
		if err != nil {
			errs = append(errs, fmt.Errorf("network %q: %w", n.name, err))
			continue
		}
		if len(n.valid) == 0 {
			errs = append(errs, c.store.Forget(name))
		}
	}
	return errors.Join(errs...)
}

// networks are the networks that GC asks, by the name of their configuration, in the order in which they came up.
type networks struct {
	order  []string
	byName map[string]*network
}

// network is one configuration, with the attachments that stay.
type network struct {
	name   string
	config *cniconf.List
	binDir string
	valid  []types.GCAttachment
}

// know adds a network unless it is known: the configuration that came first is asked.
func (n *networks) know(name string, config *cniconf.List, binDir string) *network {
	known, ok := n.byName[config.Name()]
	if !ok {
		known = &network{name: name, config: config, binDir: binDir}
		n.byName[config.Name()] = known
		n.order = append(n.order, config.Name())
	}
	return known
}

// note adds the networks of a sandbox, and its attachments as valid ones if they stay.
func (n *networks) note(r *ledger.Record, stays bool, binDir string) {
	if r.BinDir != "" {
		binDir = r.BinDir
	}
	for i := range r.Attachments {
		a := &r.Attachments[i]
		known := n.know(a.Name, a.Config, binDir)
		if stays {
			known.valid = append(known.valid, types.GCAttachment{ContainerID: r.ContainerID, IfName: a.IfName})
		}
	}
}
