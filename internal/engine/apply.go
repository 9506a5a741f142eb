package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/cniresult"
	"multus/internal/config"
	"multus/internal/engine/detach"
	"multus/internal/engine/hostdevice"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

// ApplyLimit bounds an Apply, the wait for the lock included and the undo of an attachment excluded.
const ApplyLimit = 90 * time.Second

// Differ decides what to change in a running sandbox. has is what it has. The errors are those of plan.Resolver.Diff.
type Differ interface {
	Diff(ctx context.Context, req *request.Request, conf *config.Plugin, has []plan.Attached) (*plan.Changes, error)
}

// ErrChanged is returned by Apply if another operation has changed the sandbox after it was compared. It changed
// nothing.
var ErrChanged = errors.New("another operation has changed the sandbox")

// Apply makes the networks of a running sandbox those that its pod requests now (behaviour R1-R10): what it no longer
// requests is deleted, and then what it lacks is attached. req is the ADD of the sandbox as its record describes it.
// stateDir is that of the record, or "" for the one of the configuration.
//
// A sandbox that is gone, or whose DEL has begun, is left alone. Each network is recorded before its first delegate
// runs, so that a DEL deletes it with the others. A network that cannot be attached is undone and does not keep the
// others from being changed. The pod's network status and its events are then published. The error is about the
// networks that are not as requested: the caller repeats Apply later.
func (e *Engine) Apply(ctx context.Context, req *request.Request, stateDir string) error {
	return e.change(ctx, req, stateDir, e.apply)
}

// change calls step with the session and the records of a request about a running sandbox, for at most ApplyLimit.
func (e *Engine) change(ctx context.Context, req *request.Request, stateDir string,
	step func(context.Context, *session.Session, *ledger.Store) error,
) error {
	s, err := e.begin(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, ApplyLimit, fmt.Errorf("it took longer than %s", ApplyLimit))
	defer cancel()
	return withPod(req, step(ctx, s, s.LedgerIn(stateDir)))
}

func (e *Engine) apply(ctx context.Context, s *session.Session, records *ledger.Store) error {
	r, err := records.Read(s.Request.ContainerID, s.Request.IfName)
	if err != nil {
		return err
	}
	if running, err := runs(s, r); err != nil || !running {
		return err
	}
	has, pending := r.Attached()
	changes, err := e.deps.Differ.Diff(ctx, s.Request, s.Conf, has)
	if err != nil {
		return rejected(ctx, s, err)
	}
	if changes.None() && !pending {
		return nil
	}
	failpoint.At("apply.planned")
	err = e.whileLocked(ctx, s, records, r, changes, func(ap *applying) error {
		ap.changed = changes.Stale
		return ap.all(ctx, has)
	})
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// errGone is returned by whileLocked for a sandbox that is gone, or whose record permits no changes.
var errGone = errors.New("the sandbox is gone or is being deleted")

// whileLocked calls change with the lock of a running sandbox held. r is the record with which changes were decided. It
// returns ErrChanged if the sandbox has other attachments by now.
func (e *Engine) whileLocked(ctx context.Context, s *session.Session, records *ledger.Store, r *ledger.Record,
	changes *plan.Changes, change func(*applying) error,
) (err error) {
	if len(changes.Add) > 0 {
		place, lockErr := e.lockPlace(ctx, s.Request.ContainerID)
		if lockErr != nil {
			return lockErr
		}
		defer func() { err = errors.Join(err, place.Release()) }()
	}
	b, err := s.Lock(ctx, records, LockLimit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Release()) }()
	now, err := b.Read()
	if err != nil {
		return err
	}
	running, err := runs(s, now)
	switch {
	case err != nil:
		return err
	case !running:
		return errGone
	case !sameAttachments(r, now):
		return ErrChanged
	}
	return change(&applying{Sandbox: b, changes: changes, record: b.Current(now)})
}

