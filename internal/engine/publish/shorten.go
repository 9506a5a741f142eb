package publish

import (
	"encoding/json"
	"fmt"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"
)

const (
	// MaxStatus limits the network-status annotation. The API server accepts 256 KiB for all annotations of a pod together
	// and rejects the whole update above that. The rest is for the other annotations.
	MaxStatus = 128 << 10
	// StatusShortened is the reason of the event of a pod whose network status is incomplete because of MaxStatus.
	StatusShortened = "NetworkStatusShortened"
)

// shortened returns the network status of a report, limited to MaxStatus, and a description of what was omitted, or "".
// The dns members are omitted first. If that is not enough, elements that do not fit are omitted, too.
func shortened(r *Report, results []*current.Result) (status, leftOut string, err error) {
	items, omitted, err := fitting(r, results, true)
	if err != nil || omitted == 0 {
		return joinItems(items), "", err
	}
	if items, omitted, err = fitting(r, results, false); err != nil {
		return "", "", err
	}
	leftOut = fmt.Sprintf("network-status is limited to %d bytes: DNS settings are left out", MaxStatus)
	if omitted > 0 {
		leftOut += fmt.Sprintf(", and %d of %d interfaces", omitted, omitted+len(items))
	}
	return joinItems(items), leftOut + "; use fewer networks, or network definitions with shorter results", nil
}

// fitting returns the elements of the status that fit into MaxStatus, in order, and the number of the omitted ones.
// With DNS, it stops at the first element that does not fit.
func fitting(r *Report, results []*current.Result, withDNS bool) (items []string, omitted int, err error) {
	size := len("[]")
	err = eachItem(r, results, withDNS, func(item string) bool {
		if size+len(item)+len(",") > MaxStatus {
			omitted++
			return !withDNS
		}
		size += len(item) + len(",")
		items = append(items, item)
		return true
	})
	return items, omitted, err
}

// Shrink reduces a report to about limit bytes and reports whether it omitted anything, which is rare. It first removes
// DNS settings and all routes but default ones from results, and large device information. Then it removes attachments,
// the largest first, while the report is too large.
func (r *Report) Shrink(limit int) bool {
	if r.size() <= limit {
		return false
	}
	share := limit / len(r.Attached)
	for i := range r.Attached {
		a := &r.Attached[i]
		if len(a.DeviceInfo) > share/2 {
			a.DeviceInfo = nil
		}
		if len(a.Result) > share/2 {
			a.shrink()
		}
	}
	for len(r.Attached) > 1 && r.size() > limit {
		largest := 0
		for i := range r.Attached {
			if r.Attached[i].size() > r.Attached[largest].size() {
				largest = i
			}
		}
		r.Attached = slices.Delete(r.Attached, largest, largest+1)
	}
	return true
}

func (r *Report) size() (n int) {
	for i := range r.Attached {
		n += r.Attached[i].size()
	}
	return n
}

func (a *Attached) size() int { return len(a.Result) + len(a.DeviceInfo) }

// shrink keeps of the result what the status needs. A result that cannot be decoded stays unchanged.
func (a *Attached) shrink() {
	res, err := a.result()
	if err != nil {
		return
	}
	res.DNS.Nameservers, res.DNS.Domain, res.DNS.Search, res.DNS.Options = nil, "", nil, nil
	routes := res.Routes[:0]
	for _, rt := range res.Routes {
		if unspecified(rt) {
			routes = append(routes, rt)
		}
	}
	res.Routes = routes
	if b, err := json.Marshal(res); err == nil {
		a.Result = b
	}
}
