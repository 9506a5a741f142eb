package engine

import (
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
	"multus/internal/engine/reap"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

const (
	// GCLimit bounds a GC. CRI-O allows 30 s.
	GCLimit = 25 * time.Second
	// gcReserve is the part of GCLimit that is reserved for the second phase.
	gcReserve = 8 * time.Second
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
	s, err := e.begin(req)
	if err != nil {
		return err
	}
	if err := s.Conf.HasNetwork(); err != nil {
		return err
	}
	listed, given := s.Conf.Valid()
	if !given {
		return fault.GCWithoutList.New()
	}
	for _, a := range listed {
		if a.ContainerID == "" || a.IfName == "" { // ignoring it could free a live pod
			return fault.GCListInvalid.New()
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, GCLimit, fmt.Errorf("GC took longer than %s", GCLimit))
	defer cancel()
	release, err := e.lockPlaces(ctx)
	if err == nil {
		err = errors.Join(e.gc(ctx, s, listed, start), release())
	}
	return withPod(req, err)
}

func (e *Engine) gc(ctx context.Context, s *session.Session, listed []config.Attachment, start time.Time) error {
	nets := &networks{byName: map[string]*network{}}
	records := s.LedgerIn("")
	// GC of the cluster network runs even if that network was never attached.
	p, err := e.deps.Planner.Plan(ctx, s.Request, s.Conf)
	if err == nil {
		records = s.LedgerIn(p.Dirs.State)
		r := ledger.NewRecord(p)
		err = chooseVersionsWithin(ctx, networkLimit, s.Delegates(records.Dir, r.BinDir), r)
		nets.add(r.Attachments[0].Name, r.Attachments[0].Config, r.BinDir)
	}
	reaper := &reap.Reaper{Session: s, Ledger: records}
	err = errors.Join(err, reaper.Unlisted(ctx, listed, start, gcReserve, func(r *ledger.Record, stays bool) {
		nets.addSandbox(r, stays, s.Conf.BinDir)
	}))
	failpoint.At("gc.collected")
	noted, notedErr := records.Networks()
	if err = errors.Join(err, notedErr); err != nil {
		return err
	}
	for _, n := range noted {
		nets.add(n.Name, n.Config, n.BinDir).noted = n.Time
	}
	return (&gcRun{Session: s, records: records, listed: listed}).networks(ctx, nets)
}

// chooseVersionsWithin is chooseVersions with a time limit. A plugin that hangs must not use up the time of a verb that
// also handles other networks.
func chooseVersionsWithin(ctx context.Context, limit time.Duration, run *execute.Runner, r *ledger.Record) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	return chooseVersions(ctx, run, r)
}

// gcRun is the second phase of a GC.
type gcRun struct {
	*session.Session
	records *ledger.Store
	listed  []config.Attachment
}

// networks runs GC of the delegates of every network, for a few networks at the same time: a delegate that hangs
// must not use up the time of the others. The cluster network is the first. The order of the others starts at a
// different network in each GC, so that with many hanging delegates it is not always the same networks that are not
// reached.
func (g *gcRun) networks(ctx context.Context, nets *networks) error {
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
			errs[i] = g.network(ctx, name, nets.byName[name])
			<-limit
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// network runs GC of the delegates of one network. It removes the note of a network without attachments once its
// plugins have cleaned up, once one of its plugins is no longer installed, or after noteLimit.
func (g *gcRun) network(ctx context.Context, name string, n *network) error {
	failpoint.At("gc.before")
	err := g.delegates(ctx, n)
	old := !n.noted.IsZero() && time.Since(n.noted) > noteLimit && ctx.Err() == nil // keep it if it was not reached
	over := err == nil || execute.IsMissing(err) || old
	var failed error
	if err != nil && !execute.IsRefusal(err) && !over {
		failed = fmt.Errorf("network %q: %w", n.name, err)
	} else if err != nil {
		g.Log.Warn("plugin does not clean up its network", "network", n.name, "err", err)
	}
	if len(n.valid) == 0 && over {
		return errors.Join(failed, g.records.RemoveNetwork(name, n.noted))
	}
	return failed
}

func (g *gcRun) delegates(ctx context.Context, n *network) error {
	ctx, cancel := context.WithTimeoutCause(ctx, networkLimit, fmt.Errorf("it took longer than %s", networkLimit))
	defer cancel()
	keep := make([]types.GCAttachment, 0, len(n.valid)+len(g.listed))
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
	for _, a := range g.listed {
		add(types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	return g.Delegates(g.records.Dir, n.binDir).GC(ctx, n.config, keep)
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
