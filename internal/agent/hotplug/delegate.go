package hotplug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

const (
	// TakeLimit is how long a delegation waits for a runner. The runtime's next STATUS, which starts one, may be five
	// seconds away.
	TakeLimit = 30 * time.Second
	// resultLimit is how long the result of a delegation that was handed out is awaited. A runner that works on it needs
	// engine.ApplyLimit and detach.UndoLimit at most. The rest is for the one that follows a killed runner.
	resultLimit = 3 * time.Minute
	// maxDelegations limits the number of delegations that wait or are handed out.
	maxDelegations = 64
	// maxHandings is how often a delegation is handed out. A runner that requests work again without a result was killed,
	// or is of a version without delegations, and must not get it at once for ever.
	maxHandings = 2
)

// Delegation is a request of a client of the socket for one network of a running pod (behaviour R20).
type Delegation struct {
	ID string
	// Command is ADD, DEL or CHECK.
	Command     string
	Pod         request.Pod
	ContainerID string
	Netns       string
	IfName      string
	// Network is the name in the configuration of the network, or "".
	Network string
	// Wanted is the network of an ADD.
	Wanted *plan.Wanted
}

// delegation is a Delegation without a result.
type delegation struct {
	Delegation
	// handed is how often it was handed out. out reports whether it is handed out now, and left whether its client no
	// longer waits.
	handed    int
	out, left bool
	// taken is closed when it is handed out, and done gets its outcome.
	taken chan struct{}
	done  chan outcome
}

type outcome struct {
	result json.RawMessage
	err    error
}

// Delegate hands a request to the runner and waits for its result, at most TakeLimit for a runner that takes it and
// then for resultLimit. If ctx ends before the request is handed out, it is dropped. One that was handed out is
// finished. The pod is compared afterwards, because its annotation may have changed meanwhile.
func (q *Queue) Delegate(ctx context.Context, o *Delegation) (json.RawMessage, error) {
	d := &delegation{Delegation: *o, taken: make(chan struct{}), done: make(chan outcome, 1)}
	if err := q.enqueue(d); err != nil {
		return nil, err
	}
	defer q.drop(d)
	got, taken := d.wait(ctx, TakeLimit, d.taken, fault.DelegateUntaken.New(d.IfName, d.podName(), TakeLimit))
	if taken {
		got, _ = d.wait(ctx, resultLimit, nil, d.unfinished(fmt.Errorf("it took longer than %s", resultLimit)))
	}
	return got.result, got.err
}

// wait waits for the outcome or until next is closed. late is the error after limit.
func (d *delegation) wait(ctx context.Context, limit time.Duration, next <-chan struct{}, late error) (o outcome,
	isNext bool,
) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	select {
	case o = <-d.done:
		return o, false
	case <-ctx.Done():
		return outcome{err: context.Cause(ctx)}, false
	case <-next:
		return outcome{}, true
	}
}

func (d *delegation) podName() string { return d.Pod.Namespace + "/" + d.Pod.Name }

func (d *delegation) unfinished(err error) error {
	return fault.DelegateUnfinished.Wrap(err, d.IfName, d.podName())
}

// errStopping is the outcome of the delegations of a daemon that ends.
var errStopping = errors.New("the daemon ends")

func (q *Queue) enqueue(d *delegation) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.ended:
		return d.unfinished(errStopping)
	case len(q.delegations) >= maxDelegations:
		return d.unfinished(fmt.Errorf("%d other requests wait", maxDelegations))
	}
	q.delegations = append(q.delegations, d)
	q.announce()
	return nil
}

// drop removes a delegation for which its client no longer waits. The result of one that is handed out is still taken.
func (q *Queue) drop(d *delegation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d.left = true
	if !d.out {
		q.remove(d)
	}
}

// remove removes a delegation. The caller holds mu.
func (q *Queue) remove(d *delegation) {
	q.delegations = slices.DeleteFunc(q.delegations, func(o *delegation) bool { return o == d })
}

// recall takes back what an earlier runner has left. The caller holds mu.
func (q *Queue) recall() {
	for _, d := range slices.Clone(q.delegations) {
		if d.out && (d.left || d.handed >= maxHandings) {
			q.end(d, nil, d.unfinished(errors.New("the runner was killed, or is of an earlier version of Multus")))
		}
		d.out = false
	}
}

// end gives a delegation its outcome. The caller holds mu.
func (q *Queue) end(d *delegation, result json.RawMessage, err error) {
	q.remove(d)
	d.done <- outcome{result, err}
	if d.handed > 0 && d.Command != request.Check {
		q.compare(d.Pod)
	}
}

// endAll ends all delegations with an error. The caller holds mu.
func (q *Queue) endAll(err error) {
	for _, d := range slices.Clone(q.delegations) {
		q.end(d, nil, d.unfinished(err))
	}
}

// delegates reports whether a delegation waits to be handed out. The caller holds mu.
func (q *Queue) delegates() bool {
	return slices.ContainsFunc(q.delegations, func(d *delegation) bool { return !d.out })
}

// Delegations returns the delegations to work on, at most maxHandedOut. It does not wait: Next does.
func (q *Queue) Delegations() (out []Delegation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, d := range q.delegations {
		if d.out || len(out) == maxHandedOut {
			continue
		}
		if d.handed++; d.handed == 1 {
			close(d.taken)
		}
		d.out, q.heard = true, q.clock.Now()
		out = append(out, d.Delegation)
	}
	return out
}

// Wanted returns the network of an ADD that is handed out, or nil.
func (q *Queue) Wanted(id string) *plan.Wanted {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d := q.handedOut(id); d != nil {
		return d.Wanted
	}
	return nil
}

// handedOut returns a delegation that is handed out, or nil. The caller holds mu.
func (q *Queue) handedOut(id string) *delegation {
	i := slices.IndexFunc(q.delegations, func(d *delegation) bool { return d.out && d.ID == id })
	if i < 0 {
		return nil
	}
	return q.delegations[i]
}

// Delegated takes the result of a delegation that was handed out.
func (q *Queue) Delegated(id string, result json.RawMessage, err error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.heard = q.clock.Now()
	d := q.handedOut(id)
	if d == nil {
		return errors.New("the request is not handed out")
	}
	q.end(d, result, err)
	return nil
}

// compare queues a pod although its annotations have not changed. The caller holds mu.
func (q *Queue) compare(pod request.Pod) {
	for _, s := range q.seen {
		if s.now.attached && s.pod.Namespace == pod.Namespace && s.pod.Name == pod.Name {
			q.work.Add(s.pod.Identity())
		}
	}
}
