package engine

import (
	"context"
	"fmt"
	"os"
	"time"

	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/fault"
)

// Status returns nil if an ADD could work now, that is, if the plugins of the cluster network report success
// (behaviour D90-D94). It returns within StatusLimit. A STATUS that takes longer is reported as not available (code
// 50).
func (e *Engine) Status(ctx context.Context, req *request.Request) error {
	s, err := e.begin(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, StatusLimit, fmt.Errorf("STATUS took longer than %s", StatusLimit))
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- e.status(ctx, s) }()
	select {
	case err = <-answered:
	case <-ctx.Done(): // a file system or a delegate that cannot be killed must not delay the answer
		select {
		case err = <-answered:
		case <-time.After(statusGrace):
			err = fault.StatusUnanswered.Wrap(context.Cause(ctx), s.Conf.Name)
		}
	}
	if err == nil {
		return nil
	}
	ce := fault.ToCNI(err)
	if ce.Code == fault.TryAgain || ctx.Err() != nil {
		ce.Code = fault.NotAvailable
	}
	return ce
}

// statusGrace is how long STATUS waits for a delegate that it has killed.
const statusGrace = 100 * time.Millisecond

// status runs STATUS of the cluster network. A delegate's own error keeps its code and text (behaviour D94).
func (e *Engine) status(ctx context.Context, s *session.Session) error {
	if err := s.Conf.HasNetwork(); err != nil {
		return err
	}
	if file := s.Conf.ReadinessIndicatorFile; file != "" {
		if _, err := os.Stat(file); err != nil {
			return fault.StatusNotReady.Wrap(err)
		}
	}
	if answer, known := e.deps.Status.Get(ctx, s.Request.Config); known {
		return answer
	}
	p, err := e.deps.Planner.Plan(ctx, s.Request, s.Conf)
	if err != nil {
		return err
	}
	r := ledger.NewRecord(p)
	run := s.Delegates(s.LedgerIn(p.Dirs.State).Dir, r.BinDir)
	if err := chooseVersions(ctx, run, r); err != nil { // STATUS exists since CNI 1.1: most plugins do not support it
		return err
	}
	err = run.Status(ctx, &r.Attachments[0])
	if ctx.Err() == nil {
		e.deps.Status.Put(ctx, s.Request.Config, err)
	}
	return err
}
