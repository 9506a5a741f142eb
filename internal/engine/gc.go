package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

const (
	// GCLimit bounds a GC. CRI-O allows 30 s.
	GCLimit = 25 * time.Second
	// gcReserve is the part of GCLimit that is reserved for the second phase. sandboxLimit bounds the DEL of one sandbox
	// in the first phase. A delegate that hangs must not use up the time of all others.
	gcReserve    = 8 * time.Second
	sandboxLimit = 5 * time.Second
	// networkLimit bounds the GC of one network. networksAtOnce is how many of them run at the same time.
	networkLimit   = 5 * time.Second
	networksAtOnce = 4
	// noteLimit is how long the note of a network without attachments is kept if its plugins refuse GC.
	noteLimit = 24 * time.Hour
)

// GC frees what belongs to no sandbox on the runtime's list, for every network ever attached on this node. Then it runs
// GC of the delegates that implement the verb, with the attachments that they must keep (CNI SPEC 1.1 §GC; behaviour
// D100-D105). A sandbox that another operation is working on is skipped.
//
// The runtime's list alone decides the first phase. In the second phase delegates must keep every live attachment: for
// each network, those on the runtime's list and those in the ledger. After any error of the first phase that set may be
// incomplete, and the second phase is skipped. A record that cannot be read completely is such an error if its sandbox
// may be alive. A damaged record of a sandbox that is not listed is freed as far as it can be read.
func (e *Engine) GC(ctx context.Context, req *request.Request) error {
	start := time.Now()
	c, err := e.begin(req)
	if err != nil {
		return err
	}
	if err := c.conf.HasNetwork(); err != nil {
		return err
	}
	listed, given := c.conf.Valid()
	if !given {
		return fault.New(fault.BadConfig, "report this to the container runtime's authors",
			"GC without cni.dev/valid-attachments")
	}
	for _, a := range listed {
		if a.ContainerID == "" || a.IfName == "" { // ignoring it could free a live pod
			return fault.New(fault.BadConfig, "report this to the container runtime's authors",
				"GC with an entry of cni.dev/valid-attachments that has no containerID or no ifname")
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, GCLimit, fmt.Errorf("GC took longer than %s", GCLimit))
	defer cancel()
	return c.withPod(c.gc(ctx, listed, start))
}

func (c *call) gc(ctx context.Context, listed []config.Attachment, start time.Time) error {
	nets := &networks{byName: map[string]*network{}}
	// GC of the cluster network runs even if that network was never attached.
	p, err := c.deps.Planner.Plan(ctx, c.req, c.conf)
	if err == nil {
		c.useState(p)
		err = c.chooseVersionsWithin(ctx, networkLimit, p)
		nets.add(p.Attachments[0].Name, p.Attachments[0].Config, p.Dirs.Binary)
	}
	err = errors.Join(err, c.collectUnlisted(ctx, listed, start, nets))
	failpoint.At("gc.collected")
	noted, notedErr := c.store.Networks()
	if err = errors.Join(err, notedErr); err != nil {
		return err
	}
	for _, n := range noted {
		nets.add(n.Name, n.Config, n.BinDir).noted = n.Time
	}
	return c.gcNetworks(ctx, nets, listed)
}

// collectUnlisted frees the recorded sandboxes that are not listed, the oldest record first, and adds the networks of
// all sandboxes to nets. A sandbox that was attached after start is alive: the runtime made its list before. A sandbox
// that cannot be freed does not block the others. Its record is written again, which makes it the last one the next
// time.
func (c *call) collectUnlisted(ctx context.Context, listed []config.Attachment, start time.Time, nets *networks) error {
	valid := map[string]bool{}
	for _, v := range listed {
		valid[v.ContainerID] = true
	}
	containers, err := c.store.Containers()
	if err != nil {
		return err
	}
	for id := range valid {
		if !slices.Contains(containers, id) && c.store.HasTrace(id) {
			containers = append(containers, id) // its record is set aside, or a directory is in its place
		}
	}
	failpoint.At("gc.listed")
	ages := map[string]time.Duration{}
	for _, id := range containers {
		ages[id] = c.store.Age(id)
	}
	slices.SortStableFunc(containers, func(a, b string) int { return cmp.Compare(ages[b], ages[a]) })
	end, _ := ctx.Deadline()
	phase, cancel := context.WithDeadlineCause(ctx, end.Add(-gcReserve),
		errors.New("the time limit for stale sandboxes is reached"))
	defer cancel()
	var errs []error
	seen := map[string]bool{}
	for _, id := range containers {
		seen[id] = true
		r, kept, err := c.collect(phase, id, valid[id], func(r *ledger.Record) bool {
			return !valid[id] && phase.Err() == nil && !c.store.ChangedSince(r, start)
		})
		if err == nil && kept && !valid[id] && !r.Foreign && phase.Err() != nil {
			err = fmt.Errorf("free container %s: %w", id, context.Cause(phase))
		}
		errs = append(errs, err)
		nets.addSandbox(r, kept, c.conf.BinDir)
	}
	errs = append(errs, c.sweepDevices(ctx))
	return errors.Join(append(errs, c.newcomers(seen, valid, nets))...)
}

// newcomers adds the attachments of sandboxes that were recorded after GC had listed the records. They are alive,
// listed or not.
func (c *call) newcomers(seen, listed map[string]bool, nets *networks) error {
	containers, err := c.store.Containers()
	errs := []error{err}
	for _, id := range containers {
		if seen[id] {
			continue
		}
		r, err := c.store.Survey(id, ledger.DefaultIfName)
		if err == nil && (!r.Foreign || listed[id]) {
			err = c.damageError(r)
		}
		errs = append(errs, err)
		if r != nil {
			nets.addSandbox(r, true, c.conf.BinDir)
		}
	}
	return errors.Join(errs...)
}

// gcNetworks runs GC of the delegates of every network, for a few networks at the same time: a delegate that hangs
// must not use up the time of the others. The cluster network is the first. The order of the others starts at a
// different network in each GC, so that with many hanging delegates it is not always the same networks that are not
// reached.
func (c *call) gcNetworks(ctx context.Context, nets *networks, listed []config.Attachment) error {
	order := nets.order
	if len(order) > 1 {
		first := 1 + int(time.Now().UnixNano()%int64(len(order)-1))
		order = slices.Concat(order[:1], order[first:], order[1:first])
	}
	errs := make([]error, len(order)) // one entry per network: no lock is needed
	limit := make(chan struct{}, networksAtOnce)
	var all sync.WaitGroup
	for i, name := range order {
		limit <- struct{}{} // each network has a time limit of its own
		all.Go(func() {
			errs[i] = c.gcNetwork(ctx, name, nets.byName[name], listed)
			<-limit
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// gcNetwork runs GC of the delegates of one network. It removes the note of a network without attachments once its
// plugins have cleaned up, once one of its plugins is no longer installed, or after noteLimit.
func (c *call) gcNetwork(ctx context.Context, name string, n *network, listed []config.Attachment) error {
	failpoint.At("gc.before")
	err := c.gcDelegates(ctx, n, listed)
	old := !n.noted.IsZero() && time.Since(n.noted) > noteLimit && ctx.Err() == nil // keep it if it was not reached
	over := err == nil || execute.IsMissing(err) || old
	var failed error
	if err != nil && !execute.IsRefusal(err) && !over {
		failed = fmt.Errorf("network %q: %w", n.name, err)
	} else if err != nil {
		c.log.Warn("plugin does not clean up its network", "network", n.name, "err", err)
	}
	if len(n.valid) == 0 && over {
		return errors.Join(failed, c.store.RemoveNetwork(name, n.noted))
	}
	return failed
}

func (c *call) gcDelegates(ctx context.Context, n *network, listed []config.Attachment) error {
	ctx, cancel := context.WithTimeoutCause(ctx, networkLimit, fmt.Errorf("it took longer than %s", networkLimit))
	defer cancel()
	keep := make([]types.GCAttachment, 0, len(n.valid)+len(listed))
	seen := map[types.GCAttachment]bool{}
	add := func(a types.GCAttachment) {
		if !seen[a] {
			seen[a] = true
			keep = append(keep, a)
		}
	}
	for _, a := range n.valid {
		add(a)
	}
	for _, a := range listed {
		add(types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	return c.runner(plan.Dirs{State: c.store.Dir, Binary: n.binDir}).GC(ctx, n.config, keep)
}

// networks is the set of networks whose delegates get GC, keyed by the name in their configuration, in the order in
// which they were added.
type networks struct {
	order  []string
	byName map[string]*network
}

// network is one configuration and the attachments that must be kept.
type network struct {
	name   string
	config *cniconf.List
	binDir string
	valid  []types.GCAttachment
	// noted is when the network was last noted. It is zero if there is no note.
	noted time.Time
}

// add adds a network unless there is one of that name: the first configuration is used for GC.
func (n *networks) add(name string, config *cniconf.List, binDir string) *network {
	known, ok := n.byName[config.Name()]
	if !ok {
		known = &network{name: name, config: config, binDir: binDir}
		n.byName[config.Name()] = known
		n.order = append(n.order, config.Name())
	}
	return known
}

// addSandbox adds the networks of a sandbox. If the sandbox stays, it also adds its attachments as valid ones.
func (n *networks) addSandbox(r *ledger.Record, stays bool, binDir string) {
	if r.BinDir != "" {
		binDir = r.BinDir
	}
	for i := range r.Attachments {
		a := &r.Attachments[i]
		known := n.add(a.Name, a.Config, binDir)
		if stays {
			known.valid = append(known.valid, types.GCAttachment{ContainerID: r.ContainerID, IfName: a.IfName})
		}
	}
}
