package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
)

// Add attaches a pod to its networks and returns the result of the cluster network (behaviour D.1). If it fails,
// either nothing is left attached or the ledger records what is left.
func (e *Engine) Add(ctx context.Context, req *request.Request) (types.Result, error) {
	c, err := e.begin(req)
	if err != nil {
		return nil, err
	}
	res, err := c.add(ctx)
	if err == nil {
		return res, nil
	}
	c.publishFailure(ctx, err)
	return nil, c.withPod(err)
}

// publishFailure writes the failure of an ADD as an event of the pod. The event has the text of the error that the
// runtime receives.
func (c *call) publishFailure(ctx context.Context, err error) {
	pod := c.pod()
	if !c.conf.FailureEvents || pod.Name == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishLimit)
	defer cancel()
	perr := c.deps.Publisher.Publish(ctx, &publish.Report{
		Command: request.Add, Pod: pod, ContainerID: c.req.ContainerID,
		Failure: &publish.Failure{EmitEvent: true, Message: c.podError(err).Error()},
	})
	if perr != nil {
		c.log.Warn("the event about a failed ADD is not written", "err", perr)
	}
}

func (c *call) add(ctx context.Context) (types.Result, error) {
	if err := c.conf.HasNetwork(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, AddLimit, fmt.Errorf("ADD took longer than %s", AddLimit))
	defer cancel()
	if err := c.waitReady(ctx); err != nil {
		return nil, err
	}
	failpoint.At("plan.before")
	p, err := c.deps.Planner.Plan(ctx, c.req, c.conf)
	if err != nil {
		return nil, err
	}
	failpoint.At("plan.after")
	c.useState(p)
	c.afterBoot(ctx)
	var out types.Result
	err = c.locked(ctx, LockLimit, func() error {
		results, err := c.attach(ctx, p)
		attached := err == nil
		if attached {
			out, err = convert(results[0], c.conf.CNIVersion)
		}
		if lost := c.report(ctx, p, results, err); lost != nil {
			err = lost
		}
		if attached && err != nil {
			c.undo(ctx, p, func(int) bool { return true })
		}
		return err
	})
	return out, err
}

// failed adds the network to the error of a failed attachment (behaviour M2) and keeps the delegate's error code
// (behaviour D5). A configuration error that was found without running the delegate already names the network and is
// returned unchanged. If the error has a next step of its own, that one is kept.
func (c *call) failed(a *plan.Attachment, err error) error {
	code, next := fault.Internal, fmt.Sprintf("look at the configuration of network %s and at the message of its plugin",
		a.Name)
	if f, ok := errors.AsType[*fault.Error](err); ok {
		if f.Code == fault.BadConfig {
			return err
		}
		code, next = f.Code, f.Next
	}
	return fault.Wrap(err, code, next, "error adding container to network %q (interface %s)", a.Name, a.IfName)
}

// clearLeftover frees the leftover state of an earlier ADD of the same container that was killed before its DEL. It
// leaves a container that is still attached alone: Netns.CheckFree rejects it later.
//
// Leftover state always has a record. A container without a record, such as every new one, has no leftover state, and
// libcni's results are not searched.
func (c *call) clearLeftover(ctx context.Context) error {
	if !c.store.Has(c.req.ContainerID) {
		return nil
	}
	r, err := c.store.Read(c.req.ContainerID, c.req.IfName)
	if err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	if attached, err := c.deps.Netns.HasInterface(c.req.Netns, c.req.IfName); attached || err != nil {
		return err
	}
	if r.Progress.Undone && !r.Damaged {
		return c.restorePlanNames(ctx, c.planFor(r)) // the failed ADD has deleted all of its attachments
	}
	c.log.Warn("freeing the resources of an earlier ADD of this container")
	err = c.freeRecord(ctx, r)
	c.publishGivenUp(ctx, c.pod())
	return err
}

// undo deletes the attachments for which begun returns true, in reverse order (behaviour D28). It has a time limit
// of its own because the request may have ended already. The record is kept: the runtime sends a DEL after every failed
// ADD, and that DEL deletes the attachments once more. If the undo was complete, the record says so.
func (c *call) undo(ctx context.Context, p *plan.Plan, begun func(i int) bool) {
	failpoint.At("undo.before")
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), UndoLimit,
		fmt.Errorf("undo took longer than %s", UndoLimit))
	defer cancel()
	done, progress := *p, ledger.Progress{}
	done.Attachments = nil
	for i, stage := range p.StageNumbers() {
		if begun(i) {
			done.Attachments = append(done.Attachments, p.Attachments[i])
			progress.Begun = max(progress.Begun, stage+1)
		}
	}
	err := c.detach(ctx, &done, &progress, true)
	if err == nil {
		progress = ledger.Progress{Undone: true}
	}
	if err := errors.Join(err, c.store.RecordProgress(p.ContainerID, progress)); err != nil {
		c.log.Error("undo of a failed ADD is incomplete; DEL will complete it", "err", err)
	}
	failpoint.At("undo.after")
}

