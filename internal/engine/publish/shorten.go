package publish

import "fmt"

const (
	// MaxStatus limits the network-status annotation. The API server accepts 256 KiB for all annotations of a pod together,
	// and rejects the whole update above that; the rest is for the other annotations.
	MaxStatus = 128 << 10
	// StatusShortened is the reason of the event of a pod whose network-status lacks something because of MaxStatus.
	StatusShortened = "NetworkStatusShortened"
)

// shortened returns the status of a report, limited to MaxStatus, and a description of what was left out: "" for nothing.
// The dns members go first. If that is not enough, elements that do not fit go, too.
func shortened(r *Report) (status, leftOut string, err error) {
	items, omitted, err := fitting(r, true)
	if err != nil || omitted == 0 {
		return joinItems(items), "", err
	}
	if items, omitted, err = fitting(r, false); err != nil {
		return "", "", err
	}
	leftOut = fmt.Sprintf("network-status is limited to %d bytes: DNS settings are left out", MaxStatus)
	if omitted > 0 {
		leftOut += fmt.Sprintf(", and %d of %d interfaces", omitted, omitted+len(items))
	}
	return joinItems(items), leftOut + "; use fewer networks, or network definitions with shorter results", nil
}

// fitting returns the elements of the status that fit into MaxStatus, in order, and the number of the others. With DNS, it
// stops at the first one that does not fit.
func fitting(r *Report, withDNS bool) (items []string, omitted int, err error) {
	size := len("[]")
	err = eachItem(r, withDNS, func(item string) bool {
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
