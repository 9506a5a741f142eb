package resync

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"multus/internal/engine/publish"
)

// maxShown limits how many addresses an event names.
const maxShown = 8

// element is what is compared of one interface in a network status.
type element struct {
	Name, Interface, Mac string
	IPs                  []string
	Default              bool
}

// parse returns the elements of a network status. ok is false for a value that is no list. An element that is not as
// Multus writes it belongs to another program, and is left out.
func parse(status string) (elements []element, ok bool) {
	var items []json.RawMessage
	if json.Unmarshal([]byte(status), &items) != nil {
		return nil, false
	}
	for _, item := range items {
		var e element
		if json.Unmarshal(item, &e) == nil {
			e.normalize()
			elements = append(elements, e)
		}
	}
	return elements, true
}

// normalize makes elements with equal meaning equal: the order and the form of addresses do not matter.
func (e *element) normalize() {
	e.Mac = strings.ToLower(e.Mac)
	for i, ip := range e.IPs {
		if addr, err := netip.ParseAddr(ip); err == nil {
			e.IPs[i] = addr.Unmap().String()
		}
	}
	slices.Sort(e.IPs)
	e.IPs = slices.Compact(e.IPs)
}

func (e *element) isAbout(other *element) bool {
	return e.Name == other.Name && e.Interface == other.Interface
}

func (e *element) equal(other *element) bool {
	return e.isAbout(other) && e.Mac == other.Mac && e.Default == other.Default && slices.Equal(e.IPs, other.IPs)
}

// drift is one interface that is not as the network status says. Either status or actual is nil if the interface is
// missing there.
type drift struct {
	reason         string
	status, actual *element
}

// compare returns what is different between a network status and what a sandbox has. attached has the elements of what
// its plugins reported. Elements about nothing that was attached are those of other programs, and so are values of a
// kind that the plugin did not report: both are ignored.
func compare(status, actual, attached []element) (out []drift) {
	left := slices.Clone(status)
	for i := range actual {
		now := &actual[i]
		reported := find(attached, now)
		at := slices.IndexFunc(left, func(e element) bool { return e.isAbout(now) })
		if at < 0 {
			out = append(out, drift{publish.InterfaceRestored, nil, now})
			continue
		}
		was := left[at]
		left = slices.Delete(left, at, at+1)
		if was.Default == now.Default && (now.Mac == "" || was.Mac == now.Mac) &&
			(reported == nil || len(reported.IPs) == 0 || slices.Equal(was.IPs, now.IPs)) {
			continue
		}
		reason := publish.AddressChanged
		if reported != nil && now.equal(reported) {
			reason = publish.InterfaceRestored
		}
		out = append(out, drift{reason, &was, now})
	}
	for i := range left {
		if find(attached, &left[i]) != nil {
			out = append(out, drift{publish.InterfaceLost, &left[i], nil})
		}
	}
	return out
}

func find(elements []element, e *element) *element {
	for i := range elements {
		if elements[i].isAbout(e) {
			return &elements[i]
		}
	}
	return nil
}

// event returns the event about a difference. next is what to do about an interface that is lost.
func (d *drift) event(container, next string) publish.Event {
	if d.reason == publish.InterfaceRestored {
		return publish.Restored(d.actual.Name, d.actual.Interface, container)
	}
	e := publish.Event{Type: publish.Warning, Reason: d.reason, ContainerID: container}
	if d.reason == publish.InterfaceLost {
		e.Message = fmt.Sprintf("interface %s of network %s no longer exists in the pod. %s", d.status.Interface,
			d.status.Name, next)
		return e
	}
	var changes []string
	if !slices.Equal(d.status.IPs, d.actual.IPs) {
		changes = append(changes, fmt.Sprintf("the addresses %s instead of %s", shown(d.actual.IPs), shown(d.status.IPs)))
	}
	if d.status.Mac != d.actual.Mac {
		changes = append(changes, fmt.Sprintf("the MAC address %s instead of %s", d.actual.Mac, d.status.Mac))
	}
	if len(changes) == 0 {
		changes = []string{"another default route"}
	}
	e.Message = fmt.Sprintf("interface %s of network %s has %s", d.actual.Interface, d.actual.Name,
		strings.Join(changes, " and "))
	if d.status.Mac == d.actual.Mac && !slices.ContainsFunc(d.status.IPs, func(ip string) bool {
		return !slices.Contains(d.actual.IPs, ip)
	}) {
		e.Type = publish.Normal // nothing that other programs use is gone
	}
	return e
}

func shown(ips []string) string {
	if len(ips) == 0 {
		return "(none)"
	}
	text := strings.Join(ips[:min(len(ips), maxShown)], " ")
	if len(ips) > maxShown {
		text += " …"
	}
	return text
}
