package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fsx"
	"multus/internal/link"
)

// DefaultGrace is how old a record must be before Collect takes its sandbox for gone.
const DefaultGrace = 5 * time.Minute

// collectLimit bounds what the first ADD after a boot spends on the sandboxes of before.
const collectLimit = 10 * time.Second

// Gone is a sandbox that the ledger remembers and that is not there any more.
type Gone struct {
	ContainerID string
	// Pod is namespace/name as the runtime named it at ADD, "" if that was not recorded.
	Pod string
	// Netns is the path of the namespace that is gone.
	Netns string
	// Networks of the sandbox, in the order of ADD.
	Networks []string
	// Why it counts as gone.
	Why string
	// Freed tells that everything was deleted; Err says what was not.
	Freed bool
	Err   error
	// GivenUp are the networks whose plugins refuse DEL for good: what they hold may be left.
	GivenUp []string
}

// Collect frees the sandboxes whose namespace is gone, as the DEL does that they never got, without a list of the
// runtime: those recorded before the last boot, and those recorded longer than grace ago. Others, and those that
// are being worked on, are not touched. With dry it only says what it would do. It must run where the runtime's
// network namespaces can be seen: a sandbox whose path is in a folder that is not there is not judged, unless the
// node was started since. req has the configuration of the plugin and CNI_PATH.
func (e *Engine) Collect(ctx context.Context, req *request.Request, grace time.Duration, dry bool) ([]Gone, error) {
	c, err := e.begin(req)
	if err != nil {
		return nil, err
	}
	c.resolveState(ctx)
	return c.collectGone(ctx, func(r *ledger.Record) string { return c.gone(r, grace) }, dry)
}

// resolveState sets the state directory to that of the daemon's configuration, if it is known (behaviour.md A90).
func (c *call) resolveState(ctx context.Context) {
	req := *c.req
	req.Command = request.GC
	if p, err := c.deps.Planner.Plan(ctx, &req, c.conf); err == nil {
		c.useState(p)
	}
}

// gone says why the sandbox of a record is gone; "" if it is not, or if that cannot be told. A path that is there
// without being a namespace says nothing: the runtime may mount its namespaces where they cannot be seen from here.
func (c *call) gone(r *ledger.Record, grace time.Duration) string {
	if r.Netns == "" {
		return ""
	}
	err := execute.Look(r.Netns)
	if !errors.Is(err, link.ErrNoNamespace) {
		return ""
	}
	if c.beforeBoot(r) {
		return "its network namespace is gone, and the node was started since"
	}
	if _, dirErr := os.Stat(filepath.Dir(r.Netns)); dirErr != nil || errors.Is(err, link.ErrNotNamespace) ||
		r.Age < grace {
		return ""
	}
	return "its network namespace is gone"
}

// beforeBoot tells that a sandbox was attached before the node was started.
func (c *call) beforeBoot(r *ledger.Record) bool {
	return r.Boot != "" && c.deps.Boot != "" && r.Boot != c.deps.Boot
}

// afterBoot frees, once after each boot, the sandboxes of before whose namespace is gone: what they hold must not be
// missing for the pods that start now. It never fails the ADD that it precedes. The ADDs beside it do not wait.
func (c *call) afterBoot(ctx context.Context) {
	if c.deps.Boot == "" {
		return
	}
	mark := filepath.Join(filepath.Dir(c.deps.LockFile), "collected")
	if was, err := os.ReadFile(mark); err == nil && string(was) == c.deps.Boot {
		return
	}
	lock, err := fsx.TryAcquire(c.deps.LockFile, "collect")
	if errors.Is(err, fsx.ErrLocked) {
		return // another ADD is at it
	}
	ctx, cancel := context.WithTimeoutCause(ctx, collectLimit, fmt.Errorf("it took longer than %s", collectLimit))
	defer cancel()
	if err == nil {
		// Marked first: what cannot be freed now is left to the runtime, not tried again by every ADD.
		err = os.WriteFile(mark, []byte(c.deps.Boot), 0o600)
		_, collectErr := c.collectGone(ctx, func(r *ledger.Record) string {
			if !c.beforeBoot(r) {
				return ""
			}
			return c.gone(r, 0)
		}, false)
		err = errors.Join(err, collectErr, lock.Release())
	}
	if err != nil {
		c.log.Warn("sandboxes of before the boot are not all freed", "err", err)
	}
}

