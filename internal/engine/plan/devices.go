package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"multus/internal/device"
	"multus/internal/fault"
	"multus/internal/netsel"
)

// maxSeen limits how many devices of claims an error names.
const maxSeen = 8

// allocation assigns the devices of one pod, each one once in the whole plan (behaviour H20; H22: today's Multus
// assigns the same device to several interfaces).
type allocation struct {
	ids  map[string][]string
	used map[string]int
	// claimed are the devices of claims. more has the steps that are left to find devices.
	claimed []ClaimedDevice
	more    []func(context.Context) error
	// selected has the devices that elements select by a claim, and the network that has each one, or "" before that.
	selected map[string]string
}

// assignDevice assigns the next device of a resource to an attachment. It is an error if no device is left: an
// interface that was requested with a device is useless without one (behaviour H21). With
// allowMissingDevices, such an interface is attached without a device, as in today's Multus.
func (p *planning) assignDevice(ctx context.Context, a *Attachment, resource string) error {
	if err := p.needDevices(ctx, a, resource); err != nil {
		return err
	}
	i := p.devices.used[resource]
	ids := p.unusedDevices(resource)
	for i >= len(ids) && len(p.devices.more) > 0 {
		next := p.devices.more[0]
		p.devices.more = p.devices.more[1:]
		if err := next(ctx); err != nil {
			return fault.DevicesUnavailable.Wrap(err, a.Name, p.pod.Ref, resource)
		}
		ids = p.unusedDevices(resource)
	}
	if i >= len(ids) {
		return p.noDevice(a, resource, len(ids), i+1)
	}
	p.devices.used[resource]++
	a.Claim = p.claimOf(resource, ids[i])
	return a.setDevice(resource, ids[i])
}

// claimOf returns the claim of a device, or nil for a device of a device plugin. A device that several claims of the
// pod share counts as one of the first.
func (p *planning) claimOf(resource, id string) *device.Claim {
	for i := range p.devices.claimed {
		if d := &p.devices.claimed[i]; d.Resource == resource && d.ID == id {
			return d.claim(p.pod.Namespace)
		}
	}
	return nil
}

func (d *ClaimedDevice) claim(namespace string) *device.Claim {
	return &device.Claim{
		Namespace: namespace, Name: d.Claim, UID: d.UID, Driver: d.Driver, Pool: d.Pool, Device: d.Device,
		ShareID: d.ShareID,
	}
}

// setDevice gives an attachment its device.
func (a *Attachment) setDevice(resource, id string) error {
	l, err := a.Config.WithDevice(id)
	if err != nil {
		return fmt.Errorf("network %s: %w", a.Name, err)
	}
	a.Config, a.Resource, a.Device = l, resource, id
	return nil
}

// needDevices reads the devices of the pod if they were not read yet. what is the resource or the claim that an
// attachment needs.
func (p *planning) needDevices(ctx context.Context, a *Attachment, what string) error {
	if p.devices != nil {
		return nil
	}
	if p.Devices == nil {
		return fault.DevicesUnreadable.New(a.Name, p.pod.Ref, what)
	}
	if err := p.readDevices(ctx); err != nil {
		return fault.DevicesUnavailable.Wrap(err, a.Name, p.pod.Ref, what)
	}
	return nil
}

// claimedDevice gives an attachment the device of a claim that its element names (behaviour H14). The definition needs
// no resource name, and the device none either.
func (p *planning) claimedDevice(ctx context.Context, a *Attachment, claim *netsel.ResourceClaim) error {
	if p.pod == nil {
		return nil
	}
	what := strings.TrimSpace("resourceClaim " + claim.Name + " " + claim.Request)
	if err := p.needDevices(ctx, a, what); err != nil {
		return err
	}
	why := "the pod has no such claim, or the claim no such request"
	for i := range p.devices.claimed {
		d := &p.devices.claimed[i]
		switch user, taken := p.devices.selected[d.ID]; {
		case !d.is(claim):
		case d.ID == "":
			why = d.String()
		case taken && user != "":
			why = d.String() + ", which network " + user + " has"
		case slices.ContainsFunc(p.attached, func(o Attached) bool { return o.Device == d.ID }):
			why = d.String() + ", which another network of the pod has"
		default:
			p.devices.selected[d.ID], a.Claim = a.Name, d.claim(p.pod.Namespace)
			return a.setDevice(d.Resource, d.ID)
		}
	}
	return fault.NoClaimedDevice.New(a.Name, p.pod.Ref, fault.Clip(what, fault.MaxName),
		fault.Clip(why, fault.MaxMessage/2))
}

