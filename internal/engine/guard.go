package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/device"
	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
	"multus/internal/link"
)

// guardLimit is how long an operation waits for other operations that hold the lock on the node's devices.
const guardLimit = 10 * time.Second

// devicesKey names the lock on all devices of the node. An operation holds it while it inspects the devices and records
// which ones it will take, or while it renames devices. It is never held while a delegate runs. The holder waits for no
// other lock.
const devicesKey = "devices"

// record writes the plan to the ledger. Before that, it refuses a device that the node needs or that another pod holds,
// and stores the identity of each device that an attachment takes. From then on the device belongs to the pod: a
// concurrent ADD is rejected even before the delegate has moved the device.
func (c *call) record(ctx context.Context, p *plan.Plan) error {
	wanted, err := moved(p)
	if err != nil {
		return fault.Wrap(err, fault.BadConfig, "correct the configuration of the network", "pod %s was not attached",
			c.req.Pod())
	}
	if len(wanted) == 0 {
		return c.write(p)
	}
	// All records are read before the lock is taken, so that only those that change in the meantime are read under the
	// lock. An error is ignored here because it occurs again under the lock.
	_, _ = c.store.Holdings(c.deps.LockFile)
	return c.withDevices(ctx, func(node *link.Namespace) error {
		if err := c.judgeDevices(node, p, wanted); err != nil {
			return err
		}
		failpoint.At("devices.judged")
		return c.write(p)
	})
}

func (c *call) write(p *plan.Plan) error {
	if err := c.store.Write(p); err != nil {
		return fault.Wrap(err, fault.Internal, "make the state directory (cniDir) writable", "pod %s was not attached",
			c.req.Pod())
	}
	return nil
}

// want is a device that the attachment with this index takes away from the node.
type want struct {
	index int
	device.Reference
}

// moved returns the devices that a plan takes away from the node.
func moved(p *plan.Plan) ([]want, error) {
	var out []want
	for i := range p.Attachments {
		a := &p.Attachments[i]
		refs, err := device.References(a.Name, a.Config, a.RuntimeConfig)
		if err != nil {
			return nil, err
		}
		for _, r := range refs {
			if r.Use == device.Moves {
				out = append(out, want{i, r})
			}
		}
	}
	return out, nil
}

