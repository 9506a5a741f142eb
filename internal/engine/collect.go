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

// DefaultGrace is the minimum age of a record before Collect treats its sandbox as gone.
const DefaultGrace = 5 * time.Minute

// collectLimit bounds the time that the first ADD after a boot spends on sandboxes from before the boot.
const collectLimit = 10 * time.Second

// StaleSandbox is a sandbox that has a record and no longer exists.
type StaleSandbox struct {
	ContainerID string
	// Pod is the pod as namespace/name, as the runtime named it at ADD. It is "" if that was not recorded.
	Pod string
	// Netns is the path of the network namespace that is gone.
	Netns string
	// Networks lists the sandbox's networks in the order of ADD.
	Networks []string
	// Why is the reason why the sandbox is considered gone.
	Why string
	// Freed reports whether everything was deleted. Otherwise Err says what was not.
	Freed bool
	Err   error
	// GivenUp lists the networks whose plugins refuse DEL permanently. What they hold may be left.
	GivenUp []string
}

// Collect frees the sandboxes whose network namespace is gone, as the missed DEL would have done. It needs no list from
// the runtime. It frees sandboxes that were recorded before the last boot or longer than grace ago. It leaves alone all
// others, and those that another operation is working on. With dry it only reports what it would free.
//
// It must run where the runtime's network namespaces are visible. A sandbox is skipped if the directory of its
// namespace path does not exist, unless the node was started since. req holds the plugin's configuration and CNI_PATH.
func (e *Engine) Collect(ctx context.Context, req *request.Request, grace time.Duration,
	dry bool,
) ([]StaleSandbox, error) {
	c, err := e.begin(req)
	if err != nil {
		return nil, err
	}
	c.resolveState(ctx)
	return c.collectGone(ctx, func(r *ledger.Record) string { return c.gone(r, grace) }, dry)
}

// resolveState switches to the state directory of the daemon's configuration, if that is known (behaviour A90).
func (c *call) resolveState(ctx context.Context) {
	req := *c.req
	req.Command = request.GC
	if p, err := c.deps.Planner.Plan(ctx, &req, c.conf); err == nil {
		c.useState(p)
	}
}

// gone returns why the sandbox of a record is gone, or "" if it is not gone or if that cannot be determined. A path
// that exists and is not a namespace proves nothing: the runtime may mount its namespaces where this process cannot see
// them.
func (c *call) gone(r *ledger.Record, grace time.Duration) string {
	if r.Netns == "" {
		return ""
	}
	err := execute.CheckNamespace(r.Netns)
	if !errors.Is(err, link.ErrNoNamespace) {
		return ""
	}
	if c.beforeBoot(r) {
		return "its network namespace is gone, and the node was restarted since"
	}
	if _, dirErr := os.Stat(filepath.Dir(r.Netns)); dirErr != nil || errors.Is(err, link.ErrNotNamespace) ||
		r.Age < grace {
		return ""
	}
	return "its network namespace is gone"
}

// beforeBoot reports whether a sandbox was attached before the node was last started.
func (c *call) beforeBoot(r *ledger.Record) bool {
	return r.Boot != "" && c.deps.Boot != "" && r.Boot != c.deps.Boot
}

// afterBoot frees the sandboxes from before the boot whose network namespace is gone. It does so once per boot: the
// resources that they hold must be available to the pods that start now. It never fails the ADD that calls it, and
// concurrent ADDs do not wait for it.
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
		return // another ADD is doing it
	}
	ctx, cancel := context.WithTimeoutCause(ctx, collectLimit, fmt.Errorf("it took longer than %s", collectLimit))
	defer cancel()
	if err == nil {
		// Marked first: what cannot be freed now is left to the runtime instead of being retried by every ADD.
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
		c.log.Warn("some sandboxes from before the boot were not freed", "err", err)
	}
}

