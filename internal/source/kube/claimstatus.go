package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/engine/publish"
)

const (
	// claimManager begins the names of the field managers of Multus in a ResourceClaim. The UID of the pod follows.
	claimManager = "multus-cni.io/pod-"
	// networkReady is the condition of a device that is attached to a network, as KEP-4817 names it.
	networkReady = "NetworkReady"
	// driverVerb is the verb on the synthetic resource resourceclaims/driver that Kubernetes 1.36 and later require for
	// devices of the node of the token, and anyNodeVerb the one for others.
	driverVerb, anyNodeVerb, driverSubresource = "associated-node:patch", "arbitrary-node:patch", "driver"
	// maxStale limits the pods whose entries one write removes. A user who creates a claim can list any number of field
	// managers in it.
	maxStale = 16
	// granularStatus is the minor version of Kubernetes from which on that is required.
	granularStatus = 36
)

var _ publish.ClaimWriter = (*Client)(nil)

// claimPatch is the part of a ResourceClaim that Multus applies.
type claimPatch struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		UID       string `json:"uid,omitempty"`
	} `json:"metadata"`
	Status struct {
		Devices []deviceStatus `json:"devices,omitempty"`
	} `json:"status"`
}

// deviceStatus is an element of status.devices.
type deviceStatus struct {
	Driver      string             `json:"driver"`
	Pool        string             `json:"pool"`
	Device      string             `json:"device"`
	ShareID     string             `json:"shareID,omitempty"`
	Conditions  []metav1.Condition `json:"conditions"`
	NetworkData struct {
		InterfaceName   string   `json:"interfaceName,omitempty"`
		IPs             []string `json:"ips,omitempty"`
		HardwareAddress string   `json:"hardwareAddress,omitempty"`
	} `json:"networkData"`
}

// claimOwners is the part of a ResourceClaim that says which pods use it, and who has written what.
type claimOwners struct {
	Metadata struct {
		UID           string `json:"uid"`
		ManagedFields []struct {
			Manager     string `json:"manager"`
			Operation   string `json:"operation"`
			Subresource string `json:"subresource"`
		} `json:"managedFields"`
	} `json:"metadata"`
	Status struct {
		ReservedFor []struct {
			APIGroup string `json:"apiGroup"`
			Resource string `json:"resource"`
			UID      string `json:"uid"`
		} `json:"reservedFor"`
	} `json:"status"`
}

