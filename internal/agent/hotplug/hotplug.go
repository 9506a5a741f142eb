// Package hotplug finds the pods of the node whose networks are not the ones that they request, and hands them to the
// runner on the host. It compares annotations only, to find out whether there may be work: what there is to do is
// decided by plan.Resolver.Diff from the sandbox's record. It changes nothing itself. The daemon and the handlers of
// its socket import it.
package hotplug

import (
	"context"
	"errors"
	"log/slog"
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
	log   *slog.Logger
	clock clock.PassiveClock
	work  workqueue.TypedRateLimitingInterface[request.Pod]

	// mu guards the fields below.
	mu sync.Mutex
	// seen has what is known of each pod of the node, by UID.
	seen map[string]*seen
	// ready has the pods to hand out, and out those that were handed out, in their order.
	ready, out []request.Pod
	// changed is closed and replaced when ready grows. waiting is the number of runners that wait for that.
	changed chan struct{}
	waiting int
	// heard is the time of the last call of a runner.
	heard time.Time
}

// seen is what the two annotations of a pod were.
type seen struct {
	// networks is the present annotation that requests networks.
	networks string
	// now is the present value of both. handedOut is that of the last time when the pod was handed out, and settled that
	// with which there was nothing left to do.
	now, handedOut, settled string
}

// New returns an empty queue. It hands out nothing before Run is called.
func New(c clock.PassiveClock, log *slog.Logger) *Queue {
	return &Queue{
		log: log, clock: c, seen: map[string]*seen{}, changed: make(chan struct{}),
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
		if ended {
			return nil
		}
		q.mu.Lock()
		q.ready = append(q.ready, pod)
		q.announce()
		q.mu.Unlock()
	}
}

// announce wakes the runners that wait. The caller holds mu.
func (q *Queue) announce() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// Observe queues a pod if its network status is not about the networks that its annotation names, and whenever that
// annotation changes: the status does not show with which addresses and arguments they were requested. It is called for
// each pod of the node, when it is first seen and whenever its metadata changes. A pod without a network status is not
// queued: its ADD has not ended.
func (q *Queue) Observe(pod *plan.Pod) {
	status, attached := pod.Annotations[netsel.Status]
	networks := pod.Annotations[netsel.Networks]
	now := networks + "\x00" + status
	q.mu.Lock()
	s := q.seen[pod.UID]
	if s == nil {
		s = &seen{networks: networks}
		q.seen[pod.UID] = s
	}
	changed := s.networks != networks
	s.networks, s.now = networks, now
	settled := s.settled == now
	q.mu.Unlock()
	if attached && !settled && (changed || differs(pod, status)) {
		q.work.Add(pod.Identity())
	}
}

// Gone forgets a pod that was deleted. If it is handed out, the runner finds nothing to do.
func (q *Queue) Gone(pod *plan.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.seen, pod.UID)
	q.work.Forget(pod.Identity())
}

// Next returns the pods to work on, at most maxHandedOut. It waits until there are some or ctx ends. The pods that were
// handed out before and have no result yet are handed out again: there is one runner, and it asks when it is done.
func (q *Queue) Next(ctx context.Context) []request.Pod {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer func() { q.heard = q.clock.Now() }()
	q.ready, q.out = append(q.out, q.ready...), nil
	for len(q.ready) == 0 {
		changed := q.changed
		q.waiting++
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		q.mu.Lock()
		q.waiting--
		if ctx.Err() != nil {
			return nil
		}
	}
	n := min(len(q.ready), maxHandedOut)
	q.out, q.ready = q.ready[:n:n], q.ready[n:]
	for _, pod := range q.out {
		if s := q.seen[pod.UID]; s != nil {
			s.handedOut = s.now
		}
	}
	return append([]request.Pod(nil), q.out...)
}

// Done takes the result of a pod that was handed out. If failure is not "", the pod is handed out again after a pause.
func (q *Queue) Done(pod request.Pod, failure string) error {
	q.mu.Lock()
	q.heard = q.clock.Now()
	found := false
	for i := range q.out {
		if q.out[i] == pod {
			q.out, found = append(q.out[:i:i], q.out[i+1:]...), true
			break
		}
	}
	if s := q.seen[pod.UID]; found && failure == "" && s != nil {
		s.settled = s.handedOut
	}
	q.mu.Unlock()
	if !found {
		return errors.New("the pod is not handed out")
	}
	q.work.Done(pod)
	if failure == "" {
		q.work.Forget(pod)
		return nil
	}
	q.log.Warn("networks of a running pod are not as requested, trying again", "pod",
		fault.Clip(pod.Namespace, fault.MaxName)+"/"+fault.Clip(pod.Name, fault.MaxName),
		"failures", q.work.NumRequeues(pod)+1, "err", fault.Clip(failure, fault.MaxMessage))
	q.work.AddRateLimited(pod)
	return nil
}

// Unattended reports whether there is work, and no runner seems to do it.
func (q *Queue) Unattended() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ready)+len(q.out) > 0 && q.waiting == 0 && q.clock.Since(q.heard) >= silence
}

// Waiting returns the number of pods whose networks may have to be changed.
func (q *Queue) Waiting() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(len(q.ready) + len(q.out))
}
