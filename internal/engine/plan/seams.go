package plan

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/engine/request"
)

// Ref names a namespaced object: a pod or a network definition.
type Ref struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String returns namespace/name.
func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// Definition is a network definition as the engine needs it, whatever its source.
type Definition struct {
	Ref
	// Config is spec.config, byte for byte. If it is empty, the configuration is the one of this network name in confDir
	// (behaviour B1).
	Config string
	// ResourceName is the annotation k8s.v1.cni.cncf.io/resourceName, or "" for none (behaviour H1).
	ResourceName string
}

// Pod is the part of a pod object that the engine needs.
type Pod struct {
	Ref
	UID         string
	Annotations map[string]string
	// Unready reports whether the pod lists the readiness gate of Multus and its condition is False because a change of
	// the running pod could not attach a network (behaviour R31). Only the watch of the node's pods sets it.
	Unready bool
}

// Identity returns what identifies the pod.
func (p *Pod) Identity() request.Pod {
	return request.Pod{Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

var (
	// ErrNotFound is returned by a source if the object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable is returned by a source that cannot answer now: connection refused, timeout, overload, expired
	// credentials. The same call may succeed later.
	ErrUnavailable = errors.New("source unavailable")
)

// Networks looks up network definitions. Errors wrap ErrNotFound or ErrUnavailable where they apply.
type Networks interface {
	Network(ctx context.Context, ref Ref) (*Definition, error)
}

// Pods looks up pod objects. Errors wrap ErrNotFound or ErrUnavailable where they apply.
type Pods interface {
	Pod(ctx context.Context, ref Ref) (*Pod, error)
}

// Devices returns the devices that the kubelet gave to a pod. For a pod without devices it returns an empty allocation
// and no error.
type Devices interface {
	Devices(ctx context.Context, pod Ref, uid string) (*Allocation, error)
}

// Claims is implemented by Devices that have the ResourceClaims of pods. Its methods may send requests to the API
// server, so they are for pods for which the devices of device plugins do not suffice.
type Claims interface {
	// Describe sets Resource and ID of devices, or Problem.
	Describe(ctx context.Context, claimed []ClaimedDevice) error
	// Claims returns the devices of a pod's claims as the API server has them, described (behaviour H12).
	Claims(ctx context.Context, pod Ref, uid string) ([]ClaimedDevice, error)
}

// Allocation has the devices of a pod.
type Allocation struct {
	// IDs has the device IDs by resource name, in the order in which networks take them (behaviour H4, H11).
	IDs map[string][]string
	// Claimed has the devices of the pod's ResourceClaims that the kubelet lists. They are not described.
	Claimed []ClaimedDevice
}

// ClaimedDevice is a device of a ResourceClaim.
type ClaimedDevice struct {
	// Claim is the name of the ResourceClaim. PodClaim and Request are the names of the claim in the pod and of the
	// request in the claim, or "" if they are unknown.
	Claim, PodClaim, Request string
	// UID is that of the ResourceClaim, or "" if it is unknown.
	UID string
	// Driver, Pool and Device identify the device. They are "" for a claim without a device. ShareID is the share of the
	// device, or "".
	Driver, Pool, Device, ShareID string
	// Resource and ID are attributes of the device. Problem says why the resource of a network cannot be this device, or
	// is "".
	Resource, ID, Problem string
}

// String returns the claim and its device, and what a network can do with it.
func (d *ClaimedDevice) String() string {
	s := "claim " + d.Claim
	if d.Device != "" {
		s += fmt.Sprintf(", device %s/%s/%s", d.Driver, d.Pool, d.Device)
	}
	if d.Problem != "" {
		return s + ": " + d.Problem
	}
	return s + ": " + d.Resource
}
