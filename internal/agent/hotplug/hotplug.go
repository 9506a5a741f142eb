// Package hotplug finds the pods of the node whose networks are not the ones that they request, and hands them to the
// runner on the host. It compares annotations only, to find out whether there may be work: what there is to do is
// decided by plan.Resolver.Diff from the sandbox's record. It changes nothing itself. The daemon and the handlers of
// its socket import it.
package hotplug

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/netsel"
)

const (
	// firstRetry and lastRetry limit the pause before a pod is handed out again whose networks could not be changed. The
	// pause doubles with each failure, and there is no last attempt.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// maxHandedOut limits the number of pods that are handed out together.
	maxHandedOut = 32
	// silence is how long a runner that neither waits nor answers may work before another one is started. A second runner
	// ends at once if the first one still works.
	silence = 5 * time.Second
)

// Queue has the pods whose networks may have to be changed. A pod is handed out until its result is known: if the
// runner is killed, the next one gets the pods that it had.
type Queue struct {
	// Changed, if set, is called when the networks of a pod are as requested, with the time since the daemon saw that they
	// were not. It is set before Run.
	Changed func(took time.Duration)
	// Adopted, if set, is called when the networks of a pod are attached whose sandbox had to be recorded first. It is set
	// before Run.
	Adopted func(pod request.Pod, container string)

	log   *slog.Logger
	clock clock.PassiveClock
	work  workqueue.TypedRateLimitingInterface[request.Pod]

	// mu guards the fields below.
	mu sync.Mutex
	// seen has what is known of each pod of the node, by UID.
	seen map[string]*seen
	// ready has the pods to hand out, and out those that were handed out, in their order.
	ready, out []request.Pod
	// failed has the pods whose last change failed and that are not ready again yet.
	failed map[request.Pod]bool
	// adopt has the sandboxes of pods that have to be recorded first.
	adopt map[request.Pod]string
	// leftovers has the pods of Leftovers whose networks are not as requested yet.
	leftovers map[plan.Ref]bool
	// delegations has the requests of other clients that have no result yet, in their order.
	delegations []*delegation
	// changed is closed and replaced when ready or delegations grows. waiting is the number of runners that wait for that.
	changed chan struct{}
	waiting int
	// ended reports whether Run has ended.
	ended bool
	// heard is the time of the last call of a runner that got work. It is zero after one that got none.
	heard       time.Time
	observation observation
}

// seen is what the two annotations of a pod were.
type seen struct {
	// now is the present value. handedOut is that of the last time when the pod was handed out, and settled that with
	// which there was nothing left to do.
	now, handedOut, settled annotations
	// edited reports whether networks has changed since the pod was first seen, and this is not settled. The network
	// status cannot show that for a network whose result has no interface.
	edited bool
	// since is when the pod was queued, or the zero time if it is not.
	since time.Time
	// pod is the pod as it was observed last.
	pod *plan.Pod
}

// annotations are those of a pod that matter, and what its readiness gate says.
type annotations struct {
	networks, status string
	// attached reports whether the pod has a network status.
	attached bool
	// unready is that of the pod: a change that makes the condition outdated may have been made before it was seen.
	unready bool
}

// New returns an empty queue. It hands out nothing before Run is called.
func New(c clock.PassiveClock, log *slog.Logger) *Queue {
	return &Queue{
		log: log, clock: c, seen: map[string]*seen{}, failed: map[request.Pod]bool{}, adopt: map[request.Pod]string{},
		leftovers: map[plan.Ref]bool{}, changed: make(chan struct{}),
		work: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[request.Pod](firstRetry, lastRetry)),
	}
}

// Run moves pods from the work queue, where they wait for their turn, to those that can be handed out, until ctx ends.
func (q *Queue) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, q.work.ShutDown)
	defer stop()
	for {
		pod, ended := q.work.Get()
		q.mu.Lock()
		if q.ended = ended; !ended {
			q.ready = append(q.ready, pod)
			delete(q.failed, pod)
		}
		if ended {
			q.endAll(errStopping)
		}
		q.announce()
		q.mu.Unlock()
		if ended {
			return nil
		}
	}
}

// announce wakes the runners that wait. The caller holds mu.
func (q *Queue) announce() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// Observe queues a pod if its annotation has changed, or if its network status is not about the networks that the
// annotation names, or if its readiness gate says that one is missing. It is called for each pod of the node, when it
// is first seen and whenever its metadata changes. A pod without a network status is not queued: its ADD has not ended.
// A pod of Leftovers is always queued.
func (q *Queue) Observe(pod *plan.Pod) {
	now := annotations{networks: pod.Annotations[netsel.Networks], unready: pod.Unready}
	now.status, now.attached = pod.Annotations[netsel.Status]
	q.mu.Lock()
	s, known := q.seen[pod.UID]
	if !known {
		s = &seen{}
		q.seen[pod.UID] = s
	}
	s.edited = s.edited || known && s.now.networks != now.networks
	s.now, s.pod = now, pod
	queue := now.attached && s.settled != now && (s.edited || now.unready || differs(pod, now.status)) ||
		q.leftovers[pod.Ref]
	if queue && s.since.IsZero() {
		s.since = q.clock.Now()
	}
	q.mu.Unlock()
	if queue {
		q.work.Add(pod.Identity())
	}
}

