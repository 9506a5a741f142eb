package repair

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// Reasons of events of pods that run without their networks.
const (
	NetworksMissing      = "NetworksMissing"
	NetworksAttachedLate = "NetworksAttachedLate"
	EvictedForNetworks   = "EvictedForNetworks"
)

// maxShown limits how many networks an event names.
const maxShown = 8

// byHand is the advice for a pod that is not repaired.
const byHand = "Delete the pod, so that it is created again with its networks; on the node, `multusctl doctor` says " +
	"whether the runtime calls Multus now"

// repair does what the rule of a pod says, and reports the pod: the first time, when its sandbox or its rule has
// changed, and once in reportInterval.
func (f *Finder) repair(ctx context.Context, p *pod, m *Missing) {
	fresh := p.reported.IsZero() || p.as.Container != m.Container || p.as.Rule != m.Rule
	if m.Rule == evict && f.evict(ctx, p, m) {
		return
	}
	if m.Rule == attach && m.Container == "" {
		m.Note = "its sandbox is not among the results that the container runtime has cached"
	}
	if !fresh && f.o.Clock.Since(p.reported) < reportInterval {
		return
	}
	p.reported, p.as = f.o.Clock.Now(), *m
	advice := byHand
	switch {
	case m.Note != "":
		advice = "It is not repaired: " + fault.Clip(m.Note, fault.MaxValue) + ". " + byHand
	case m.Rule == attach:
		advice = "They are attached now"
		f.o.Attach(p.Pod, m.Container)
	}
	f.announce(m, NetworksMissing, advice)
}

// evict evicts a pod if it may, and leaves the reason in m.Note if not. It reports whether the pod is evicted or gone.
func (f *Finder) evict(ctx context.Context, p *pod, m *Missing) bool {
	now := f.o.Clock.Now()
	switch {
	case p.ends:
		return true
	case now.Before(p.next):
		m.Note = p.note
		return false
	}
	if f.limit.TokensAt(now) < 1 {
		m.Note = "evictions are limited (repairRate), and it waits for its turn"
		return false
	}
	f.later(p)
	state, err := f.o.Cluster.PodState(ctx, plan.Ref{Namespace: p.Namespace, Name: p.Name})
	switch {
	case errors.Is(err, plan.ErrNotFound), err == nil && (state.UID != p.UID || state.Ending):
		p.ends = true
	case err != nil:
		m.Note = err.Error()
	case state.Static:
		m.Note = "it is a static pod"
	case !state.Controlled:
		m.Note = "it has no controller that creates it again"
	case f.o.InForce != nil && f.o.InForce() != nil:
		m.Note = "it would come back without its networks: " + f.o.InForce().Error()
	default:
		f.limit.AllowN(now, 1)
		if err = f.o.Cluster.Evict(ctx, p.Pod); err != nil && !errors.Is(err, publish.ErrGone) {
			m.Note = err.Error()
			break
		}
		p.ends = true
		f.announce(m, EvictedForNetworks, "It is evicted, so that its controller creates it again")
	}
	p.note = m.Note
	return p.ends
}

// text describes what is missing.
func (m *Missing) text() string {
	networks := strings.Join(m.Networks[:min(len(m.Networks), maxShown)], ", ")
	if more := len(m.Networks) - maxShown; more > 0 {
		networks += fmt.Sprintf(" and %d more", more)
	}
	text := fmt.Sprintf("the pod runs without the networks that it requests (%s): ", networks)
	if m.Container == "" {
		return text + "Multus has no record of its sandbox, and the container runtime no result"
	}
	return text + fmt.Sprintf("at %s the container runtime attached it to network %q alone and did not call Multus",
		m.Since.UTC().Format(time.RFC3339), fault.Clip(m.Network, fault.MaxName))
}

// announce logs a pod and writes an event of it.
func (f *Finder) announce(m *Missing, reason, advice string) {
	message := m.text() + ". " + advice
	f.o.Log.Error("pod runs without the networks that it requests", "pod", m.Namespace+"/"+m.Name,
		"container", m.Container, "reason", reason, "err", message)
	f.report(m.Pod, m.Container, publish.Warning, reason, message,
		&publish.Unready{Reason: NetworksMissing, Message: "attached without Multus"})
}

// Attached reports that the runner has attached the networks of a pod that ran without them.
func (f *Finder) Attached(pod request.Pod, container string) {
	f.report(pod, container, publish.Normal, NetworksAttachedLate, "the networks that the pod requests are attached. A "+
		"program that looks at its interfaces only when it starts does not see them", nil)
}

func (f *Finder) report(pod request.Pod, container, kind, reason, message string, unready *publish.Unready) {
	f.o.Report(&publish.Report{
		Command: request.Update, Pod: pod, ContainerID: container, Unready: unready,
		Events: []publish.Event{{Type: kind, Reason: reason, Message: message}},
	})
}
