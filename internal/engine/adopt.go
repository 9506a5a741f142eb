package engine

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// Adopt records a sandbox that the container runtime attached without calling Multus (behaviour R15), so that Apply can
// attach what is missing and DEL frees everything. It runs no delegate. req has the container and the runtime's name of
// its first interface. resultsDir is where the runtime's libcni caches its results. It returns the record, which may
// have been there before.
func (e *Engine) Adopt(ctx context.Context, req *request.Request, stateDir, resultsDir string) (r *ledger.Record,
	err error,
) {
	s, err := e.begin(req)
	if err != nil {
		return nil, err
	}
	b, err := s.Lock(ctx, s.LedgerIn(stateDir), LockLimit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Release()) }()
	if r, err = b.Read(); err != nil || r != nil {
		return r, err
	}
	found, err := b.Ledger.Bypassed(resultsDir, req.ContainerID, req.IfName)
	if err != nil {
		return nil, err
	}
	there, err := b.Netns.HasInterface(found.Record.Netns, req.IfName)
	if err == nil && !there {
		err = fmt.Errorf("container %s: no interface %s in %s", req.ContainerID, req.IfName, found.Record.Netns)
	}
	if err != nil {
		return nil, err
	}
	if err := b.Ledger.Adopt(found); err != nil {
		return nil, fault.StateNotWritten.Wrap(err, req.Pod())
	}
	return b.Read()
}
