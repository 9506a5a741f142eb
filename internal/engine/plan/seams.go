package plan

import (
	"context"
	"errors"

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

// Devices returns the devices that the kubelet gave to a pod: resource name to device IDs, the IDs sorted as strings
// (behaviour H4). For a pod without devices it returns an empty map and no error.
type Devices interface {
	Devices(ctx context.Context, pod Ref, uid string) (map[string][]string, error)
}