// runs reports whether a sandbox is attached to its cluster network and its record permits changes.
func runs(s *session.Session, r *ledger.Record) (bool, error) {
	if r == nil || r.Unchangeable(s.Boot) != "" {
		return false, nil
	}
	return s.Netns.HasInterface(s.Request.Netns, s.Request.IfName)
}

// sameAttachments reports whether two readings of a record have the same attachments.
func sameAttachments(a, b *ledger.Record) bool {
	return slices.EqualFunc(a.Attachments, b.Attachments, func(x, y ledger.Attachment) bool {
		return x.Name == y.Name && x.IfName == y.IfName && x.Pending == y.Pending
	})
}

// rejected publishes that a pod's networks stay as they are because what it requests cannot be read (behaviour R9). An
// error that may pass is not published: the caller repeats Apply.
func rejected(ctx context.Context, s *session.Session, err error) error {
	if fault.ToCNI(err).Code == fault.TryAgain {
		return err
	}
	rep := &publish.Report{
		Command: request.Update, Pod: s.Pod(), ContainerID: s.Request.ContainerID, Time: time.Now().UnixNano(),
		Events: []publish.Event{warning(publish.InterfaceAddRejected, err.Error())},
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishLimit)
	defer cancel()
	return errors.Join(err, s.Publisher.Publish(ctx, rep))
}

// applying is the change of one running sandbox, whose lock is held.
type applying struct {
	*session.Sandbox
	changes *plan.Changes
	// record is the record as it is now on disk, or nil if it can no longer be read. Nothing more is changed then.
	record *ledger.Record
	events []publish.Event
	// changed reports whether the pod's network status has to be written.
	changed bool
	errs    []error
}

// read reads the record again. The positions of its attachments may have changed.
func (ap *applying) read() error {
	ap.record = nil
	r, err := ap.Read()
	if err == nil && r == nil {
		err = errors.New("the record of the sandbox is gone")
	}
	if err == nil {
		ap.record = ap.Current(r)
	}
	return err
}

// each calls step for the numbers below n, for as long as the record is known.
func (ap *applying) each(n int, step func(i int)) {
	for i := 0; i < n && ap.record != nil; i++ {
		step(i)
	}
}

// all makes the changes, and publishes what they were. has is what Diff was given.
func (ap *applying) all(ctx context.Context, has []plan.Attached) error {
	leftovers := ap.leftovers()
	ap.each(len(leftovers), func(i int) {
		if err := ap.remove(ctx, leftovers[i]); err != nil {
			ap.fail(publish.FailedRemovingInterface, fmt.Errorf("interface %s: %w", leftovers[i], err))
		}
	})
	ap.each(len(ap.changes.Remove), func(i int) {
		a := &has[ap.changes.Remove[i]]
		ap.removed(a, ap.remove(ctx, a.IfName))
	})
	ap.each(len(ap.changes.Add), func(i int) {
		a := &ap.changes.Add[i]
		if ap.index(a.IfName) >= 0 {
			return // its interface is pending, and the error above is the reason
		}
		result, err := ap.add(ctx, a)
		ap.added(a, result, err)
	})
	if ap.record != nil && len(ap.changes.Add) > 0 {
		noteNetworks(ap.Sandbox, ap.record)
	}
	for _, u := range ap.changes.Refused {
		ap.fail(publish.FailedAddingInterface, u.Err)
	}
	for _, i := range ap.changes.Ignored {
		ap.events = append(ap.events, warning(publish.InterfaceChangeIgnored, i.String()))
	}
	failpoint.At("apply.done")
	return errors.Join(append(ap.errs, ap.publish(ctx))...)
}

// leftovers returns the interfaces of the attachments that a killed process or a failure has left pending, in reverse.
func (ap *applying) leftovers() (ifNames []string) {
	for i := range slices.Backward(ap.record.Attachments) {
		if a := &ap.record.Attachments[i]; a.Pending {
			ifNames = append(ifNames, a.IfName)
		}
	}
	return ifNames
}

func (ap *applying) index(ifName string) int {
	return slices.IndexFunc(ap.record.Attachments, func(a ledger.Attachment) bool { return a.IfName == ifName })
}