// WriteClaim implements publish.ClaimWriter by server-side apply (behaviour H16, H17). Each pod is a field manager of
// its own: what it applies replaces what it had applied, and nothing else. An entry of another field manager is not
// taken over: the status of a device has room for one interface.
//
// Entries of pods that the claim is no longer reserved for are removed on the way. They are left if a node was lost
// together with what its daemon had stored.
func (c *Client) WriteClaim(ctx context.Context, s *publish.ClaimStatus) error {
	if s.Pod.UID == "" || s.Namespace == "" || s.Name == "" {
		return errors.New("write status of a ResourceClaim: namespace, name and the UID of the pod must not be empty")
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	manager := claimManager + s.Pod.UID
	found, err := c.applyClaim(ctx, s, manager)
	if errors.Is(err, publish.ErrTaken) {
		if found, err = c.claimOwners(ctx, s); err == nil && c.removeStale(ctx, s, found) == 0 {
			err = fmt.Errorf("%w: another pod or program has written the status of the device", publish.ErrTaken)
		} else if err == nil {
			found, err = c.applyClaim(ctx, s, manager)
		}
	}
	if err != nil {
		return fmt.Errorf("write status of ResourceClaim %s/%s: %w", s.Namespace, s.Name, err)
	}
	c.removeStale(ctx, s, found)
	return nil
}

// applyClaim applies the entries of a field manager, and returns the claim.
func (c *Client) applyClaim(ctx context.Context, s *publish.ClaimStatus, manager string) (*claimOwners, error) {
	body, err := json.Marshal(patchOf(s))
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	t := claimTarget("patch", s)
	t.subresource = "status"
	out := &claimOwners{}
	err = do(ctx, c.resources.Patch(types.ApplyPatchType).Namespace(t.namespace).Resource(t.resource).Name(t.name).
		SubResource(t.subresource).Param("fieldManager", manager).Body(body).MaxRetries(0), out, patchTimeout)
	return out, claimError(t, err)
}

func claimTarget(verb string, s *publish.ClaimStatus) target {
	return target{
		verb: verb, group: resourceVersion.Group, resource: "resourceclaims", namespace: s.Namespace, name: s.Name,
	}
}

func patchOf(s *publish.ClaimStatus) *claimPatch {
	p := &claimPatch{APIVersion: resourceVersion.String(), Kind: "ResourceClaim"}
	p.Metadata.Namespace, p.Metadata.Name, p.Metadata.UID = s.Namespace, s.Name, s.UID
	for i := range s.Devices {
		d := &s.Devices[i]
		one := deviceStatus{Driver: d.Driver, Pool: d.Pool, Device: d.Device, ShareID: d.ShareID}
		one.NetworkData.InterfaceName, one.NetworkData.HardwareAddress = d.Interface, d.MAC
		one.NetworkData.IPs = d.Addresses
		one.Conditions = []metav1.Condition{{
			Type: networkReady, Status: metav1.ConditionTrue, Reason: "NetworkAttached",
			Message:            fmt.Sprintf("network %s of pod %s/%s is attached", d.Network, s.Pod.Namespace, s.Pod.Name),
			LastTransitionTime: metav1.NewTime(time.Unix(0, s.Since)),
		}}
		p.Status.Devices = append(p.Status.Devices, one)
	}
	return p
}

// claimError maps the error of a write to the sentinel errors of package publish.
func claimError(t target, err error) error {
	var status apierrors.APIStatus
	if err == nil || !errors.As(err, &status) || status.Status().Details == nil {
		return publishError(t, err)
	}
	causes := status.Status().Details.Causes
	has := func(kind metav1.CauseType) bool {
		return slices.ContainsFunc(causes, func(c metav1.StatusCause) bool { return c.Type == kind })
	}
	switch code(err) {
	case http.StatusConflict:
		if has(metav1.CauseTypeFieldManagerConflict) {
			return fmt.Errorf("%w: %w", publish.ErrTaken, err)
		}
	case http.StatusUnprocessableEntity:
		// Kubernetes 1.36 and later check the permission for each driver when they validate the status, and answer 422.
		if has(metav1.CauseTypeForbidden) {
			// For devices that are not on one node, or on another one, it names arbitrary-node:patch only.
			t.verb, t.subresource = driverVerb, driverSubresource
			if strings.Contains(err.Error(), `"[`+anyNodeVerb+`]"`) {
				t.verb = anyNodeVerb
			}
			return forbidden(t, err)
		}
	}
	return publishError(t, err)
}

// claimOwners reads a claim.
func (c *Client) claimOwners(ctx context.Context, s *publish.ClaimStatus) (*claimOwners, error) {
	out, t := &claimOwners{}, claimTarget("get", s)
	err := do(ctx, c.resources.Get().Namespace(t.namespace).Resource(t.resource).Name(t.name).MaxRetries(0), out,
		patchTimeout)
	return out, publishError(t, err)
}

// removeStale removes the entries of up to maxStale pods that a claim is not reserved for, and returns how many pods
// these were. An error does not matter: the next write of the claim repeats it.
func (c *Client) removeStale(ctx context.Context, s *publish.ClaimStatus, found *claimOwners) (removed int) {
	reserved := map[string]bool{s.Pod.UID: true}
	for _, r := range found.Status.ReservedFor {
		if r.APIGroup != "" || r.Resource != "pods" {
			return 0 // a group of pods, whose members are not known here
		}
		reserved[r.UID] = true
	}
	tried := 0
	for _, m := range found.Metadata.ManagedFields {
		uid, ours := strings.CutPrefix(m.Manager, claimManager)
		if !ours || m.Operation != string(metav1.ManagedFieldsOperationApply) || m.Subresource != "status" || reserved[uid] {
			continue
		}
		if tried++; tried > maxStale {
			break
		}
		none := *s
		none.Devices = nil
		if _, err := c.applyClaim(ctx, &none, m.Manager); err == nil {
			removed++
		}
	}
	return removed
}
