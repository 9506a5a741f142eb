package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"multus/internal/engine/ledger"
	"multus/internal/engine/session"
	"multus/internal/fsx"
)

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

// Gone frees the sandboxes whose network namespace is gone: those that were recorded before the last boot or longer
// than grace ago. It leaves alone all others, and those that another operation is working on. With dry it only reports
// what it would free. It must run where the runtime's network namespaces are visible. A sandbox is skipped if the
// directory of its namespace path does not exist, unless the node was started since.
func (p *Reaper) Gone(ctx context.Context, grace time.Duration, dry bool) ([]StaleSandbox, error) {
	return p.collect(ctx, func(r *ledger.Record) string { return p.gone(r, grace) }, dry)
}

// AfterBoot frees the sandboxes from before the boot whose network namespace is gone. It does so once per boot: the
// resources that they hold must be available to the pods that start now. It never fails the ADD that calls it, and
// concurrent ADDs do not wait for it.
func (p *Reaper) AfterBoot(ctx context.Context) {
	if p.Boot == "" {
		return
	}
	mark := filepath.Join(filepath.Dir(p.LockFile), "collected")
	if was, err := os.ReadFile(mark); err == nil && string(was) == p.Boot {
		return
	}
	lock, err := fsx.TryAcquire(p.LockFile, "collect")
	if errors.Is(err, fsx.ErrLocked) {
		return // another ADD is doing it
	}
	ctx, cancel := context.WithTimeoutCause(ctx, collectLimit, fmt.Errorf("it took longer than %s", collectLimit))
	defer cancel()
	if err == nil {
		// Marked first: what cannot be freed now is left to the runtime instead of being retried by every ADD.
		err = os.WriteFile(mark, []byte(p.Boot), 0o600)
		_, collectErr := p.collect(ctx, func(r *ledger.Record) string {
			if !p.BeforeBoot(r) {
				return ""
			}
			return p.gone(r, 0)
		}, false)
		err = errors.Join(err, collectErr, lock.Release())
	}
	if err != nil {
		p.Log.Warn("some sandboxes from before the boot were not freed", "err", err)
	}
}

// collect frees the recorded sandboxes for which why returns a reason, until ctx ends.
func (p *Reaper) collect(ctx context.Context, why func(*ledger.Record) string, dry bool) ([]StaleSandbox, error) {
	containers, err := p.Ledger.Containers()
	if err != nil {
		return nil, err
	}
	var out []StaleSandbox
	for _, id := range containers {
		if ctx.Err() != nil {
			return out, fmt.Errorf("free sandboxes that are gone: %w", context.Cause(ctx))
		}
		var reason string
		f, err := p.inspect(ctx, id, dry, func(r *ledger.Record) bool {
			reason = why(r)
			return reason != ""
		})
		if reason == "" && err == nil {
			continue
		}
		g := StaleSandbox{
			ContainerID: id, Netns: f.record.Netns, Why: reason, Freed: err == nil && !f.stays, Err: err,
			GivenUp: f.givenUp,
		}
		for i := range f.record.Attachments {
			g.Networks = append(g.Networks, f.record.Attachments[i].Name)
		}
		if pod := session.PodOf(f.record); pod.Name != "" {
			g.Pod = pod.Namespace + "/" + pod.Name
		}
		out = append(out, g)
	}
	return out, nil
}
