// Package hostdevice protects the devices of the node: it refuses one that the node needs or that another pod holds,
// records who holds which, and restores the names of devices that came back from pods that vanished. What may be taken
// is decided in package device; the delegates move the devices. It is imported by the engine, detach and reap.
package hostdevice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"multus/internal/device"
	"multus/internal/engine/ledger"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
	"multus/internal/link"
)

// guardLimit is how long an operation waits for other operations that hold the lock on the node's devices.
const guardLimit = 10 * time.Second

// LockKey names the lock on all devices of the node. An operation holds it while it inspects the devices and records
// which ones it will take, or while it renames devices. It is never held while a delegate runs. The holder waits for no
// other lock.
const LockKey = "devices"

// Hold runs write, which records the attachments of r, after it has refused a device that the node needs or that
// another pod holds, and has set the HostDevice of each attachment that takes a device. Once the record is written, the
// device belongs to the pod: a concurrent ADD is rejected even before the delegate has moved the device.
func Hold(ctx context.Context, b *session.Sandbox, r *ledger.Record, write func() error) error {
	wanted, err := moved(r)
	if err != nil {
		return fault.DeviceConfigInvalid.Wrap(err, b.Request.Pod())
	}
	if len(wanted) == 0 {
		return write()
	}
	// All records are read before the lock is taken, so that only those that change in the meantime are read under the
	// lock. An error is ignored here because it occurs again under the lock.
	_, _ = b.Ledger.Holdings(b.LockFile)
	return withDevices(ctx, b.Session, func(node *link.Namespace) error {
		if err := judge(b, node, r, wanted); err != nil {
			return err
		}
		failpoint.At("devices.judged")
		return write()
	})
}

// want is a device that the attachment with this index takes away from the node.
type want struct {
	index int
	device.Reference
}

// moved returns the devices that the attachments of a record take away from the node.
func moved(r *ledger.Record) ([]want, error) {
	var out []want
	for i := range r.Attachments {
		a := &r.Attachments[i]
		refs, err := device.References(a.Name, a.Config, a.RuntimeConfig)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			if ref.Use == device.Moves {
				out = append(out, want{i, ref})
			}
		}
	}
	return out, nil
}

