package runner

import (
	"context"
	"fmt"
	"slices"

	"multus/internal/engine/ledger"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	wirev1 "multus/wire/v1"
)

// maxObserved limits the size of the results in one message, and of one sandbox. A sandbox with larger ones is left
// out.
const maxObserved = 4 << 20

// observe sends what the sandboxes of the node have to the daemon, and attaches networks again as it answers. It
// returns whether the daemon has answered.
func (r *runner) observe(ctx context.Context, work *wirev1.Work, store *ledger.Store) bool {
	var all []*publish.Observation
	err := r.engine.Observe(ctx, &request.Request{Command: request.Update, Path: r.path, Config: r.raw}, work.StateDir,
		func(o *publish.Observation) { all = append(all, o) })
	if err != nil {
		r.log.Warn("sandboxes are not compared with their network status", "err", err)
		return false
	}
	failpoint.At("observe.done")
	for _, msg := range batches(all) {
		if !r.sendObserved(ctx, &msg, work.StateDir, store) {
			return false
		}
	}
	return true
}

// batches returns the messages about observations. Pods with several sandboxes are left out: which one the network
// status is about is not known.
func batches(all []*publish.Observation) (out []wirev1.Observed) {
	sandboxes := map[request.Pod]int{}
	var msg wirev1.Observed
	for _, o := range all {
		sandboxes[o.Pod]++
		if pod := wirev1.Pod(o.Pod); o.Pending && !slices.Contains(msg.Pending, pod) {
			msg.Pending = append(msg.Pending, pod)
		}
	}
	total := 0
	for _, o := range all {
		size := o.Size()
		if o.Pending || sandboxes[o.Pod] > 1 || size > maxObserved {
			continue
		}
		if total+size > maxObserved {
			msg.More = true
			out = append(out, msg)
			msg, total = wirev1.Observed{}, 0
		}
		msg.Sandboxes, total = append(msg.Sandboxes, wirev1.FromObservation(o)), total+size
	}
	return append(out, msg)
}

// sendObserved sends one message, and attaches networks again as the daemon answers.
func (r *runner) sendObserved(ctx context.Context, msg *wirev1.Observed, stateDir string, store *ledger.Store) bool {
	limited, cancel := context.WithTimeoutCause(ctx, requestLimit, fmt.Errorf("no answer for %s", requestLimit))
	defer cancel()
	var answer wirev1.ObservedAnswer
	if err := r.client.Call(limited, "POST", wirev1.PathObserved, msg, &answer); err != nil {
		r.log.Warn("what the sandboxes have is not reported; it is requested again", "err", err)
		return false
	}
	parallel(ctx, len(answer.Reattach), func(i int) { r.reattach(ctx, &answer.Reattach[i], stateDir, store) })
	return true
}

func (r *runner) reattach(ctx context.Context, again *wirev1.Reattach, stateDir string, store *ledger.Store) {
	record, err := store.Survey(again.ContainerID, ledger.DefaultIfName)
	if err == nil && len(record.Attachments) > 0 {
		err = r.engine.Reattach(ctx, r.request(record), stateDir, request.Pod(again.Pod), again.IfNames)
	}
	if err != nil {
		r.log.Warn("networks of a running pod are not attached again yet", "pod", again.Pod.Namespace+"/"+again.Pod.Name,
			"err", err)
	}
}
