package reap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"multus/internal/config"
	"multus/internal/engine/hostdevice"
	"multus/internal/engine/ledger"
	"multus/internal/failpoint"
)

// Unlisted frees the recorded sandboxes that are not on the runtime's list, the oldest record first, and calls visit
// for each sandbox, with its record and whether it stays. A sandbox that was attached after start is alive: the runtime
// made its list before. A sandbox that cannot be freed does not block the others. Its record is written again, which
// makes it the last one the next time. The last sandboxes are freed reserve before ctx ends.
//
// After an error, sandboxes that stay may be missing from the calls of visit.
func (p *Reaper) Unlisted(ctx context.Context, listed []config.Attachment, start time.Time, reserve time.Duration,
	visit func(r *ledger.Record, stays bool),
) error {
	valid := map[string]bool{}
	for _, v := range listed {
		valid[v.ContainerID] = true
	}
	containers, err := p.oldestFirst(valid)
	if err != nil {
		return err
	}
	failpoint.At("gc.listed")
	end, _ := ctx.Deadline()
	phase, cancel := context.WithDeadlineCause(ctx, end.Add(-reserve),
		errors.New("the time limit for stale sandboxes is reached"))
	defer cancel()
	var errs []error
	seen := map[string]bool{}
	for _, id := range containers {
		seen[id] = true
		f, err := p.free(phase, id, valid[id], func(r *ledger.Record) bool {
			return !valid[id] && phase.Err() == nil && !p.Ledger.ChangedSince(r, start)
		})
		if err == nil && f.stays && !valid[id] && !f.record.Foreign && phase.Err() != nil {
			err = fmt.Errorf("free container %s: %w", id, context.Cause(phase))
		}
		errs = append(errs, err)
		visit(f.record, f.stays)
	}
	errs = append(errs, hostdevice.RestoreAll(ctx, p.Session, p.Ledger))
	return errors.Join(append(errs, p.newcomers(seen, valid, visit))...)
}

// oldestFirst lists the sandboxes of the ledger, and those of the runtime's list of which a trace is left.
func (p *Reaper) oldestFirst(valid map[string]bool) ([]string, error) {
	containers, err := p.Ledger.Containers()
	if err != nil {
		return nil, err
	}
	for id := range valid {
		if !slices.Contains(containers, id) && p.Ledger.HasTrace(id) {
			containers = append(containers, id) // its record is set aside, or a directory is in its place
		}
	}
	ages := map[string]time.Duration{}
	for _, id := range containers {
		ages[id] = p.Ledger.Age(id)
	}
	slices.SortStableFunc(containers, func(a, b string) int { return cmp.Compare(ages[b], ages[a]) })
	return containers, nil
}

// newcomers calls visit for the sandboxes that were recorded after Unlisted had listed the records. They are alive,
// listed or not.
func (p *Reaper) newcomers(seen, listed map[string]bool, visit func(r *ledger.Record, stays bool)) error {
	containers, err := p.Ledger.Containers()
	errs := []error{err}
	for _, id := range containers {
		if seen[id] {
			continue
		}
		r, err := p.Ledger.Survey(id, ledger.DefaultIfName)
		if err == nil && (!r.Foreign || listed[id]) {
			err = DamageError(p.Ledger, r)
		}
		errs = append(errs, err)
		if r != nil {
			visit(r, true)
		}
	}
	return errors.Join(errs...)
}
