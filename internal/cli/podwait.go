package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
)

// waiting waits for the result of an edited annotation.
type waiting struct {
	*podNetwork
	// uid and before are the UID of the pod and the interfaces of the network in its network status, when the annotation
	// was edited.
	uid    string
	before []string
	// seen has the events before the edit and those that were shown. It is nil if events cannot be read.
	seen map[string]bool
	// last is the error of the last look, which may pass.
	last error
}

// begin records the state of the pod before the edit.
func (w *waiting) begin(pod *plan.Pod) error {
	status, err := reportedNetworks(pod)
	w.uid, w.before = pod.UID, statusInterfaces(status, w.network)
	return err
}

// readEvents records the events before the edit. Without the permission, events are not read.
func (w *waiting) readEvents(ctx context.Context) error {
	if w.noWait {
		return nil
	}
	events, err := w.client.PodEvents(ctx, w.pod)
	if isForbidden(err) {
		w.say("events are not shown: %v", withoutPermission(err))
		return nil
	}
	if err != nil {
		return err
	}
	w.seen = map[string]bool{}
	for _, e := range events {
		w.seen[e.ID] = true
	}
	return nil
}

// wait returns the interface when the network status shows the result. It is an error if the daemon reports a failure,
// if the timeout is reached, or if the command is interrupted. The annotation then stays edited.
func (w *waiting) wait(parent context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(parent, w.timeout)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		ifName, done, err := w.look(ctx)
		switch {
		case done:
			return ifName, nil
		case ctx.Err() != nil: // which may also be the reason for err
			return "", w.ended(parent)
		case errors.Is(err, plan.ErrUnavailable):
			w.last = err
		case err != nil:
			return "", err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return "", w.ended(parent)
		}
	}
}

// look reads the pod and its new events once.
func (w *waiting) look(ctx context.Context) (ifName string, done bool, err error) {
	pod, err := w.client.Pod(ctx, w.pod)
	switch {
	case errors.Is(err, plan.ErrNotFound), err == nil && pod.UID != w.uid:
		return "", false, fmt.Errorf("pod %s was deleted while its networks were changed", w.pod)
	case err != nil:
		return "", false, withoutPermission(err)
	}
	status, err := reportedNetworks(pod)
	if err != nil {
		return "", false, err
	}
	if ifName, done = w.result(statusInterfaces(status, w.network)); done {
		return ifName, true, nil
	}
	return "", false, w.newEvents(ctx)
}

// result reports whether the interfaces of the network are those that were requested.
func (w *waiting) result(now []string) (ifName string, done bool) {
	lacks := func(of []string) func(string) bool {
		return func(name string) bool { return !slices.Contains(of, name) }
	}
	from, to := now, w.before // what is looked for is in from and not in to
	if !w.attaching {
		from, to = w.before, now
	}
	switch i := slices.IndexFunc(from, lacks(to)); {
	case w.target != "":
		return w.target, slices.Contains(now, w.target) == w.attaching
	case i >= 0:
		return from[i], true
	}
	return "", !w.attaching && len(w.before) == 0 // it was not attached
}

// reasons are those of the events that are shown. The value reports whether the event is a failure.
var reasons = map[string]bool{
	publish.AddedInterface: false, publish.RemovedInterface: false, publish.InterfaceChangeIgnored: false,
	publish.FailedAddingInterface: true, publish.FailedRemovingInterface: true, publish.InterfaceAddRejected: true,
}

// newEvents shows the new events about the pod's interfaces. It returns an error for one that is about the failure of
// the requested change. Networks that failed before are tried again, so that there are events about others.
func (w *waiting) newEvents(ctx context.Context) error {
	if w.seen == nil {
		return nil
	}
	events, err := w.client.PodEvents(ctx, w.pod)
	if err != nil {
		return err
	}
	for _, e := range events {
		failure, shown := reasons[e.Reason]
		if w.seen[e.ID] || !shown {
			continue
		}
		w.seen[e.ID] = true
		if failure && (e.Reason == publish.InterfaceAddRejected || w.isAbout(e.Message)) {
			return fmt.Errorf("network %s of pod %s is not %s: %s; the annotation stays edited, and the node tries again%s",
				w.network, w.pod, w.goal(), e.Message, w.undo())
		}
		w.say("%s: %s", e.Reason, e.Message)
	}
	return nil
}

// undo returns how to take an attach back.
func (w *waiting) undo() string {
	if !w.attaching {
		return ""
	}
	command := fmt.Sprintf("multusctl detach pod %s --network %s", w.pod, w.name)
	if w.ifName != "" {
		command += " --interface " + w.ifName
	}
	return "; `" + command + "` takes it back"
}

// isAbout reports whether a message names the network.
func (w *waiting) isAbout(message string) bool {
	name := regexp.QuoteMeta(w.network.Name)
	return regexp.MustCompile(`(^|[^a-z0-9.-])` + name + `($|[^a-z0-9.-])`).MatchString(message)
}

// ended returns the error of a wait that ended without a result.
func (w *waiting) ended(parent context.Context) error {
	if parent.Err() != nil {
		return fmt.Errorf("interrupted: the annotation of pod %s stays edited, and network %s may still be %s", w.pod,
			w.network, w.goal())
	}
	last := ""
	if w.last != nil {
		last = fmt.Sprintf(" (%v)", w.last)
	}
	node := cmp.Or(w.node, "NODE")
	return fmt.Errorf("network %s of pod %s is not %s after %s%s; the annotation stays edited. Check that hotPlug is set "+
		"in the daemon's file, and see `multusctl explain pod %s --running --node %s` and `multusctl doctor --node %s`",
		w.network, w.pod, w.goal(), w.timeout, last, w.pod, node, node)
}