// remove deletes an attachment as it was recorded. Its definition is not needed. The attachment is pending before its
// first delegate runs: if its network is requested again after that, what is left is deleted before it is attached.
func (ap *applying) remove(ctx context.Context, ifName string) error {
	i := ap.index(ifName)
	if i < 0 {
		return nil
	}
	a := &ap.record.Attachments[i]
	if !a.Pending {
		if err := ap.Ledger.MarkPending(ap.record, a); err != nil {
			return fault.StateNotWritten.Wrap(err, ap.Request.Pod())
		}
	}
	failpoint.At("apply.remove")
	err := detach.One(ctx, ap.Sandbox, ap.record, i, a.Pending || a.Reattaching)
	return errors.Join(err, ap.read())
}

func (ap *applying) removed(a *plan.Attached, err error) {
	ap.changed = true
	if err != nil {
		ap.fail(publish.FailedRemovingInterface, fmt.Errorf("network %s (interface %s): %w", a.Name, a.IfName, err))
		return
	}
	ap.events = append(ap.events, publish.Event{
		Type: publish.Normal, Reason: publish.RemovedInterface, Message: fmt.Sprintf("Remove %s from %s", a.IfName, a.Name),
		ContainerID: ap.Request.ContainerID,
	})
}

// add attaches one network. After an error nothing of it is left, or its element of the record stays pending.
func (ap *applying) add(ctx context.Context, planned *plan.Attachment) (types.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := ap.extend(ctx, planned); err != nil {
		return nil, err
	}
	if err := ap.read(); err != nil {
		return nil, err
	}
	failpoint.At("apply.recorded")
	i := ap.index(planned.IfName)
	a := &ap.record.Attachments[i]
	result, begun, err := ap.attach(ctx, a)
	if err == nil {
		err = ap.Ledger.MarkAttached(ap.record, a)
	}
	if err != nil {
		err = failed(a, err)
		if undone := ap.undo(ctx, i, begun); undone != nil {
			err = errors.Join(err, fmt.Errorf("undo of network %s is incomplete and is repeated: %w", a.Name, undone))
		}
	}
	return result, errors.Join(err, ap.read())
}

// attach runs the delegates of a recorded attachment. begun reports whether it needs a DEL, also after an error.
func (ap *applying) attach(ctx context.Context, a *ledger.Attachment) (result types.Result, begun bool, err error) {
	run := ap.Delegates(ap.record)
	defer run.Close()
	copyDeviceInfo(a)
	start := time.Now()
	if err = hostdevice.CheckMasters(ap.Sandbox, ap.record, a); err == nil {
		result, begun, err = run.Add(ctx, ap.record, a)
	}
	ap.Timed(a, start, time.Since(start), err)
	failpoint.At("apply.attached")
	if err == nil {
		ap.Verbose(ctx, "Add", a, result, time.Since(start))
	}
	return result, begun, err
}

// extend checks an attachment, and records it.
func (ap *applying) extend(ctx context.Context, planned *plan.Attachment) error {
	added := *planned
	for i := range ap.record.Attachments {
		if stage := ap.record.Attachments[i].Stage; stage > 0 {
			added.Stage = max(added.Stage, stage+1) // the record has stages
		}
	}
	one := ledger.NewRecord(&plan.Plan{
		ContainerID: ap.record.ContainerID, Netns: ap.record.Netns,
		Dirs: plan.Dirs{Binary: ap.record.BinDir}, Attachments: []plan.Attachment{added},
	})
	if err := ap.Netns.CheckFree(one); err != nil {
		return err
	}
	run := ap.Delegates(ap.record)
	defer run.Close()
	if err := chooseVersions(ctx, run, one); err != nil {
		return err
	}
	if err := readable(ap.Session, one); err != nil {
		return err
	}
	return hostdevice.Hold(ctx, ap.Sandbox, one, func() error {
		if err := ap.Ledger.Extend(one, &one.Attachments[0]); err != nil {
			return fault.StateNotWritten.Wrap(err, ap.Request.Pod())
		}
		return nil
	})
}

