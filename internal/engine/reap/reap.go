// Package reap frees what sandboxes left behind that are gone: sandboxes without a network namespace, sandboxes that
// the runtime no longer lists, and the processes of killed plugins. Whether a sandbox is gone is decided here; how it
// is freed is decided in detach. It is imported by the engine.
package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"multus/internal/engine/detach"
	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fsx"
	"multus/internal/link"
)

// sandboxLimit bounds the DEL of one sandbox. A delegate that hangs must not use up the time of all others.
const sandboxLimit = 5 * time.Second

// Reaper frees the sandboxes of one ledger.
type Reaper struct {
	*session.Session
	Ledger *ledger.Store
}

// found is what was found of one sandbox.
type found struct {
	// record is never nil. It has no attachments if nothing is known about the sandbox.
	record *ledger.Record
	// stays reports whether the sandbox was not freed.
	stays bool
	// givenUp lists the networks whose plugins refuse DEL permanently.
	givenUp []string
}

// inspect is free for a sandbox that is on no list of the runtime. With dry it has no effect.
func (p *Reaper) inspect(ctx context.Context, id string, dry bool, stale func(*ledger.Record) bool) (found, error) {
	if !dry {
		return p.free(ctx, id, false, stale)
	}
	r, err := p.Ledger.Survey(id, ledger.DefaultIfName)
	if err != nil {
		return found{record: &ledger.Record{ContainerID: id}, stays: true}, err
	}
	busy, err := fsx.Held(p.LockFile, id)
	if (busy || err != nil || !stale(r)) && !r.Foreign {
		err = errors.Join(err, DamageError(p.Ledger, r))
	}
	return found{record: r, stays: true}, err
}

// free frees one sandbox if stale returns true for its record, unless another operation is working on it. If the record
// of a sandbox that stays is damaged, it returns an error: what cannot be read may be attached. The same holds for
// every damaged file in the place of a record if the runtime lists the sandbox. Otherwise a file that cannot be a
// record is left alone.
func (p *Reaper) free(
	ctx context.Context, id string, listed bool, stale func(*ledger.Record) bool,
) (f found, err error) {
	f = found{record: &ledger.Record{ContainerID: id}, stays: true}
	l, err := fsx.TryAcquire(p.LockFile, id)
	busy := errors.Is(err, fsx.ErrLocked) // another operation is in progress: what it has recorded counts
	switch {
	case busy:
	case err != nil:
		return f, err
	default:
		defer func() { err = errors.Join(err, l.Release()) }()
	}
	r, err := p.Ledger.Survey(id, ledger.DefaultIfName)
	if err != nil {
		return f, err
	}
	f.record = r
	switch {
	case r.Foreign && !listed && !busy:
		p.Log.Warn("a file in the state directory is not a record: ignoring it", "file", filepath.Join(p.Ledger.Dir, id))
		return f, nil
	case len(r.Attachments) == 0 && !p.Ledger.HasTrace(id):
		return f, nil // deleted in the meantime
	case busy || !stale(r):
		return f, DamageError(p.Ledger, r)
	}
	failpoint.At("gc.stale")
	f.stays = false
	f.givenUp, err = p.freeStale(ctx, r, l)
	return f, err
}

// DamageError returns an error if a part of the record of a sandbox that may be alive cannot be read.
func DamageError(s *ledger.Store, r *ledger.Record) error {
	if !r.Damaged {
		return nil
	}
	return fmt.Errorf("the record of container %s in %s is damaged: networks that are missing from it may still be "+
		"attached; delete its pod", r.ContainerID, s.Dir)
}

// freeStale frees a sandbox that is gone, as far as its record can be read, and sets a damaged record aside. It returns
// the networks that were given up.
func (p *Reaper) freeStale(ctx context.Context, r *ledger.Record, lock *fsx.Lock) (givenUp []string, err error) {
	of := *p.Session
	of.Request = &request.Request{
		Command: request.Del, ContainerID: r.ContainerID, IfName: ledger.DefaultIfName,
		Path: p.Request.Path, Netns: r.Netns,
	}
	if errors.Is(execute.CheckNamespace(r.Netns), link.ErrNoNamespace) {
		of.Request.Netns = ""
	}
	b := of.Locked(p.Ledger, lock)
	p.Log.Warn("freeing a sandbox that is gone", "stale", r.ContainerID, "damaged", r.Damaged)
	if r.Damaged {
		if err := p.Ledger.SetAside(r.ContainerID); err != nil {
			return nil, err
		}
	}
	limit := max(sandboxLimit, time.Duration(len(r.Attachments))*detach.DelegateFloor)
	freeing, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	err = detach.Recorded(freeing, b, r)
	detach.ReportGivenUp(ctx, &of, session.PodOf(r), b.Outcome)
	return b.GivenUp, err
}

// gone returns why the sandbox of a record is gone, or "" if it is not gone or if that cannot be determined. A path
// that exists and is not a namespace proves nothing: the runtime may mount its namespaces where this process cannot see
// them. grace is the minimum age of a record of this boot.
func (p *Reaper) gone(r *ledger.Record, grace time.Duration) string {
	if r.Netns == "" {
		return ""
	}
	err := execute.CheckNamespace(r.Netns)
	if !errors.Is(err, link.ErrNoNamespace) {
		return ""
	}
	if p.BeforeBoot(r) {
		return "its network namespace is gone, and the node was restarted since"
	}
	if _, dirErr := os.Stat(filepath.Dir(r.Netns)); dirErr != nil || errors.Is(err, link.ErrNotNamespace) ||
		r.Age < grace {
		return ""
	}
	return "its network namespace is gone"
}
