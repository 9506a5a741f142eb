package engine

import (
	"context"
	"time"

	"multus/internal/engine/reap"
	"multus/internal/engine/request"
)

// StaleSandbox is a sandbox that has a record and no longer exists.
type StaleSandbox = reap.StaleSandbox

// DefaultGrace is the minimum age of a record before Collect treats its sandbox as gone.
const DefaultGrace = 5 * time.Minute

// Collect frees the sandboxes whose network namespace is gone, as the missed DEL would have done. It needs no list from
// the runtime. req holds the plugin's configuration and CNI_PATH; see reap.Reaper.Gone for the rest.
func (e *Engine) Collect(ctx context.Context, req *request.Request, grace time.Duration,
	dry bool,
) ([]StaleSandbox, error) {
	s, err := e.begin(req)
	if err != nil {
		return nil, err
	}
	records := s.LedgerIn("")
	// The state directory may be one that only the daemon's configuration names (behaviour A90).
	cluster := *req
	cluster.Command = request.GC
	if p, err := e.deps.Planner.Plan(ctx, &cluster, s.Conf); err == nil {
		records = s.LedgerIn(p.Dirs.State)
	}
	return (&reap.Reaper{Session: s, Ledger: records}).Gone(ctx, grace, dry)
}
