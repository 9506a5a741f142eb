// Package resync keeps the network statuses of running pods true: it compares them with what the sandboxes of the node
// have, as a runner observes it, and decides what to report and which interfaces to restore. It changes nothing itself.
// The daemon and the handlers of its socket import it.
package resync

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/netsel"
)

const (
	// confirmAfter is the time after which a difference is looked at again before it is reported: a program in the pod may
	// be replacing the interface, and the watch of the pods may be late.
	confirmAfter = 2 * time.Second
	// maxResults limits the size of the results of one sandbox. The status of a pod with larger ones may be incomplete.
	maxResults = 1 << 20
)

// Options are the settings of a Comparer. All of them are required.
type Options struct {
	// Every is the time between two comparisons.
	Every time.Duration
	// Reattach makes Compare return the interfaces to restore.
	Reattach bool
	// Busy reports whether the networks of a pod are being changed or their status waits to be written.
	Busy func(pod request.Pod) bool
	// Pods returns a pod as it is now.
	Pods plan.Pods
	// Report writes a network status and events.
	Report func(ctx context.Context, r *publish.Report)
	// Next is called at the end of a comparison with the time until the next one.
	Next func(in time.Duration)
	Log  *slog.Logger
}

// Comparer compares the network statuses of the pods of the node with what they have.
type Comparer struct {
	o Options
	// turn is held during a comparison, and mu while the fields below are used. mu is never held during I/O.
	turn sync.Mutex
	mu   sync.Mutex
	pods map[string]*pod // by UID
	// unconfirmed reports whether the present comparison has found a difference for the first time.
	unconfirmed bool
}

// pod is a pod of the node. The object is replaced when it changes.
type pod struct {
	*plan.Pod
	compared
}

// compared is what comparisons found out about the sandbox of a pod.
type compared struct {
	container string
	// seen has the interfaces that existed at any time.
	seen map[string]bool
	// actual is what the last comparison found, and lost the interfaces of the attachments that it did not find.
	actual string
	lost   []string
	// corrected is the last difference that was reported. If it is found again, another program writes the status, too.
	corrected string
}

// New returns a Comparer. It reports nothing before Compare is called.
func New(o Options) *Comparer { return &Comparer{o: o, pods: map[string]*pod{}} }

// Observe takes note of a pod of the node, and of its network status.
func (c *Comparer) Observe(p *plan.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.pods[p.UID]; known != nil {
		known.Pod = p
		return
	}
	c.pods[p.UID] = &pod{Pod: p}
}

// Gone forgets a pod.
func (c *Comparer) Gone(p *plan.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, p.UID)
}

// Lost reports whether the last comparison did not find the interface of an attachment. The network status then lacks
// it with reason.
func (c *Comparer) Lost(containerID, ifName string) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pods {
		if p.container == containerID {
			return slices.Contains(p.lost, ifName)
		}
	}
	return false
}

// Reattach is a sandbox with networks to attach again.
type Reattach struct {
	Pod         request.Pod
	ContainerID string
	IfNames     []string
}

// Compare reports the differences between the network statuses of pods and what their sandboxes have (behaviour R25).
// It returns the networks to attach again. ended is set for the last sandboxes of a comparison. What cannot be decided
// until ctx ends is left to the next comparison.
func (c *Comparer) Compare(ctx context.Context, sandboxes []*publish.Observation, ended bool) (out []Reattach) {
	c.turn.Lock()
	defer c.turn.Unlock()
	for _, o := range sandboxes {
		if ctx.Err() != nil {
			break
		}
		if r := c.sandbox(ctx, o); r != nil {
			out = append(out, *r)
		}
	}
	if ended {
		next := c.o.Every
		if c.unconfirmed {
			next = min(next, confirmAfter)
		}
		c.unconfirmed = false
		c.o.Next(next)
	}
	return out
}

// sandbox compares one sandbox.
func (c *Comparer) sandbox(ctx context.Context, o *publish.Observation) *Reattach {
	f := c.examine(o)
	if f == nil {
		return nil
	}
	log := c.o.Log.With("pod", f.pod.Ref, "container", o.ContainerID)
	if len(f.drifts) == 0 && len(f.reattach) == 0 || c.o.Busy(f.pod.Identity()) {
		return nil
	}
	if !f.confirmed {
		c.unconfirmed = true
		return nil
	}
	// The watch may be late: a status that was just written must not be reported as different.
	pod, err := c.o.Pods.Pod(ctx, f.pod.Ref)
	if err != nil || pod.UID != f.pod.UID {
		log.Debug("pod is not compared", "err", err)
		return nil
	}
	status, ok := pod.Annotations[netsel.Status]
	if !ok {
		return nil
	}
	if f.compare(status); len(f.drifts) > 0 && c.takeCorrection(f) {
		r := f.report(o)
		for _, e := range r.Events {
			log.Warn("network status is corrected", "reason", e.Reason, "err", e.Message)
		}
		c.o.Report(ctx, r)
	}
	if len(f.reattach) == 0 {
		return nil
	}
	return &Reattach{f.pod.Identity(), o.ContainerID, f.reattach}
}

