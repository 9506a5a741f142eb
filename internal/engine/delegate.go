package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/fault"
)

// delegateTries is how often Attach and Detach begin again because another operation has changed the sandbox. Usually
// that is an Apply for the same edit of the pod's annotation.
const delegateTries = 4

// Attach attaches one network to a running sandbox, as a client of the daemon's socket requests (behaviour R21), and
// returns its result in version 1.1.0 of CNI. d decides about the network. If the sandbox has it, the result is that of
// its ADD. The network is recorded before its first delegate runs, and undone if it cannot be attached. No network
// status is written. req and stateDir are those of Apply.
func (e *Engine) Attach(ctx context.Context, req *request.Request, stateDir string, d Differ, ifName string) (
	result json.RawMessage, err error,
) {
	err = e.delegated(ctx, req, stateDir, func(ctx context.Context, s *session.Session, records *ledger.Store) error {
		r, err := records.Read(req.ContainerID, req.IfName)
		if err != nil {
			return err
		}
		if running, err := runs(s, r); err != nil {
			return err
		} else if !running {
			return errGone
		}
		has, _ := r.Attached()
		changes, err := d.Diff(ctx, req, s.Conf, has)
		if err == nil {
			err = onlyAdds(changes, ifName)
		}
		if err != nil {
			return err
		}
		return e.whileLocked(ctx, s, records, r, changes, func(ap *applying) (err error) {
			result, err = ap.attachOne(ctx, ifName)
			return err
		})
	})
	return result, err
}

// Detach deletes one network of a running sandbox as it was recorded (behaviour R22). network is the name in its
// configuration, or "" for any. It does nothing if the sandbox does not have the network. It refuses to delete a
// network that the node's configuration requests.
func (e *Engine) Detach(ctx context.Context, req *request.Request, stateDir, ifName, network string) error {
	return e.delegated(ctx, req, stateDir, func(ctx context.Context, s *session.Session, records *ledger.Store) error {
		r, err := records.Read(req.ContainerID, req.IfName)
		if err != nil || r == nil {
			return err
		}
		if there, err := s.Netns.HasInterface(req.Netns, req.IfName); err != nil || !there {
			return err
		}
		return e.whileLocked(ctx, s, records, r, &plan.Changes{Pod: s.Pod()}, func(ap *applying) error {
			a := find(ap.record, ifName, network)
			if a == nil {
				return nil
			}
			if a.Primary || a.Owner == plan.OwnedByNode {
				return fault.DelegateKept.New(a.Name, ifName, req.Pod())
			}
			err := ap.remove(ctx, ifName)
			return errors.Join(err, ap.publish(ctx))
		})
	})
}

// CheckOne runs CHECK for one network of a running sandbox as it was recorded (behaviour R22). network is that of
// Detach.
func (e *Engine) CheckOne(ctx context.Context, req *request.Request, stateDir, ifName, network string) error {
	return e.delegated(ctx, req, stateDir, func(ctx context.Context, s *session.Session, records *ledger.Store) error {
		r, err := records.Read(req.ContainerID, req.IfName)
		if err != nil {
			return err
		}
		if r == nil {
			return errGone
		}
		return e.whileLocked(ctx, s, records, r, &plan.Changes{Pod: s.Pod()}, func(ap *applying) error {
			a := find(ap.record, ifName, network)
			if a == nil || a.Pending {
				return fault.DelegateAbsent.New(ifName, req.Pod())
			}
			if err := ap.Delegates(ap.record).Check(ctx, ap.record, a); err != nil {
				return fault.CheckFailed.Wrap(err, a.Name, a.IfName)
			}
			return nil
		})
	})
}

// delegated calls step, and calls it again while other operations change the sandbox.
func (e *Engine) delegated(ctx context.Context, req *request.Request, stateDir string,
	step func(context.Context, *session.Session, *ledger.Store) error,
) error {
	return e.change(ctx, req, stateDir, func(ctx context.Context, s *session.Session, records *ledger.Store) (err error) {
		for range delegateTries {
			if err = step(ctx, s, records); !errors.Is(err, ErrChanged) {
				break
			}
		}
		if errors.Is(err, errGone) {
			err = fault.SandboxUnchangeable.New(req.ContainerID)
		}
		return err
	})
}

// onlyAdds returns an error for changes of the daemon other than the addition of one interface.
func onlyAdds(c *plan.Changes, ifName string) error {
	if len(c.Remove) > 0 || len(c.Add) > 1 || len(c.Add) == 1 && c.Add[0].IfName != ifName {
		return fmt.Errorf("the daemon's answer changes more than interface %s", ifName)
	}
	return nil
}

// find returns the attachment of an interface, if it is one of the network, or nil.
func find(r *ledger.Record, ifName, network string) *ledger.Attachment {
	for i := range r.Attachments {
		if a := &r.Attachments[i]; a.IfName == ifName && (network == "" || a.Config.Name() == network) {
			return a
		}
	}
	return nil
}

// attachOne makes the addition, if there is one, and returns the result of the interface.
func (ap *applying) attachOne(ctx context.Context, ifName string) (json.RawMessage, error) {
	if i := ap.index(ifName); i >= 0 && ap.record.Attachments[i].Pending {
		if err := ap.remove(ctx, ifName); err != nil {
			return nil, fmt.Errorf("delete what is left of interface %s: %w", ifName, err)
		}
	}
	if len(ap.changes.Add) > 0 {
		planned := &ap.changes.Add[0]
		result, err := ap.add(ctx, planned)
		if err == nil {
			noteNetworks(ap.Sandbox, ap.record)
			ap.announce(planned, result)
		}
		if err = errors.Join(err, ap.publish(ctx)); err != nil {
			return nil, err
		}
	}
	a := find(ap.record, ifName, "")
	if a == nil || a.Pending {
		return nil, fmt.Errorf("the daemon's answer does not add interface %s, which the sandbox does not have", ifName)
	}
	run := ap.Delegates(ap.record)
	defer run.Close()
	b, err := run.Result(ap.record, a)
	if err != nil {
		return nil, err
	}
	cached, err := create.CreateFromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("decode the result of network %s: %w", a.Name, err)
	}
	converted, err := convert(cached, current.ImplementedSpecVersion)
	if err != nil {
		return nil, err
	}
	return json.Marshal(converted)
}