// withDevices runs fn while no other operation judges, records or renames devices of the node.
func (c *call) withDevices(ctx context.Context, fn func(node *link.Namespace) error) (err error) {
	waiting, cancel := context.WithTimeoutCause(ctx, guardLimit, fmt.Errorf("other operations took longer than %s",
		guardLimit))
	defer cancel()
	l, err := fsx.Acquire(waiting, c.deps.LockFile, devicesKey)
	if err != nil {
		return fault.Wrap(err, fault.TryAgain, "nothing: the runtime tries again",
			"pod %s: cannot lock the devices of the node",
			c.req.Pod())
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	failpoint.At("devices.locked")
	node, err := link.Open(link.NodeNamespace)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	return fn(node)
}

// judgeDevices judges the devices that a plan takes away. Before that it restores the names of devices that vanished
// pods held.
func (c *call) judgeDevices(node *link.Namespace, p *plan.Plan, wanted []want) error {
	inv, err := c.inventory(node)
	if err != nil {
		return err
	}
	renamed, err := c.restoreNames(node, inv)
	if err != nil {
		c.log.Error("cannot restore the name of a device that came back from a deleted pod", "err", err)
	}
	if renamed {
		if inv, err = c.inventory(node); err != nil {
			return err
		}
	}
	takers := map[string]string{}
	for _, w := range wanted {
		d, err := inv.Judge(w.Reference)
		if err != nil {
			return refused(err)
		}
		name := w.Address()
		if d != nil {
			name = d.Name
			p.Attachments[w.index].HostDevice = device.IdentityOf(d)
		}
		if name == "" || d == nil && w.AllowInUse {
			continue
		}
		if other, ok := takers[name]; ok {
			return fault.New(fault.BadConfig, "ask for another device in one of the two networks",
				"device %q of network %s is not free: network %s of the same pod takes it", name, w.Network, other)
		}
		takers[name] = w.Network
	}
	return nil
}

// inventory inspects the node's devices and what other sandboxes hold. own is what this sandbox holds.
func (c *call) inventory(node *link.Namespace, own ...device.Holding) (*device.Inventory, error) {
	holdings, err := c.store.Holdings(c.deps.LockFile)
	if err != nil {
		return nil, err
	}
	holdings = slices.DeleteFunc(holdings, func(k device.Holding) bool { return k.ContainerID == c.req.ContainerID })
	return device.Inspect(node, append(holdings, own...), device.ParseAddresses(c.conf.NodeAddresses))
}

// refused converts a refusal to a fault. docs/errors.md lists the texts:
//
//errors:row 7 <device> is not on this node; <what there is instead> => change "<key>" in <the network's definition>
//errors:row 7 <device> is not free: <reasons>; <what there is instead> => change "<key>" in <the network's definition>
//errors:row 7 <device> is not free: <reasons>; <what there is instead> => change "<key>" in <the network's definition>, or set "allowInUse": true in its config if you mean it
//errors:row 11 <device> is not free: <reasons>; <what there is instead> => wait until that pod is gone, or change "<key>" in <the network's definition>
//errors:row 7 <device> is <not there or not free>; <what there is instead> => exclude it from the devices that the kubelet assigns for network <network>
func refused(err error) error {
	var r *device.Refusal
	if !errors.As(err, &r) {
		return err
	}
	code := fault.BadConfig
	if r.Retry {
		code = fault.TryAgain
	}
	return fault.New(code, r.Next(), "%s", r.Error())
}

// addOne attaches one network. Before that it checks that the interface exists on which the attachment is to be
// created, because the error of a plugin ("Link not found") names neither the interface nor the network. An earlier
// attachment of the same pod may have created the interface.
func (c *call) addOne(ctx context.Context, run *execute.Runner, p *plan.Plan,
	a *plan.Attachment,
) (types.Result, bool, error) {
	if err := c.findMasters(p, a); err != nil {
		return nil, false, err
	}
	return run.Add(ctx, p, a)
}

func (c *call) findMasters(p *plan.Plan, a *plan.Attachment) (err error) {
	refs, err := device.References(a.Name, a.Config, a.RuntimeConfig)
	if err != nil {
		return err
	}
	refs = slices.DeleteFunc(refs,
		func(r device.Reference) bool { return r.Use != device.Shares || r.Later || r.AllowInUse })
	if len(refs) == 0 {
		return nil
	}
	node, err := link.Open(link.NodeNamespace)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	for _, r := range refs {
		if there, err := node.HasInterface(r.Value); err != nil || there {
			continue // an interface that cannot be looked up is left to the plugin
		}
		inv, err := c.inventory(node, ledger.HoldingsOf(p)...)
		if err != nil {
			return err
		}
		if _, err := inv.Judge(r); err != nil {
			return refused(err)
		}
	}
	return nil
}

// delOne detaches one network. The host-device plugin returns an error if the device is no longer in the pod, and so
// does every later DEL after one that was killed late. In that case no trace of the attachment is left, although libcni
// still has its result (multus-cni#669).
func (c *call) delOne(ctx context.Context, run *execute.Runner, p *plan.Plan, a *plan.Attachment) error {
	err := run.Del(ctx, p, a)
	if err == nil || a.HostDevice == nil || inSandbox(p.Netns, a) {
		return err
	}
	if noTrace, ok := errors.AsType[*execute.NoTraceError](err); ok {
		return noTrace
	}
	return &execute.NoTraceError{Err: err}
}

// inSandbox reports whether an attachment's device may be in the pod. It returns true if the namespace is gone, because
// it is then unknown what its plugins have freed.
func inSandbox(netns string, a *plan.Attachment) bool {
	ns, err := link.Open(netns)
	if err != nil {
		return true
	}
	devices, err := ns.Devices()
	if errors.Join(err, ns.Close()) != nil {
		return true
	}
	return slices.ContainsFunc(devices, func(d link.Device) bool { return d.Name == a.IfName || a.HostDevice.Is(&d) })
}

// restorePlanNames restores the names of a plan's devices after their delegates were deleted. A delegate whose
// namespace is gone does nothing, and the kernel returns the device to the node under its name in the pod. A name that
// another interface has taken in the meantime is not an error.
func (c *call) restorePlanNames(ctx context.Context, p *plan.Plan) error {
	holdings := ledger.HoldingsOf(p)
	if !slices.ContainsFunc(holdings, hasDevice) {
		return nil
	}
	return c.withDevices(ctx, func(node *link.Namespace) error {
		inv, err := device.Inspect(node, holdings, nil)
		if err == nil {
			_, err = c.restoreNames(node, inv)
		}
		return err
	})
}

// sweepDevices is restorePlanNames for the recorded attachments of all other sandboxes. It is for GC.
func (c *call) sweepDevices(ctx context.Context) error {
	holdings, err := c.store.Holdings(c.deps.LockFile)
	if err != nil || !slices.ContainsFunc(holdings, hasDevice) {
		return err
	}
	return c.withDevices(ctx, func(node *link.Namespace) error {
		inv, err := c.inventory(node)
		if err == nil {
			_, err = c.restoreNames(node, inv)
		}
		return err
	})
}

// hasDevice reports whether a holding has a device of the node.
func hasDevice(c device.Holding) bool { return c.Device != nil }

// restoreNames restores the names of devices that came back from vanished pods, and reports whether it renamed any.
func (c *call) restoreNames(node *link.Namespace, inv *device.Inventory) (renamed bool, err error) {
	var errs []error
	for _, r := range inv.Returned() {
		if r.Taken {
			c.log.Error("cannot restore the name of a device that came back from a deleted pod: another interface has it",
				"device", r.Name, "called", r.Device.Name, "claim", r.Holding.String())
			continue
		}
		if err := node.Rename(r.Device.Index, r.Device.Name, r.Name); err != nil {
			errs = append(errs, fmt.Errorf("restore the name %q of a device of %s: %w", r.Name, r.Holding, err))
			continue
		}
		renamed = true
		failpoint.At("devices.renamed")
		c.log.Warn("restored the name of a device that came back from a deleted pod", "device", r.Name, "called",
			r.Device.Name, "claim",
			r.Holding.String())
	}
	return renamed, errors.Join(errs...)
}