// takeCorrection reports whether a difference is another one than that which was reported last, and records it.
func (c *Comparer) takeCorrection(f *finding) bool {
	var was []element
	for i := range f.drifts {
		if s := f.drifts[i].status; s != nil {
			was = append(was, *s)
		}
	}
	found := fmt.Sprint(was, f.actual)
	c.mu.Lock()
	defer c.mu.Unlock()
	again := f.state.corrected == found
	f.state.corrected = found
	return !again
}

// finding is what was found out about a sandbox.
type finding struct {
	pod   *plan.Pod
	state *pod
	// attachments is what the sandbox has. actual are its elements in a network status, and attached those of what the
	// plugins reported.
	attachments      []publish.Attached
	actual, attached []element
	drifts           []drift
	// confirmed reports whether the last comparison found the same.
	confirmed bool
	// lost has the interfaces that do not exist, and reattach those that are made again.
	lost, reattach []string
	next           string
}

// examine compares what a sandbox has with the network status of its pod. It returns nil if nothing can be said.
func (c *Comparer) examine(o *publish.Observation) *finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.find(o.Pod)
	if p == nil {
		return nil
	}
	status, ok := p.Annotations[netsel.Status]
	if !ok || o.Size() > maxResults {
		return nil
	}
	if p.container != o.ContainerID {
		p.compared = compared{container: o.ContainerID, seen: map[string]bool{}}
	}
	f := &finding{pod: p.Pod, state: p}
	attachments, lost, err := o.Actual(func(name string) bool { return p.seen[name] })
	if err == nil {
		f.attachments = attachments
		f.actual, err = elements(o, attachments)
	}
	if shown, _ := parse(status); err == nil && len(lost)+len(o.Unfinished) == 0 && slices.EqualFunc(shown, f.actual,
		func(a, b element) bool { return a.equal(&b) }) {
		p.note(o, nil, f)
		return nil // as for most pods
	}
	if err == nil {
		f.attached, err = elements(o, o.Attached)
	}
	for i := range o.Attached { // an unfinished one has no result
		f.attached = append(f.attached, element{Name: o.Attached[i].Name, Interface: o.Attached[i].IfName})
	}
	if err != nil || !f.compare(status) {
		c.o.Log.Debug("sandbox cannot be compared", "container", o.ContainerID, "err", err)
		return nil
	}
	lost = append(lost, o.Unfinished...)
	f.lost = lost
	p.note(o, lost, f)
	f.decide(o, lost, c.o.Reattach)
	return f
}

// note records what was found.
func (p *compared) note(o *publish.Observation, lost []string, f *finding) {
	for i := range o.Interfaces {
		p.seen[o.Interfaces[i].Name] = true
	}
	actual := fmt.Sprint(f.actual, o.Unfinished)
	f.confirmed, p.actual, p.lost = p.actual == actual, actual, lost
}

// find returns the pod of a sandbox, or nil. The sandbox of a static pod has another UID than the pod object, and some
// runtimes pass none.
func (c *Comparer) find(of request.Pod) *pod {
	if p := c.pods[of.UID]; p != nil && p.Namespace == of.Namespace && p.Name == of.Name {
		return p
	}
	for _, p := range c.pods {
		if p.Namespace == of.Namespace && p.Name == of.Name && (of.UID == "" || p.IsStatic()) {
			return p
		}
	}
	return nil
}

// elements returns the elements of the network status of attachments.
func elements(o *publish.Observation, attachments []publish.Attached) ([]element, error) {
	p, err := publish.Prepare(&publish.Report{Command: request.Update, Netns: o.Netns, Attached: attachments})
	if err != nil {
		return nil, err
	}
	out, _ := parse(p.Status())
	return out, nil
}

// compare compares with a network status. It returns false for one that is not as Multus writes it.
func (f *finding) compare(status string) bool {
	shown, ok := parse(status)
	f.drifts = compare(shown, f.actual, f.attached)
	return ok
}

// decide selects the interfaces to restore. What a killed runner has restored is reported by the next one.
func (f *finding) decide(o *publish.Observation, lost []string, reattach bool) {
	f.next = "Delete the pod, so that it is created again with its networks"
	if !reattach {
		return
	}
	for i := range o.Attached {
		a := &o.Attached[i]
		if a.Primary || slices.Contains(o.Devices, a.IfName) ||
			!slices.Contains(lost, a.IfName) {
			continue
		}
		f.reattach = append(f.reattach, a.IfName)
	}
	f.drifts = slices.DeleteFunc(f.drifts, func(d drift) bool {
		return d.status == nil && slices.Contains(f.reattach, d.actual.Interface)
	})
}

// report returns the report of the differences.
func (f *finding) report(o *publish.Observation) *publish.Report {
	r := &publish.Report{
		Command: request.Update, Pod: f.pod.Identity(), ContainerID: o.ContainerID, Netns: o.Netns,
		Attached: f.attachments, Time: time.Now().UnixNano(), Unready: publish.Lost(f.lost),
	}
	for i := range f.drifts {
		d := &f.drifts[i]
		next := f.next
		if d.status != nil && slices.Contains(f.reattach, d.status.Interface) {
			next = "It is attached again"
		}
		r.Events = append(r.Events, d.event(o.ContainerID, next))
	}
	return r
}
