// Package dra adds the devices of a pod's ResourceClaims (dynamic resource allocation) to those of device plugins
// (behaviour H10-H13). Which devices a pod has comes from the kubelet, and what they are for from the attributes in
// ResourceSlices. The package has no knowledge of networks and does not choose devices. Package source, the
// API client, the hosts and the command line tools import it.
package dra

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/engine/plan"
)

// The attributes with which a driver describes a device for networks.
const (
	ResourceName = "k8s.cni.cncf.io/resourceName"
	DeviceID     = "k8s.cni.cncf.io/deviceID"
)

// Device identifies a device in ResourceSlices.
type Device struct{ Driver, Pool, Name string }

// Attributes are those of a device that matter here. A string attribute that the device does not have is "".
type Attributes struct{ ResourceName, DeviceID string }

// Slices looks up devices in ResourceSlices. The error wraps plan.ErrNotFound if no slice has the device, or
// plan.ErrUnavailable if the same call may succeed later.
type Slices interface {
	Attributes(ctx context.Context, d Device) (Attributes, error)
}

// Claims reads the ResourceClaims of a pod from the API server: those that are made from templates, those that the pod
// names, and the one for its extended resources. Resource, ID and Problem of the devices are not set, except for a
// Problem of a claim that has no device. The error wraps plan.ErrNotFound or plan.ErrUnavailable where they apply.
type Claims interface {
	PodClaims(ctx context.Context, pod plan.Ref, uid string) ([]plan.ClaimedDevice, error)
}

// Devices returns the devices of pods.
type Devices struct {
	// Kubelet returns the devices of device plugins, and those of claims without their attributes.
	Kubelet plan.Devices
	Slices  Slices
	API     Claims
}

var (
	_ plan.Devices = (*Devices)(nil)
	_ plan.Claims  = (*Devices)(nil)
)

// Devices returns what Kubelet returns.
func (d *Devices) Devices(ctx context.Context, pod plan.Ref, uid string) (*plan.Allocation, error) {
	return d.Kubelet.Devices(ctx, pod, uid)
}

// Claims returns the devices of a pod's claims as the API server has them (behaviour H12).
func (d *Devices) Claims(ctx context.Context, pod plan.Ref, uid string) ([]plan.ClaimedDevice, error) {
	claimed, err := d.API.PodClaims(ctx, pod, uid)
	if err != nil {
		return nil, fmt.Errorf("read claims of pod %s: %w", pod, err)
	}
	return claimed, d.Describe(ctx, claimed)
}

// Describe sets the attributes of devices, or the reason why no network can have them. A device that is for something
// else, such as a GPU, is no error. Its errors are those of Slices.
func (d *Devices) Describe(ctx context.Context, claimed []plan.ClaimedDevice) error {
	for i := range claimed {
		c := &claimed[i]
		if c.Device == "" {
			continue
		}
		a, err := d.Slices.Attributes(ctx, Device{c.Driver, c.Pool, c.Device})
		switch {
		case errors.Is(err, plan.ErrNotFound):
			c.Problem = "no ResourceSlice has the device"
			continue
		case err != nil:
			return fmt.Errorf("look up device %s/%s/%s of claim %s: %w", c.Driver, c.Pool, c.Device, c.Claim, err)
		case a.ResourceName == "":
			c.Problem = "the device has no attribute " + ResourceName
		case a.DeviceID == "":
			c.Problem = "the device has no attribute " + DeviceID
		}
		c.Resource, c.ID = a.ResourceName, a.DeviceID
	}
	return nil
}
