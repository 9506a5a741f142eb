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
	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
)

// Add attaches a pod to its networks and returns the cluster network's result (behaviour.md D.1). When it
// fails, nothing is left attached, or the ledger says what still is.
func (e *Engine) Add(ctx context.Context, req *request.Request) (types.Result, error) {
	c, err := e.begin(req)
	if err != nil {
		return nil, err
	}
	res, err := c.add(ctx)
	if err == nil {
		return res, nil
	}
	c.tell(ctx, err)
	return nil, c.inPod(err)
}

// tell puts the failure of an ADD into the pod's events, in the words that the runtime gets.
func (c *call) tell(ctx context.Context, err error) {
	pod := c.pod()
	if !c.conf.FailureEvents || pod.Name == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellLimit)
	defer cancel()
	perr := c.deps.Publisher.Publish(ctx, &publish.Report{
		Command: request.Add, Pod: pod, ContainerID: c.req.ContainerID,
		Failure: &publish.Failure{Tell: true, Message: c.ofPod(err).Error()},
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

// failed names the network of a failed attachment (behaviour.md M2) and keeps the delegate's code (D5). An error in the
// configuration that was found without the delegate says all that there is to say, and whoever knows better what to do
// says that.
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

// clearLeftover frees what an earlier ADD of the same container left, that was killed and never deleted. A
// container that is attached is left alone: Free refuses it.
//
// What such an ADD left has a record. Without one, as for every new container, libcni's results are not looked through.
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
	if attached, err := execute.HasInterface(c.req.Netns, c.req.IfName); attached || err != nil {
		return err
	}
	if r.Progress.Undone && !r.Damaged {
		return c.takeBack(ctx, c.planFor(r)) // that ADD has deleted everything itself
	}
	c.log.Warn("freeing what an earlier ADD of this container left")
	err = c.freeRecord(ctx, r)
	c.publishGivenUp(ctx, c.pod())
	return err
}

// undo deletes the attachments that were begun, in reverse order (behaviour.md D28). The request may have
// ended already, so it has a time of its own. The record stays: the runtime's DEL, which follows every failed ADD, goes
// over it once more; it is told that nothing was left in the middle.
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
	if err := errors.Join(err, c.store.Note(p.ContainerID, progress)); err != nil {
		c.log.Error("undo of a failed ADD is incomplete; DEL goes on with it", "err", err)
	}
	failpoint.At("undo.after")
}

// report publishes what was attached. After a failure there are only events (behaviour.md D25). It returns an error
// only if nothing had failed before and the status of a pod with networks is lost: programs that go by it, such as the
// reconciler of whereabouts, would take the pod's addresses for free (behaviour D122). A plain pod is not failed for
// its status.
func (c *call) report(ctx context.Context, p *plan.Plan, results []types.Result, failure error) error {
	if p.Pod.Name == "" {
		return nil
	}
	rep := &publish.Report{
		Command: request.Add, ContainerID: c.req.ContainerID, Netns: p.Netns, Timings: c.timings, Time: time.Now().UnixNano(),
		Pod:    publish.Pod{Namespace: p.Pod.Namespace, Name: p.Pod.Name, UID: p.Pod.UID},
		Wait:   c.conf.PlainPods != config.PlainLocal || !plan.Plain(c.req, c.conf),
		Needed: failure == nil && asksForNetworks(p),
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

// asksForNetworks reports whether a pod has more than the cluster network as it is, also if only in place of it.
func asksForNetworks(p *plan.Plan) bool {
	return slices.ContainsFunc(p.Attachments, func(a plan.Attachment) bool { return !a.Primary || a.Request != nil })
}

// waitReady waits for the cluster network's own sign that it is ready (behaviour.md D11, M1). It is before the
// sandbox's lock, so that no DEL waits for it.
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
	// One for all of the node: each watch is one of the few that the kernel grants root, and kubelet and the runtime need
	// theirs, most of all at a boot, when every pod waits. Whoever sees the file lets the next one look.
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

// maxDeviceInfo is the size of a device-info file that is still read.
const maxDeviceInfo = 256 << 10

// copyDeviceInfo puts the device plugin's information where the attachment's is expected
// (behaviour.md H31). No information is nothing to say.
func copyDeviceInfo(a *plan.Attachment) {
	if a.DeviceInfo == "" {
		return
	}
	_ = os.Remove(a.DeviceInfo) // a crash may have left one (H35 [quirk])
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

// readDeviceInfo returns what the device plugin or the delegate wrote (behaviour.md H33).
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