// report publishes the network status of what was attached. After a failure it publishes only events (behaviour
// D25). It returns an error only if the attach succeeded and the status of a pod with networks is lost: programs that
// rely on the status, such as the reconciler of whereabouts, would treat the pod's addresses as free (behaviour D122).
// A lost status never fails a plain pod.
func (c *call) report(ctx context.Context, p *plan.Plan, results []types.Result, failure error) error {
	if p.Pod.Name == "" {
		return nil
	}
	rep := &publish.Report{
		Command: request.Add, ContainerID: c.req.ContainerID, Netns: p.Netns, Timings: c.timings, Time: time.Now().UnixNano(),
		Pod:    publish.Pod{Namespace: p.Pod.Namespace, Name: p.Pod.Name, UID: p.Pod.UID},
		Wait:   c.conf.PlainPods != config.PlainLocal || !plan.Plain(c.req, c.conf),
		Needed: failure == nil && requestsNetworks(p),
	}
	if failure != nil {
		rep.Failure = &publish.Failure{Message: failure.Error()}
	}
	for i := range results {
		if results[i] == nil {
			continue // not begun: an attachment of an earlier stage failed
		}
		a := &p.Attachments[i]
		b, err := json.Marshal(results[i])
		if err != nil {
			c.log.Error("result left out of the status", "network", a.Name, "err", err)
			continue
		}
		rep.Attached = append(rep.Attached, publish.Attached{
			Name: a.Name, IfName: a.IfName, Primary: a.Primary, Result: b, DeviceInfo: readDeviceInfo(a),
		})
	}
	failpoint.At("report.before")
	err := c.deps.Publisher.Publish(ctx, rep)
	failpoint.At("report.after")
	if err == nil {
		return nil
	}
	if !rep.Needed {
		c.log.Error("status and events not written", "pod", c.req.Pod(), "err", err)
		return nil
	}
	return fault.Wrap(err, fault.TryAgain,
		"check that the API server can be reached, and that Multus may patch or update pods/status",
		"the network status of pod %s is not written, and nothing was attached", c.req.Pod())
}

// requestsNetworks reports whether a pod requests networks: additional ones, or one that replaces the cluster network.
func requestsNetworks(p *plan.Plan) bool {
	return slices.ContainsFunc(p.Attachments, func(a plan.Attachment) bool { return !a.Primary || a.Request != nil })
}

// waitReady waits for readinessindicatorfile (behaviour D11, M1). It runs before the sandbox's lock is taken, so
// that no DEL has to wait for it.
func (c *call) waitReady(ctx context.Context) error {
	file := c.conf.ReadinessIndicatorFile
	if file == "" {
		return nil
	}
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, ReadyLimit)
	defer cancel()
	// Only one process of the node watches the file. The number of inotify instances of root is limited, and the kubelet
	// and the runtime need theirs, most of all at boot, when every pod waits. Once the file appears, the lock passes from
	// one waiting process to the next.
	lock, err := fsx.Acquire(waiting, c.deps.LockFile, "ready "+file)
	if err == nil {
		err = errors.Join(fsx.Await(waiting, file), lock.Release())
	}
	_, missing := os.Stat(file)
	switch {
	case missing == nil:
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case waiting.Err() != nil:
		err = missing
	}
	return fault.Wrap(err, fault.TryAgain, "look at the pods of the cluster network on this node",
		"have you checked that your default network is ready? still waiting for readinessindicatorfile @ %s", file)
}

// maxDeviceInfo is the maximum size of a device-info file. Larger files are not read.
const maxDeviceInfo = 256 << 10

// copyDeviceInfo copies the device plugin's device-info file to the path where the attachment's file is expected
// (behaviour H31). A missing file is not an error.
func copyDeviceInfo(a *plan.Attachment) {
	if a.DeviceInfo == "" {
		return
	}
	_ = os.Remove(a.DeviceInfo) // left by a crashed ADD (behaviour H35)
	if a.Resource == "" {
		return
	}
	from := filepath.Join(filepath.Dir(filepath.Dir(a.DeviceInfo)), "dp")
	b, err := fsx.ReadRegular(from, deviceFile(a.Resource, a.Device), maxDeviceInfo)
	if err != nil {
		return
	}
	if err := os.MkdirAll(filepath.Dir(a.DeviceInfo), 0o755); err == nil {
		_ = os.WriteFile(a.DeviceInfo, b, 0o444)
	}
}

// readDeviceInfo returns the device information that the device plugin or the delegate wrote (behaviour H33).
func readDeviceInfo(a *plan.Attachment) json.RawMessage {
	if a.DeviceInfo == "" {
		return nil
	}
	b, err := fsx.ReadRegular(filepath.Dir(a.DeviceInfo), filepath.Base(a.DeviceInfo), maxDeviceInfo)
	if err != nil || !json.Valid(b) {
		return nil
	}
	return b
}