// withDevices runs fn while no other operation judges, records or renames devices of the node.
func withDevices(ctx context.Context, s *session.Session, fn func(node *link.Namespace) error) (err error) {
	waiting, cancel := context.WithTimeoutCause(ctx, guardLimit, fmt.Errorf("other operations took longer than %s",
		guardLimit))
	defer cancel()
	l, err := fsx.Acquire(waiting, s.LockFile, LockKey)
	if err != nil {
		return fault.DevicesLocked.Wrap(err, s.Request.Pod())
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

// judge judges the devices that a record takes away, and sets the HostDevice of its attachments. Before that it
// restores the names of devices that vanished pods held.
func judge(b *session.Sandbox, node *link.Namespace, r *ledger.Record, wanted []want) error {
	inv, err := inventory(b.Session, b.Ledger, node)
	if err != nil {
		return err
	}
	renamed, err := restoreNames(b.Log, node, inv)
	if err != nil {
		b.Log.Error("cannot restore the name of a device that came back from a deleted pod", "err", err)
	}
	if renamed {
		if inv, err = inventory(b.Session, b.Ledger, node); err != nil {
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
			r.Attachments[w.index].HostDevice = device.IdentityOf(d)
		}
		if name == "" || d == nil && w.AllowInUse {
			continue
		}
		if other, ok := takers[name]; ok {
			return fault.DeviceTakenTwice.New(name, w.Network, other)
		}
		takers[name] = w.Network
	}
	return nil
}

// inventory inspects the node's devices and what other sandboxes hold. own is what this sandbox holds.
func inventory(s *session.Session, records *ledger.Store, node *link.Namespace, own ...device.Holding) (
	*device.Inventory, error,
) {
	holdings, err := records.Holdings(s.LockFile)
	if err != nil {
		return nil, err
	}
	holdings = slices.DeleteFunc(holdings, func(k device.Holding) bool { return k.ContainerID == s.Request.ContainerID })
	return device.Inspect(node, append(holdings, own...), device.ParseAddresses(s.Conf.NodeAddresses))
}

// refused converts a refusal to the fault with its texts.
func refused(err error) error {
	r, ok := errors.AsType[*device.Refusal](err)
	if !ok {
		return err
	}
	id := fault.DeviceInUse
	switch {
	case r.Retry:
		id = fault.DeviceHeld
	case r.Reference.Given:
		id = fault.DeviceAssigned
	case len(r.Reasons) == 0:
		id = fault.DeviceMissing
	case r.Reasons[0].Kind == device.Immovable:
		id = fault.DeviceImmovable
	}
	return id.Text(r.Error(), r.Next())
}

// CheckMasters returns an error if an interface does not exist on which an attachment is to be created. The error of a
// plugin ("Link not found") names neither the interface nor the network. An earlier attachment of the same pod may have
// created the interface.
func CheckMasters(b *session.Sandbox, r *ledger.Record, a *ledger.Attachment) (err error) {
	refs, err := device.References(a.Name, a.Config, a.RuntimeConfig)
	if err != nil {
		return err
	}
	refs = slices.DeleteFunc(refs,
		func(ref device.Reference) bool { return ref.Use != device.Shares || ref.Later || ref.AllowInUse })
	if len(refs) == 0 {
		return nil
	}
	node, err := link.Open(link.NodeNamespace)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	for _, ref := range refs {
		if there, err := node.HasInterface(ref.Value); err != nil || there {
			continue // an interface that cannot be looked up is left to the plugin
		}
		inv, err := inventory(b.Session, b.Ledger, node, r.Holdings()...)
		if err != nil {
			return err
		}
		if _, err := inv.Judge(ref); err != nil {
			return refused(err)
		}
	}
	return nil
}

// InSandbox reports whether an attachment's device may be in the pod. It returns true if the namespace is gone, because
// it is then unknown what its plugins have freed.
func InSandbox(netns string, a *ledger.Attachment) bool {
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

// RestoreNames restores the names of a record's devices after their delegates were deleted. A delegate whose namespace
// is gone does nothing, and the kernel returns the device to the node under its name in the pod. A name that another
// interface has taken in the meantime is not an error.
func RestoreNames(ctx context.Context, s *session.Session, r *ledger.Record) error {
	holdings := r.Holdings()
	if !slices.ContainsFunc(holdings, hasDevice) {
		return nil
	}
	return withDevices(ctx, s, func(node *link.Namespace) error {
		inv, err := device.Inspect(node, holdings, nil)
		if err == nil {
			_, err = restoreNames(s.Log, node, inv)
		}
		return err
	})
}

// RestoreAll is RestoreNames for the recorded attachments of all other sandboxes of a ledger. It is for GC.
func RestoreAll(ctx context.Context, s *session.Session, records *ledger.Store) error {
	holdings, err := records.Holdings(s.LockFile)
	if err != nil || !slices.ContainsFunc(holdings, hasDevice) {
		return err
	}
	return withDevices(ctx, s, func(node *link.Namespace) error {
		inv, err := inventory(s, records, node)
		if err == nil {
			_, err = restoreNames(s.Log, node, inv)
		}
		return err
	})
}

// hasDevice reports whether a holding has a device of the node.
func hasDevice(c device.Holding) bool { return c.Device != nil }

// restoreNames restores the names of devices that came back from vanished pods, and reports whether it renamed any.
func restoreNames(log *slog.Logger, node *link.Namespace, inv *device.Inventory) (renamed bool, err error) {
	var errs []error
	for _, r := range inv.Returned() {
		if r.Taken {
			log.Error("cannot restore the name of a device that came back from a deleted pod: another interface has it",
				"device", r.Name, "called", r.Device.Name, "claim", r.Holding.String())
			continue
		}
		if err := node.Rename(r.Device.Index, r.Device.Name, r.Name); err != nil {
			errs = append(errs, fmt.Errorf("restore the name %q of a device of %s: %w", r.Name, r.Holding, err))
			continue
		}
		renamed = true
		failpoint.At("devices.renamed")
		log.Warn("restored the name of a device that came back from a deleted pod", "device", r.Name, "called",
			r.Device.Name, "claim",
			r.Holding.String())
	}
	return renamed, errors.Join(errs...)
}
