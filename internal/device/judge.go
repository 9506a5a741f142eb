package device

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"multus/internal/link"
)

// Refusal says that a plugin cannot have the device that its network asks for. Retry tells that a pod has it, so that
// the same call may succeed later.
type Refusal struct {
	Reference Reference
	// Device is the name of the device on the node, "" if there is none.
	Device string
	// Reasons are why it is not free; none says that it does not exist.
	Reasons []Reason
	Retry   bool
	// Holder has it, nil if it is not that.
	Holder *Claim
	// Instead names what could be asked for.
	Instead []string
}

// Error says which device, why, and what there is instead.
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

// Next says what the reader can do.
func (r *Refusal) Next() string {
	change := fmt.Sprintf("change %q in %s", r.Reference.Key, r.Reference.definition())
	if r.Reference.Given {
		change = fmt.Sprintf("keep it out of the devices that the kubelet hands out for network %s", r.Reference.Network)
	}
	switch {
	case len(r.Reasons) == 0 || r.Reasons[0].Kind == Immovable:
		return change
	case r.Retry:
		return "wait until that pod is gone, or " + change
	}
	return change + `, or set "allowInUse": true in its config if you mean it`
}

// Judge finds the device that r asks for and tells whether the plugin may have it; otherwise the error is a *Refusal. A
// device that is there without an interface, for a driver in user space has it and no pod, is nil without an error, and
// so is one that may be there when the plugin comes to it.
func (inv *Inventory) Judge(r Reference) (*link.Device, error) {
	refusal := &Refusal{Reference: r}
	d, err := inv.resolve(&r)
	switch {
	case r.AllowInUse:
		return d, nil // not there is the plugin's to say
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
			return nil, nil //nolint:nilnil // no interface is an answer, see above
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

// holder finds the sandbox that has a device which is not on the node: one whose namespace has the interface before one
// that is dead, for a device may have been given several times since. Records of today's Multus do not tell the device;
// what their plugins asked for does, if it is the same name or the same address. A device whose driver is in user space
// is in no namespace: who lives and was given it has it, and nobody who is dead.
func (inv *Inventory) holder(r *Reference, userspace bool) *Claim {
	var dead *Claim
	for i := range inv.Claims {
		c := &inv.Claims[i]
		if !c.has(r) {
			continue
		}
		if c.Attached || c.Busy || userspace && !c.Gone && !c.Undone {
			return c
		}
		if userspace {
			continue
		}
		if c.Gone && dead == nil {
			dead = c
		}
	}
	return dead
}

// has tells whether a claim is on the device that a reference is to.
func (c *Claim) has(r *Reference) bool {
	id := c.Device
	if id == nil {
		for _, own := range c.References {
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

// Return is a device that is on the node again and not under its name: its pod has vanished.
type Return struct {
	Device link.Device
	// Name is its own, that it is to have again.
	Name  string
	Claim *Claim
	// Taken tells that another interface is called so by now.
	Taken bool
}

// Returned lists the devices that came back without their names. The kernel gives the hardware of a namespace that
// ends to the machine's first one, as it was called in the pod, or dev<index> where that name is taken. A device
// whose sandbox is being worked on is left alone.
func (inv *Inventory) Returned() []Return {
	var out []Return
	for i := range inv.Claims {
		c := &inv.Claims[i]
		if c.Device == nil || c.Busy {
			continue
		}
		for _, d := range inv.Devices {
			known := slices.ContainsFunc(out, func(r Return) bool { return r.Device.Index == d.Index })
			if known || d.Name == c.Device.Name || !c.Device.Is(&d) || !foreign(&d, c) {
				continue
			}
			out = append(out, Return{Device: d, Name: c.Device.Name, Claim: c, Taken: inv.named(c.Device.Name) != nil})
			break
		}
	}
	return out
}

// foreign tells that a device has the name that a pod or the kernel gave to it, and not one of the administrator's.
func foreign(d *link.Device, c *Claim) bool {
	number, fallback := strings.CutPrefix(d.Name, "dev")
	fallback = fallback && number != "" && strings.Trim(number, "0123456789") == ""
	return d.Name == c.IfName || d.Alias == c.Device.Name || fallback
}