var _ plan.Pods = (*Queue)(nil)

// Pod returns a pod of the node as it was observed last, so that a comparison needs no request to the API server. A
// later change is observed, and the pod queued again.
func (q *Queue) Pod(_ context.Context, ref plan.Ref) (*plan.Pod, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.seen {
		if s.pod.Ref == ref {
			return s.pod, nil
		}
	}
	return nil, fmt.Errorf("pod %s of this node: %w", ref, plan.ErrNotFound)
}

// Adopt queues a pod whose sandbox was attached without Multus, and which has to be recorded first.
func (q *Queue) Adopt(pod request.Pod, container string) {
	q.mu.Lock()
	q.adopt[pod] = container
	q.mu.Unlock()
	q.work.Add(pod)
}

// Adoption returns the sandbox of a pod that has to be recorded first, or "".
func (q *Queue) Adoption(pod request.Pod) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.adopt[pod]
}

// Gone forgets a pod that was deleted. If it is handed out, the runner finds nothing to do.
func (q *Queue) Gone(pod *plan.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.seen, pod.UID)
	delete(q.failed, pod.Identity())
	delete(q.adopt, pod.Identity())
	delete(q.leftovers, pod.Ref)
	q.work.Forget(pod.Identity())
}

// Next returns the pods to work on, at most maxHandedOut. It waits until there are some, there are Delegations, an
// observation is due, or ctx or Run ends: a runner that waits must not delay the end of the daemon. The pods and
// Delegations that were handed out before and have no result yet are handed out again: there is one runner, and it
// asks when it is done.
func (q *Queue) Next(ctx context.Context) []request.Pod {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ready, q.out = append(q.out, q.ready...), nil
	q.recall()
	for len(q.ready) == 0 && !q.delegates() && !q.ended && !q.observationDue() {
		changed, due := q.changed, q.untilObservation()
		q.waiting++
		q.mu.Unlock()
		select {
		case <-changed:
		case <-due.C:
		case <-ctx.Done():
		}
		due.Stop()
		q.mu.Lock()
		q.waiting--
		if ctx.Err() != nil {
			q.heard = time.Time{} // the runner ends, or waits again at once
			return nil
		}
	}
	if q.ended {
		return nil
	}
	q.heard = q.clock.Now()
	n := min(len(q.ready), maxHandedOut)
	q.out, q.ready = q.ready[:n:n], q.ready[n:]
	for _, pod := range q.out {
		if s := q.seen[pod.UID]; s != nil {
			s.handedOut = s.now
		}
	}
	return append([]request.Pod(nil), q.out...)
}

// Done takes the result of a pod that was handed out. If failure is not "", the pod is handed out again after a pause,
// unless it is gone.
func (q *Queue) Done(pod request.Pod, failure string) error {
	q.mu.Lock()
	q.heard = q.clock.Now()
	i := slices.Index(q.out, pod)
	if i < 0 {
		q.mu.Unlock()
		return errors.New("the pod is not handed out")
	}
	q.out = append(q.out[:i:i], q.out[i+1:]...)
	known, adopted := q.seen[pod.UID] != nil, ""
	switch {
	case failure == "":
		adopted = q.settle(pod)
	case known:
		q.failed[pod] = true
	}
	q.mu.Unlock()
	if adopted != "" && q.Adopted != nil {
		q.Adopted(pod, adopted)
	}
	q.work.Done(pod)
	if failure == "" || !known {
		q.work.Forget(pod)
		return nil
	}
	q.log.Warn("networks of a running pod are not as requested, trying again", "pod",
		pod.LogName(),
		"failures", q.work.NumRequeues(pod)+1, "err", fault.Clip(failure, fault.MaxMessage))
	q.work.AddRateLimited(pod)
	return nil
}

// settle records that the networks of a pod are as they were requested when it was handed out. It returns the sandbox
// that was recorded for that, or "". The caller holds mu.
func (q *Queue) settle(pod request.Pod) (adopted string) {
	if s := q.seen[pod.UID]; s != nil {
		s.settled, s.edited = s.handedOut, s.handedOut != s.now
		if q.Changed != nil && !s.since.IsZero() {
			q.Changed(q.clock.Since(s.since))
		}
		s.since = time.Time{}
	}
	adopted = q.adopt[pod]
	delete(q.adopt, pod)
	delete(q.leftovers, refOf(pod))
	return adopted
}

// Unattended reports whether there is work, and no runner seems to do it.
func (q *Queue) Unattended() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	work := q.pending() > 0 || q.observationDue()
	return work && q.waiting == 0 && q.clock.Since(q.heard) >= silence
}

// RunnerUp returns 1 while a runner waits for work or seems to work, and 0 otherwise.
func (q *Queue) RunnerUp() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting > 0 || q.pending() > len(q.ready) && q.clock.Since(q.heard) < silence {
		return 1
	}
	return 0
}

// Waiting returns the number of pods whose networks may have to be changed, and of requests for single networks. Pods
// whose change failed count until it succeeds, also in the pause before the next attempt.
func (q *Queue) Waiting() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(q.pending() + len(q.failed))
}

// pending returns the number of pods and delegations that a runner could work on or works on. The caller holds mu.
func (q *Queue) pending() int { return len(q.ready) + len(q.out) + len(q.delegations) }