// undo deletes a failed attachment. It has a time limit of its own because the operation may have ended already.
func (ap *applying) undo(ctx context.Context, i int, begun bool) error {
	if !begun {
		return ap.Ledger.Drop(ap.record, &ap.record.Attachments[i])
	}
	ctx, cancel := undoContext(ctx)
	defer cancel()
	return detach.One(ctx, ap.Sandbox, ap.record, i, true)
}

func undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), detach.UndoLimit,
		fmt.Errorf("it took longer than %s", detach.UndoLimit))
}

func (ap *applying) added(a *plan.Attachment, result types.Result, err error) {
	if err != nil {
		ap.fail(publish.FailedAddingInterface, err)
		return
	}
	ap.changed = true
	ap.announce(a, result)
}

// announce adds the event about a network that was attached.
func (ap *applying) announce(a *plan.Attachment, result types.Result) {
	b, err := json.Marshal(result)
	if err == nil {
		var e publish.Event
		if e, err = publish.Added(a.Name, a.IfName, b, ap.Request.ContainerID); err == nil {
			ap.events = append(ap.events, e)
		}
	}
	if err != nil {
		ap.Log.Warn("event about an attached network left out", "network", a.Name, "err", err)
	}
}

// fail records a failure as an event. Equal ones are written once a minute, because Apply is repeated.
func (ap *applying) fail(reason string, err error) {
	ap.events = append(ap.events, warning(reason, err.Error()))
	ap.errs = append(ap.errs, err)
}

func warning(reason, message string) publish.Event {
	return publish.Event{Type: publish.Warning, Reason: reason, Message: message, Seldom: true}
}

// publish publishes the events and, if anything was changed, the network status of the whole sandbox.
func (ap *applying) publish(ctx context.Context) error {
	rep := &publish.Report{
		Command: request.Update, Pod: ap.changes.Pod, ContainerID: ap.Request.ContainerID, Timings: ap.Timings,
		Time: time.Now().UnixNano(), Events: ap.events, Unready: publish.Lacking(ap.missing()),
	}
	if ap.changed && ap.record != nil {
		var lost []string
		rep.Netns, rep.Needed = ap.record.Netns, true
		if rep.Attached, lost = ap.status(); rep.Unready == nil {
			rep.Unready = publish.Lost(lost)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishLimit)
	defer cancel()
	failpoint.At("apply.report")
	if err := ap.Publisher.Publish(ctx, rep); err != nil {
		return fault.StatusLost.Wrap(err, ap.Request.Pod())
	}
	return nil
}

// missing names the networks that the pod requests and does not have.
func (ap *applying) missing() (networks []string) {
	name := func(network, ifName string) {
		if ifName != "" {
			network += " (interface " + ifName + ")"
		}
		networks = append(networks, network)
	}
	for i := range ap.changes.Add {
		a := &ap.changes.Add[i]
		if ap.record != nil {
			if at := ap.index(a.IfName); at >= 0 && !ap.record.Attachments[at].Pending {
				continue
			}
		}
		name(a.Name, a.IfName)
	}
	for _, u := range ap.changes.Refused {
		name(u.Name, u.IfName)
	}
	return networks
}

// status returns what is attached, as the kernel has it now, and the interfaces that are lost.
func (ap *applying) status() (attached []publish.Attached, lost []string) {
	o, err := observe(ap.Sandbox, ap.record)
	if err != nil {
		ap.Log.Error("network left out of the status, or not as it is now", "err", err)
	}
	if attached, lost, err = o.Actual(nil); err != nil {
		ap.Log.Error("network left out of the status: its cached result cannot be read", "err", err)
		return slices.DeleteFunc(o.Attached, func(a publish.Attached) bool {
			_, err := cniresult.Parse(a.Result)
			return err != nil
		}), nil
	}
	return attached, lost
}
