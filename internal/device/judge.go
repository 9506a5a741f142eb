package device

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"multus/internal/link"
)

// Refusal is the error for a plugin that cannot have the device that its network requests. Retry reports whether a pod
// holds the device, so that the same call may succeed later.
type Refusal struct {
	Reference Reference
	// Device is the name of the device on the node, or "" if the node does not have the device.
	Device string
	// Reasons lists why the device is not free. If it is empty, the device does not exist.
	Reasons []Reason
	Retry   bool
	// Holder is the sandbox that holds the device, or nil if that is not the reason.
	Holder *Holding
	// Instead names alternatives.
	Instead []string
}

// Error returns a message with the device, the reasons and the alternatives.
func (r *Refusal) Error() string {
	what := r.Reference.String()
	if r.Reference.Key != "device" && r.Device != "" {
		what = fmt.Sprintf("device %q (%s)", r.Device, what)
	}
	why := "is not on this node"
	if len(r.Reasons) > 0 {
		texts := make([]string, len(r.Reasons))
		for i, reason := range r.Reasons {
			texts[i] = reason.Text
		}
		why = "is not free: " + strings.Join(texts, "; ")
	}
	instead := "free devices of this node: " + list(r.Instead)
	switch {
	case r.Reference.Use == Shares:
		instead = "interfaces of this node: " + list(r.Instead)
	case len(r.Instead) == 0:
		instead = "no device of this node is free"
	}
	return fmt.Sprintf("%s %s; %s", what, why, instead)
}

// Next returns what the reader can do.
func (r *Refusal) Next() string {
	change := fmt.Sprintf("change %q in %s", r.Reference.Key, r.Reference.definition())
	if r.Reference.Given {
		change = fmt.Sprintf("exclude it from the devices that the kubelet assigns for network %s", r.Reference.Network)
	}
	switch {
	case len(r.Reasons) == 0 || r.Reasons[0].Kind == Immovable:
		return change
	case r.Retry:
		return "wait until that pod is gone, or " + change
	}
	return change + `, or set "allowInUse": true in its config if you mean it`
}

// Judge returns the device to which r refers, or a *Refusal if the plugin cannot have it. Judge returns nil without an
// error if the device has no interface because a user-space driver uses it and no pod holds it, or if the device may
// exist when the plugin runs.
func (inv *Inventory) Judge(r Reference) (*link.Device, error) {
	refusal := &Refusal{Reference: r}
	d, err := inv.resolve(&r)
	switch {
	case r.AllowInUse:
		return d, nil // a missing device is left to the plugin to report
	case r.Use == Shares:
		if err == nil || r.Later {
			return d, nil
		}
		refusal.Instead = inv.masters()
		return nil, refusal
	case err == nil:
		refusal.Device, refusal.Reasons = d.Name, inv.Reasons(d)
		if len(refusal.Reasons) == 0 {
			return d, nil
		}
		refusal.Holder = inv.busy(d)
		refusal.Retry = refusal.Holder != nil
	default:
		userspace := errors.Is(err, errUserspace)
		holder := inv.holder(&r, userspace)
		if holder == nil && (r.Later || errors.Is(err, errDriverless)) {
			return nil, nil //nolint:nilnil // see above: nil means that there is no interface
		}
		if holder != nil {
			refusal.Reasons, refusal.Retry, refusal.Holder = []Reason{{Kind: Held, Text: held(holder)}}, true, holder
			if holder.Device != nil {
				refusal.Device = holder.Device.Name
			}
			if userspace {
				refusal.Instead = inv.freeUserspace()
				return nil, refusal
			}
		}
	}
	refusal.Instead = inv.Free()
	if r.Address() != "" {
		refusal.Instead = inv.freeHardware()
	}
	return nil, refusal
}

// holder returns the sandbox that holds a device that is not on the node, or nil. It prefers a sandbox whose namespace
// has the interface to one that is dead, because a device may have been given to several pods in turn. Records of
// today's Multus do not contain the device. For these, it compares what their plugins requested: the same name or the
// same address. A device with a user-space driver is in no namespace: it is held by the live sandbox to which it was
// given, and never by a dead one.
func (inv *Inventory) holder(r *Reference, userspace bool) *Holding {
	var dead *Holding
	for i := range inv.Holdings {
		h := &inv.Holdings[i]
		if !h.has(r) {
			continue
		}
		if h.Attached || h.Busy || userspace && !h.Gone && !h.Undone {
			return h
		}
		if userspace {
			continue
		}
		if h.Gone && dead == nil {
			dead = h
		}
	}
	return dead
}

// has reports whether a holding is on the device of a reference.
func (h *Holding) has(r *Reference) bool {
	id := h.Device
	if id == nil {
		for _, own := range h.References {
			if own.Use == Moves && (own.Key == r.Key && own.Value == r.Value || own.Address() != "" &&
				own.Address() == r.Address()) {
				return true
			}
		}
		return false
	}
	switch r.Key {
	case "device":
		return id.Name == r.Value
	case "hwaddr":
		return strings.EqualFold(id.MAC, r.Value) || strings.EqualFold(id.Permanent, r.Value)
	case "kernelpath":
		return id.Bus != "" && slices.Contains(strings.Split(r.Value, "/"), id.Bus)
	}
	return id.Bus == r.Value
}

// Return is a device that is on the node again, but not under its name, because its pod has vanished.
type Return struct {
	Device link.Device
	// Name is the name that the device must get back.
	Name    string
	Holding *Holding
	// Taken reports whether another interface has that name.
	Taken bool
}

// Returned lists the devices that came back without their names. When a namespace ends, the kernel moves its hardware
// to the initial namespace, under the name in the pod or, if that is in use, as dev<index>. Returned omits devices
// whose sandbox has an operation in progress.
func (inv *Inventory) Returned() []Return {
	var out []Return
	for i := range inv.Holdings {
		h := &inv.Holdings[i]
		if h.Device == nil || h.Busy {
			continue
		}
		for _, d := range inv.Devices {
			known := slices.ContainsFunc(out, func(r Return) bool { return r.Device.Index == d.Index })
			if known || d.Name == h.Device.Name || !h.Device.Is(&d) || !foreign(&d, h) {
				continue
			}
			out = append(out, Return{Device: d, Name: h.Device.Name, Holding: h, Taken: inv.named(h.Device.Name) != nil})
			break
		}
	}
	return out
}

// foreign reports whether a device has a name that a pod or the kernel gave to it, not the administrator.
func foreign(d *link.Device, h *Holding) bool {
	number, fallback := strings.CutPrefix(d.Name, "dev")
	fallback = fallback && number != "" && strings.Trim(number, "0123456789") == ""
	return d.Name == h.IfName || d.Alias == h.Device.Name || fallback
}
