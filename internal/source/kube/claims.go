package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"

	"multus/internal/engine/plan"
)

// podClaims is the part of a pod that names its ResourceClaims.
type podClaims struct {
	Metadata struct {
		UID string `json:"uid"`
	} `json:"metadata"`
	Spec struct {
		ResourceClaims []struct {
			Name              string `json:"name"`
			ResourceClaimName string `json:"resourceClaimName"`
		} `json:"resourceClaims"`
	} `json:"spec"`
	Status struct {
		ResourceClaimStatuses []struct {
			Name              string `json:"name"`
			ResourceClaimName string `json:"resourceClaimName"`
		} `json:"resourceClaimStatuses"`
		ExtendedResourceClaimStatus struct {
			ResourceClaimName string `json:"resourceClaimName"`
		} `json:"extendedResourceClaimStatus"`
	} `json:"status"`
}

// claim is the part of a ResourceClaim that Multus uses.
type claim struct {
	Metadata struct {
		UID string `json:"uid"`
	} `json:"metadata"`
	Status struct {
		Allocation *struct {
			Devices struct {
				Results []struct {
					Request string `json:"request"`
					Driver  string `json:"driver"`
					Pool    string `json:"pool"`
					Device  string `json:"device"`
					ShareID string `json:"shareID"`
				} `json:"results"`
			} `json:"devices"`
		} `json:"allocation"`
	} `json:"status"`
}

// PodClaims returns the devices of the claims of a pod: those that it names, those that were made from templates, which
// are in its status, and the one for its extended resources. A claim without devices has one element with a Problem.
func (c *Client) PodClaims(ctx context.Context, ref plan.Ref, uid string) (out []plan.ClaimedDevice, err error) {
	var pod podClaims
	t := target{verb: "get", resource: "pods", namespace: ref.Namespace, name: ref.Name}
	decode := func(b []byte) error { return json.Unmarshal(b, &pod) }
	if err := c.read(ctx, c.core, t, runtime.ContentTypeJSON, c.podRequests, decode); err != nil {
		return nil, fmt.Errorf("get pod %s: %w", ref, lookupError(t, err))
	}
	if uid != "" && pod.Metadata.UID != uid {
		return nil, nil // a static pod, which has no claims, or another pod by now
	}
	made := map[string]string{}
	for _, s := range pod.Status.ResourceClaimStatuses {
		made[s.Name] = s.ResourceClaimName
	}
	add := func(podClaim, name string) {
		if err == nil && name != "" {
			var more []plan.ClaimedDevice
			more, err = c.claim(ctx, plan.Ref{Namespace: ref.Namespace, Name: name}, podClaim)
			out = append(out, more...)
		}
	}
	for _, p := range pod.Spec.ResourceClaims {
		name := p.ResourceClaimName
		if name == "" {
			name = made[p.Name]
		}
		add(p.Name, name)
	}
	add("", pod.Status.ExtendedResourceClaimStatus.ResourceClaimName)
	return out, err
}

// claim returns the devices of a claim.
func (c *Client) claim(ctx context.Context, ref plan.Ref, podClaim string) ([]plan.ClaimedDevice, error) {
	var found claim
	t := target{
		verb: "get", group: resourceVersion.Group, resource: "resourceclaims", namespace: ref.Namespace, name: ref.Name,
	}
	decode := func(b []byte) error { return json.Unmarshal(b, &found) }
	err := c.read(ctx, c.resources, t, runtime.ContentTypeJSON, c.podRequests, decode)
	none := plan.ClaimedDevice{Claim: ref.Name, PodClaim: podClaim}
	switch err = lookupError(t, err); {
	case errors.Is(err, plan.ErrNotFound):
		none.Problem = "the ResourceClaim does not exist"
		return []plan.ClaimedDevice{none}, nil
	case err != nil:
		return nil, fmt.Errorf("get ResourceClaim %s: %w", ref, err)
	case found.Status.Allocation == nil || len(found.Status.Allocation.Devices.Results) == 0:
		none.Problem = "no device is allocated to the ResourceClaim"
		return []plan.ClaimedDevice{none}, nil
	}
	var out []plan.ClaimedDevice
	for _, r := range found.Status.Allocation.Devices.Results {
		d := none
		d.Request, d.Driver, d.Pool, d.Device, d.ShareID = r.Request, r.Driver, r.Pool, r.Device, r.ShareID
		d.UID = found.Metadata.UID
		out = append(out, d)
	}
	return out, nil
}