// collectGone frees the recorded sandboxes for which why returns a reason, until ctx ends.
func (c *call) collectGone(ctx context.Context, why func(*ledger.Record) string, dry bool) ([]StaleSandbox, error) {
	containers, err := c.store.Containers()
	if err != nil {
		return nil, err
	}
	var out []StaleSandbox
	for _, id := range containers {
		if ctx.Err() != nil {
			return out, fmt.Errorf("free sandboxes that are gone: %w", context.Cause(ctx))
		}
		var reason string
		c.abandoned = nil
		r, kept, err := c.inspect(ctx, id, dry, func(r *ledger.Record) bool {
			reason = why(r)
			return reason != ""
		})
		if reason == "" && err == nil {
			continue
		}
		g := StaleSandbox{
			ContainerID: id, Netns: r.Netns, Why: reason, Freed: err == nil && !kept, Err: err, GivenUp: c.abandoned,
		}
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

// inspect is collect for a sandbox that is on no list of the runtime. With dry it has no effect.
func (c *call) inspect(ctx context.Context, id string, dry bool,
	stale func(*ledger.Record) bool,
) (r *ledger.Record, kept bool, err error) {
	if !dry {
		return c.collect(ctx, id, false, stale)
	}
	r, err = c.store.Survey(id, ledger.DefaultIfName)
	if err != nil {
		return &ledger.Record{ContainerID: id}, true, err
	}
	busy, err := fsx.Held(c.deps.LockFile, id)
	if (busy || err != nil || !stale(r)) && !r.Foreign {
		err = errors.Join(err, c.damageError(r))
	}
	return r, true, err
}

// collect frees one sandbox if stale returns true for its record, unless another operation is working on it. It returns
// the record and whether the sandbox stays. If the record of a sandbox that stays is damaged, it returns an error: what
// cannot be read may be attached. The same holds for every damaged file in the place of a record if the runtime lists
// the sandbox. Otherwise a file that cannot be a record is left alone.
func (c *call) collect(
	ctx context.Context, id string, listed bool, stale func(*ledger.Record) bool,
) (r *ledger.Record, kept bool, err error) {
	none := &ledger.Record{ContainerID: id}
	l, err := fsx.TryAcquire(c.deps.LockFile, id)
	busy := errors.Is(err, fsx.ErrLocked) // another operation is in progress: what it has recorded counts
	switch {
	case busy:
	case err != nil:
		return none, true, err
	default:
		defer func() { err = errors.Join(err, l.Release()) }()
	}
	r, err = c.store.Survey(id, ledger.DefaultIfName)
	switch {
	case err != nil:
		return none, true, err
	case r.Foreign && !listed && !busy:
		c.log.Warn("a file in the state directory is not a record: ignoring it", "file", filepath.Join(c.store.Dir, id))
		return r, true, nil
	case len(r.Attachments) == 0 && !c.store.HasTrace(id):
		return r, true, nil // deleted in the meantime
	case busy || !stale(r):
		return r, true, c.damageError(r)
	}
	failpoint.At("gc.stale")
	return r, false, c.freeStale(ctx, r, l.File())
}

// damageError returns an error if a part of the record of a sandbox that may be alive cannot be read.
func (c *call) damageError(r *ledger.Record) error {
	if !r.Damaged {
		return nil
	}
	return fmt.Errorf("the record of container %s in %s is damaged: networks that are missing from it may still be "+
		"attached; delete its pod",
		r.ContainerID, c.store.Dir)
}

// freeStale frees a sandbox that is gone, as far as its record can be read, and sets a damaged record aside.
func (c *call) freeStale(ctx context.Context, r *ledger.Record, lock *os.File) error {
	one := *c
	one.timings, one.abandoned = nil, nil
	one.req = &request.Request{
		Command: request.Del, ContainerID: r.ContainerID, IfName: ledger.DefaultIfName,
		Path: c.req.Path, Netns: r.Netns,
	}
	one.lock = lock
	if errors.Is(execute.CheckNamespace(r.Netns), link.ErrNoNamespace) {
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