// collectGone frees the recorded sandboxes for which why gives a reason, until ctx ends.
func (c *call) collectGone(ctx context.Context, why func(*ledger.Record) string, dry bool) ([]Gone, error) {
	containers, err := c.store.Containers()
	if err != nil {
		return nil, err
	}
	var out []Gone
	for _, id := range containers {
		if ctx.Err() != nil {
			return out, fmt.Errorf("free sandboxes that are gone: %w", context.Cause(ctx))
		}
		var reason string
		c.abandoned = nil
		r, kept, err := c.look(ctx, id, dry, func(r *ledger.Record) bool {
			reason = why(r)
			return reason != ""
		})
		if reason == "" && err == nil {
			continue
		}
		g := Gone{ContainerID: id, Netns: r.Netns, Why: reason, Freed: err == nil && !kept, Err: err, GivenUp: c.abandoned}
		for i := range r.Attachments {
			g.Networks = append(g.Networks, r.Attachments[i].Name)
		}
		if pod := podOf(r); pod.Name != "" {
			g.Pod = pod.Namespace + "/" + pod.Name
		}
		out = append(out, g)
	}
	return out, nil
}

// podOf returns the pod of a record, as the runtime named it at ADD.
func podOf(r *ledger.Record) publish.Pod {
	for i := range r.Attachments {
		if a := r.Attachments[i].Args; a.Get(request.PodName) != "" {
			return publish.Pod{Namespace: a.Get(request.PodNamespace), Name: a.Get(request.PodName), UID: a.Get(request.PodUID)}
		}
	}
	return publish.Pod{}
}

// look is collect without the runtime's list, or with dry a look without any effect.
func (c *call) look(ctx context.Context, id string, dry bool,
	stale func(*ledger.Record) bool,
) (r *ledger.Record, kept bool, err error) {
	if !dry {
		return c.collect(ctx, id, false, stale)
	}
	r, err = c.store.Survey(id, ledger.UsualName)
	if err != nil {
		return &ledger.Record{ContainerID: id}, true, err
	}
	busy, err := fsx.Held(c.deps.LockFile, id)
	if (busy || err != nil || !stale(r)) && !r.Foreign {
		err = errors.Join(err, c.doubt(r))
	}
	return r, true, err
}

// collect frees one sandbox if stale says so of its record, unless it is being worked on, and returns what was
// attached, and whether it stays. A damaged record of a sandbox that stays is an error: what cannot be read of it may
// be attached. So is every damaged file in the place of the record of a sandbox that the runtime lists; otherwise a
// file that cannot be a record is left alone.
func (c *call) collect(
	ctx context.Context, id string, listed bool, stale func(*ledger.Record) bool,
) (r *ledger.Record, kept bool, err error) {
	none := &ledger.Record{ContainerID: id}
	l, err := fsx.TryAcquire(c.deps.LockFile, id)
	busy := errors.Is(err, fsx.ErrLocked) // somebody is at it: what it has recorded counts
	switch {
	case busy:
	case err != nil:
		return none, true, err
	default:
		defer func() { err = errors.Join(err, l.Release()) }()
	}
	r, err = c.store.Survey(id, ledger.UsualName)
	switch {
	case err != nil:
		return none, true, err
	case r.Foreign && !listed && !busy:
		c.log.Warn("a file in the state directory is not a record: left alone", "file", filepath.Join(c.store.Dir, id))
		return r, true, nil
	case len(r.Attachments) == 0 && !c.store.Knows(id):
		return r, true, nil // deleted meanwhile
	case busy || !stale(r):
		return r, true, c.doubt(r)
	}
	failpoint.At("gc.stale")
	return r, false, c.freeStale(ctx, r, l.File())
}

// doubt returns an error if a part of the record of a sandbox that may live cannot be read.
func (c *call) doubt(r *ledger.Record) error {
	if !r.Damaged {
		return nil
	}
	return fmt.Errorf("the record of container %s in %s is damaged: what is missing of it may be attached; delete its pod",
		r.ContainerID, c.store.Dir)
}

// freeStale frees a sandbox that is gone, as far as its record can be read, and keeps a damaged record aside.
func (c *call) freeStale(ctx context.Context, r *ledger.Record, lock *os.File) error {
	one := *c
	one.timings, one.abandoned = nil, nil
	one.req = &request.Request{
		Command: request.Del, ContainerID: r.ContainerID, IfName: ledger.UsualName,
		Path: c.req.Path, Netns: r.Netns,
	}
	one.lock = lock
	if errors.Is(execute.Look(r.Netns), link.ErrNoNamespace) {
		one.req.Netns = ""
	}
	c.log.Warn("freeing a sandbox that is gone", "stale", r.ContainerID, "damaged", r.Damaged)
	if r.Damaged {
		if err := c.store.SetAside(r.ContainerID); err != nil {
			return err
		}
	}
	limit := max(sandboxLimit, time.Duration(len(r.Attachments))*delegateFloor)
	freeing, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	err := one.freeRecord(freeing, r)
	one.publishGivenUp(ctx, podOf(r))
	c.abandoned = append(c.abandoned, one.abandoned...)
	return err
}
