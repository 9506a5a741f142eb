package podstatus

import (
	"fmt"
	"sync"
	"time"

	"multus/internal/agent/recent"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// pending is a report whose status is to be written.
type pending struct {
	pod       request.Pod
	container string
	time      int64
	trace     *publish.Trace
	// key identifies the pod, and id the report. Reports with the same id have the same pod, container and time.
	key, id string
	// attempted is closed by finish after the first attempt, or when the report is dropped before.
	attempted <-chan struct{}
	finish    func()

	// report is nil while the report is in its file only. tries is the number of failed attempts. probe is set while a
	// forbidden status is tried again. The three are guarded by latest.mu.
	report *publish.Report
	tries  int
	probe  bool

	// file is the name of the report's file, or "". eventsWritten reports whether the events of the report are written.
	// Both are guarded by Writer.disk.
	file          string
	eventsWritten bool
}

func newPending(r *publish.Report) *pending {
	if r.Time == 0 { // a plugin that sets no time
		r.Time = time.Now().UnixNano()
	}
	attempted := make(chan struct{})
	return &pending{
		pod: r.Pod, container: r.ContainerID, time: r.Time, trace: r.Trace, key: podKey(r.Pod), id: r.File(), report: r,
		attempted: attempted, finish: sync.OnceFunc(func() { close(attempted) }), eventsWritten: r.EventsWritten,
	}
}

// podKey returns the key of a pod. The underscore separates the parts because namespaces, pod names and UIDs never
// contain one.
func podKey(p request.Pod) string { return fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID) }

// latest has the latest report of each pod whose status is not written yet. Only these reports wait. Its lock is never
// held during I/O or during a call of a work queue.
type latest struct {
	// mu guards the fields below, and the fields of pending that say so.
	mu sync.Mutex
	// pods has the reports by the keys of their pods.
	pods map[string]*pending
	// seen has the reports that arrived last, whether or not they still wait.
	seen *recent.Names
}

func newLatest() *latest {
	return &latest{pods: map[string]*pending{}, seen: recent.New(2 * maxWaiting)}
}

// register makes p the latest report of its pod. The order of arrival decides, because clocks may be set back. It
// returns p, and the report that p replaces, if any. If the same report waits already, it returns that one instead of
// p. If the same report arrived before and no longer waits, p does not wait either.
func (l *latest) register(p *pending) (registered, replaced *pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := l.pods[p.key]
	if waiting != nil && waiting.id == p.id {
		return waiting, nil
	}
	if !l.seen.Add(p.id) {
		return p, nil
	}
	l.pods[p.key] = p
	return p, waiting
}

// waits reports whether p is the latest report of its pod and its status is still needed.
func (l *latest) waits(p *pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pods[p.key] == p
}

// remove ends a report. It returns false if the report does not wait.
func (l *latest) remove(p *pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pods[p.key] != p {
		return false
	}
	delete(l.pods, p.key)
	p.report = nil // events that are not written yet may still refer to p
	return true
}

// get returns the latest report of a pod, or nil, and whether its next attempt is a repeated one.
func (l *latest) get(key string) (p *pending, repeated bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p = l.pods[key]
	return p, p != nil && p.tries > 0
}

// tried reports whether the next attempt to write the status of a pod is a repeated one.
func (l *latest) tried(key string) bool {
	_, repeated := l.get(key)
	return repeated
}

// load returns the report of p, or nil if it is in its file only, and the number of failed attempts.
func (l *latest) load(p *pending) (r *publish.Report, tries int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.report, p.tries
}

// unload removes the report of p from memory.
func (l *latest) unload(p *pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.report = nil
}

// beginProbe marks the next attempt of p as a probe of whether its status is still forbidden. It returns false if p
// does not wait.
func (l *latest) beginProbe(p *pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pods[p.key] != p {
		return false
	}
	p.probe = true
	return true
}

// endAttempt records an attempt. It returns the number of failed attempts, whether this one was a probe, and whether p
// waits.
func (l *latest) endAttempt(p *pending, failed bool) (tries int, probe, waits bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if failed {
		p.tries++
	}
	probe, p.probe = p.probe, false
	return p.tries, probe, l.pods[p.key] == p
}

func (l *latest) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pods)
}

// ofSandbox returns the report of a sandbox, or nil. If at is not 0, reports of a later time are ignored.
func (l *latest) ofSandbox(pod request.Pod, container string, at int64) *pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pods {
		if p.container == container && p.pod.Namespace == pod.Namespace && p.pod.Name == pod.Name &&
			(at == 0 || p.time <= at) {
			return p
		}
	}
	return nil
}

// oldest returns the report that arrived first, or nil if none waits.
func (l *latest) oldest() *pending {
	return l.first(func(a, b *pending) bool { return l.seen.Number(a.id) < l.seen.Number(b.id) })
}

// first returns the report that comes before all others, or nil if none waits.
func (l *latest) first(before func(a, b *pending) bool) (first *pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pods {
		if first == nil || before(p, first) {
			first = p
		}
	}
	return first
}