// is reports whether a device is one of a claim that an element names. A request with alternatives has the name of the
// chosen one after a slash.
func (d *ClaimedDevice) is(claim *netsel.ResourceClaim) bool {
	request, _, _ := strings.Cut(d.Request, "/")
	return d.PodClaim == claim.Name && (claim.Request == "" || claim.Request == d.Request || claim.Request == request)
}

// readDevices reads the devices of the pod: those of device plugins, which are considered first. Only if they do not
// suffice, those of claims that the kubelet lists are looked up, and then those that the API server has: kubelets
// before 1.36 list none (behaviour H10-H12).
func (p *planning) readDevices(ctx context.Context) error {
	found, err := p.Devices.Devices(ctx, p.pod.Ref, p.pod.UID)
	if err != nil {
		return err
	}
	d := &allocation{ids: found.IDs, used: map[string]int{}, selected: map[string]string{}}
	p.devices = d
	source, ok := p.Devices.(Claims)
	if !ok {
		return nil
	}
	if slices.ContainsFunc(p.annotation, func(e netsel.Element) bool { return e.ResourceClaim != nil }) {
		// What elements select must not be given to others. The kubelet knows neither the names of claims in the pod nor
		// those of requests.
		claimed, err := source.Claims(ctx, p.pod.Ref, p.pod.UID)
		if err != nil {
			return err
		}
		d.add(claimed)
		for i := range claimed {
			for j := range p.annotation {
				if c := p.annotation[j].ResourceClaim; c != nil && claimed[i].ID != "" && claimed[i].is(c) {
					d.selected[claimed[i].ID] = ""
				}
			}
		}
		return nil
	}
	if len(found.Claimed) > 0 {
		d.more = append(d.more, func(ctx context.Context) error {
			err := source.Describe(ctx, found.Claimed)
			d.add(found.Claimed)
			return err
		})
	}
	d.more = append(d.more, func(ctx context.Context) error {
		claimed, err := source.Claims(ctx, p.pod.Ref, p.pod.UID)
		if err != nil && !errors.Is(err, ErrUnavailable) {
			// For most pods there is nothing to read, and the error is that no device is left.
			claimed, err = []ClaimedDevice{{Claim: "of the pod", Problem: err.Error()}}, nil
		}
		d.claimed = slices.DeleteFunc(d.claimed, func(k ClaimedDevice) bool {
			return slices.ContainsFunc(claimed, func(c ClaimedDevice) bool { return c.Claim == k.Claim })
		})
		d.add(claimed)
		return err
	})
	return nil
}

// add adds the devices of claims: sorted as strings, after those that are there (behaviour H11). A device that several
// claims or containers share counts once.
func (d *allocation) add(claimed []ClaimedDevice) {
	d.claimed = append(d.claimed, claimed...)
	found := map[string][]string{}
	for i := range claimed {
		if c := &claimed[i]; c.Resource != "" && c.ID != "" {
			found[c.Resource] = append(found[c.Resource], c.ID)
		}
	}
	if d.ids == nil {
		d.ids = map[string][]string{}
	}
	for resource, ids := range found {
		slices.Sort(ids)
		for _, id := range ids {
			if !slices.Contains(d.ids[resource], id) {
				d.ids[resource] = append(d.ids[resource], id)
			}
		}
	}
}

// noDevice returns the error for an attachment for which no device is left, or nil if it is attached without one. The
// error names the devices of claims, and why they do not count.
func (p *planning) noDevice(a *Attachment, resource string, given, needed int) error {
	if p.conf.AllowMissingDevices && !p.running {
		p.Log.Warn("attaching without a device", "network", a.Name, "pod", p.pod.Ref, "container", p.req.ContainerID,
			"resource", resource)
		return nil
	}
	claims := ""
	for i := range p.devices.claimed[:min(len(p.devices.claimed), maxSeen)] {
		claims += "; " + p.devices.claimed[i].String()
	}
	claims = fault.Clip(claims, fault.MaxMessage/2)
	if p.running {
		return fault.RunningNoDevice.New(a.Name, p.pod.Ref, resource, len(p.devices.ids[resource]), claims, resource)
	}
	return fault.NoDeviceLeft.New(a.Name, p.pod.Ref, resource, given, claims, needed, resource)
}

// unusedDevices returns the devices of a resource that no element selects by a claim, and that no attachment of the
// running sandbox has.
func (p *planning) unusedDevices(resource string) []string {
	ids := p.devices.ids[resource]
	if len(p.attached)+len(p.devices.selected) == 0 {
		return ids
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		_, selected := p.devices.selected[id]
		return selected || slices.ContainsFunc(p.attached, func(a Attached) bool {
			return a.Resource == resource && a.Device == id
		})
	})
}
