package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/fault"
	wirev1 "multus/wire/v1"
)

// delegate executes the requests of other clients of the daemon for single networks, some at the same time. It returns
// whether the daemon has all results.
func (r *runner) delegate(ctx context.Context, work *wirev1.Work, store *ledger.Store) bool {
	var lost atomic.Bool
	parallel(ctx, len(work.Delegate), func(i int) { // what is not begun is handed out again
		job := &work.Delegate[i]
		done := wirev1.DelegateResult{ID: job.ID}
		var err error
		if done.Result, err = r.delegated(ctx, job, work.StateDir, store); err != nil {
			done.Error = fault.ToCNI(err)
		}
		if !r.send(ctx, &wirev1.WorkDone{Delegated: []wirev1.DelegateResult{done}}) {
			lost.Store(true)
		}
	})
	return !lost.Load()
}

// delegated executes one request, and returns the result of an ADD.
func (r *runner) delegated(ctx context.Context, job *wirev1.DelegateJob, stateDir string, store *ledger.Store) (
	json.RawMessage, error,
) {
	records := *store // a store is for one goroutine
	record, err := records.Read(job.ContainerID, ledger.DefaultIfName)
	switch {
	case err != nil:
		return nil, err
	case record == nil && job.Command == request.Del:
		return nil, nil
	case record == nil:
		return nil, fault.SandboxUnchangeable.New(job.ContainerID)
	}
	records.Complete(record)
	if err := isOf(record, job); err != nil {
		return nil, err
	}
	req := r.request(record)
	switch job.Command {
	case request.Add:
		return r.engine.Attach(ctx, req, stateDir, r.conn.ForDelegate(job.ID), job.IfName)
	case request.Del:
		return nil, r.engine.Detach(ctx, req, stateDir, job.IfName, job.Network)
	case request.Check:
		return nil, r.engine.CheckOne(ctx, req, stateDir, job.IfName, job.Network)
	}
	return nil, fmt.Errorf("unknown cmd type: %.64q", job.Command)
}

// isOf returns an error if a record is not that of the sandbox that a request names. The record's own names are used
// for everything else.
func isOf(record *ledger.Record, job *wirev1.DelegateJob) error {
	if pod := session.PodOf(record); pod.Namespace != job.Pod.Namespace || pod.Name != job.Pod.Name {
		return fmt.Errorf("container %s is one of pod %s/%s", record.ContainerID, pod.Namespace, pod.Name)
	}
	if job.Netns == "" || job.Netns == record.Netns {
		return nil
	}
	requested, err := os.Stat(job.Netns)
	if errors.Is(err, os.ErrNotExist) && job.Command == request.Del {
		return nil // the sandbox is going, and nothing is left to delete
	}
	if err != nil {
		return fmt.Errorf("no net namespace found: %w", err)
	}
	recorded, err := os.Stat(record.Netns)
	if err != nil || !os.SameFile(requested, recorded) {
		return fmt.Errorf("%s is not the network namespace of container %s, which is %s", job.Netns, record.ContainerID,
			cmp.Or(record.Netns, "not recorded"))
	}
	return nil
}
