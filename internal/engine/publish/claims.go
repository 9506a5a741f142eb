package publish

import (
	"context"
	"net/netip"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"

	"multus/internal/device"
	"multus/internal/engine/request"
)

// maxClaimAddresses is how many addresses of one device the API server accepts.
const maxClaimAddresses = 16

// ClaimRef identifies a ResourceClaim. UID is "" if it is not known.
type ClaimRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
}

// ClaimedDevice is what is written about one device into the status of a ResourceClaim.
type ClaimedDevice struct {
	device.Claim

	Network   string   `json:"network"`
	Interface string   `json:"interface,omitempty"`
	MAC       string   `json:"mac,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
}

// Ref returns the ResourceClaim of a device.
func (d *ClaimedDevice) Ref() ClaimRef {
	return ClaimRef{Namespace: d.Namespace, Name: d.Name, UID: d.UID}
}

// ClaimStatus is what one sandbox writes into the status of a ResourceClaim.
type ClaimStatus struct {
	ClaimRef

	// Pod is the pod in whose name the entries are written. Its UID is known.
	Pod request.Pod
	// Since is the time of the attachment in nanoseconds since 1970.
	Since int64
	// Devices are the entries. Without them those of the pod are removed.
	Devices []ClaimedDevice
}

// ClaimWriter is implemented by the client of the API server. Errors wrap ErrGone, ErrRetry, ErrRefused or ErrForbidden
// where they apply, and ErrTaken.
type ClaimWriter interface {
	// WriteClaim makes the entries of a pod in the status of a ResourceClaim those of s, with one request. What other
	// programs and other pods have written stays as it is.
	WriteClaim(ctx context.Context, s *ClaimStatus) error
}

// ClaimedDevices returns what the status of ResourceClaims says about the attachments of a report whose device is one
// of a claim (behaviour H16). It returns nothing for a report without attachments.
func ClaimedDevices(r *Report) ([]ClaimedDevice, error) {
	if !r.HasStatus() {
		return nil, nil
	}
	var out []ClaimedDevice
	for i := range r.Attached {
		a := &r.Attached[i]
		if a.Claim == nil {
			continue
		}
		res, err := a.result()
		if err != nil {
			return nil, err
		}
		out = append(out, claimedDevice(a, res, r.Netns))
	}
	return out, nil
}

// claimedDevice returns what is written about the device of an attachment. Of several interfaces in the pod, it is the
// one that the pod requested, or else the first.
func claimedDevice(a *Attached, res *current.Result, netns string) ClaimedDevice {
	d := ClaimedDevice{Claim: *a.Claim, Network: a.Name}
	at := -1
	for i, itf := range res.Interfaces {
		if inPod(itf, netns) && (at < 0 || itf.Name == a.IfName) {
			at = i
		}
	}
	if at >= 0 {
		d.Interface, d.MAC = res.Interfaces[at].Name, res.Interfaces[at].Mac
	}
	for _, ip := range res.IPs {
		if ip.Interface != nil && len(res.Interfaces) > 1 && *ip.Interface != at {
			continue
		}
		if text := cidr(ip); text != "" && !slices.Contains(d.Addresses, text) && len(d.Addresses) < maxClaimAddresses {
			d.Addresses = append(d.Addresses, text)
		}
	}
	return d
}

// cidr returns an address in the form that the API server accepts, or "".
func cidr(ip *current.IPConfig) string {
	addr, ok := netip.AddrFromSlice(ip.Address.IP)
	ones, bits := ip.Address.Mask.Size()
	if !ok || bits == 0 {
		return ""
	}
	if unmapped := addr.Unmap(); unmapped != addr {
		if bits == addr.BitLen() {
			ones -= bits - unmapped.BitLen()
		}
		addr = unmapped
	}
	if p := netip.PrefixFrom(addr, ones); p.IsValid() {
		return p.String()
	}
	return ""
}
