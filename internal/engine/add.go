package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/config"
	"multus/internal/engine/detach"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/reap"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

// Add attaches a pod to its networks and returns the result of the cluster network (behaviour D.1). If it fails,
// either nothing is left attached or the ledger records what is left.
func (e *Engine) Add(ctx context.Context, req *request.Request) (types.Result, error) {
	s, err := e.begin(req)
	if err != nil {
		return nil, err
	}
	res, err := e.add(ctx, s)
	if err == nil {
		return res, nil
	}
	publishFailure(ctx, s, err)
	return nil, withPod(req, err)
}

func (e *Engine) add(ctx context.Context, s *session.Session) (res types.Result, err error) {
	if err := s.Conf.HasNetwork(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, AddLimit, fmt.Errorf("ADD took longer than %s", AddLimit))
	defer cancel()
	if err := waitReady(ctx, s); err != nil {
		return nil, err
	}
	failpoint.At("plan.before")
	p, err := e.deps.Planner.Plan(ctx, s.Request, s.Conf)
	if err != nil {
		return nil, err
	}
	s.Planned = time.Since(s.Start)
	failpoint.At("plan.after")
	records := s.LedgerIn(p.Dirs.State)
	(&reap.Reaper{Session: s, Ledger: records}).AfterBoot(ctx)
	b, err := s.Lock(ctx, records, LockLimit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Release()) }()
	at := newAttaching(b, p)
	defer at.run.Close()
	if err = at.write(ctx); err == nil {
		err = at.execute(ctx)
	}
	return at.publish(ctx, err)
}

// publishFailure writes the failure of an ADD as an event of the pod. The event has the text of the error that the
// runtime receives.
func publishFailure(ctx context.Context, s *session.Session, err error) {
	pod := s.Pod()
	if !s.Conf.FailureEvents || pod.Name == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishLimit)
	defer cancel()
	perr := s.Publisher.Publish(ctx, &publish.Report{
		Command: request.Add, Pod: pod, ContainerID: s.Request.ContainerID,
		Trace:   traceOf(s),
		Failure: &publish.Failure{EmitEvent: true, Message: podError(s.Request, err).Error()},
	})
	if perr != nil {
		s.Log.Warn("the event about a failed ADD is not written", "err", perr)
	}
}

// traceOf returns the times of an ADD until now.
func traceOf(s *session.Session) *publish.Trace {
	t := &publish.Trace{
		Parent: s.Request.TraceParent, Begin: s.Start.UnixNano(), Planned: s.Planned.Seconds(),
		Recorded: s.Recorded.Seconds(), Seconds: time.Since(s.Start).Seconds(), Repeated: s.Traced,
	}
	s.Traced = true
	return t
}

// publish publishes the outcome of an ADD and returns the result for the runtime (behaviour D26). err is the error of
// the steps before. If the result cannot be converted, or if the status of a pod with networks is lost, everything is
// undone.
func (at *attaching) publish(ctx context.Context, err error) (res types.Result, _ error) {
	attached := err == nil
	if attached {
		res, err = convert(at.outcomes[0].result, at.Conf.CNIVersion)
	}
	if lost := at.report(ctx, err); lost != nil {
		err = lost
	}
	if attached && err != nil {
		detach.Undo(ctx, at.Sandbox, at.record, func(int) bool { return true })
	}
	return res, err
}

// report publishes the network status of what was attached. After a failure it publishes only events (behaviour
// D25). It returns an error only if the attach succeeded and the status of a pod with networks is lost: programs that
// rely on the status, such as the reconciler of whereabouts, would treat the pod's addresses as free (behaviour D122).
// A lost status never fails a plain pod.
func (at *attaching) report(ctx context.Context, failure error) error {
	p := at.plan
	if p.Pod.Name == "" {
		return nil
	}
	rep := &publish.Report{
		Command: request.Add, ContainerID: p.ContainerID, Netns: p.Netns, Timings: at.Timings, Time: time.Now().UnixNano(),
		Pod: p.Pod, Trace: traceOf(at.Session),
		Wait:   p.StatusWait && (at.Conf.PlainPods != config.PlainLocal || !plan.Plain(at.Request, at.Conf)),
		Needed: failure == nil && requestsNetworks(p),
	}
	if failure != nil {
		rep.Failure = &publish.Failure{Message: failure.Error()}
		var cancel context.CancelFunc // the time of the ADD may be over, and then the timings say why
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), publishLimit)
		defer cancel()
	}
	for i, result := range at.results() {
		if result == nil {
			continue // not begun: an attachment of an earlier stage failed
		}
		a := &at.record.Attachments[i]
		b, err := json.Marshal(result)
		if err != nil {
			at.Log.Error("result left out of the status", "network", a.Name, "err", err)
			continue
		}
		rep.Attached = append(rep.Attached, publish.Attached{
			Name: a.Name, IfName: a.IfName, Primary: a.Primary, Result: b, DeviceInfo: readDeviceInfo(a),
			Claim: a.Claim,
		})
	}
	failpoint.At("report.before")
	err := at.Publisher.Publish(ctx, rep)
	failpoint.At("report.after")
	if err == nil {
		return nil
	}
	if !rep.Needed {
		at.Log.Error("status and events not written", "pod", at.Request.Pod(), "err", err)
		return nil
	}
	return fault.StatusLost.Wrap(err, at.Request.Pod())
}

// requestsNetworks reports whether a pod requests networks: additional ones, or one that replaces the cluster network.
func requestsNetworks(p *plan.Plan) bool {
	return slices.ContainsFunc(p.Attachments, func(a plan.Attachment) bool { return !a.Primary || a.Request != nil })
}
