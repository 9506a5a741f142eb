package plan

import (
	"context"
	"errors"
)

// Ref names a namespaced object: a pod or a network definition.
type Ref struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String returns namespace/name.
func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// Definition is a network attachment definition as the engine needs it, wherever it came from.
type Definition struct {
	Ref
	// Config is spec.config, byte for byte; empty means "look in confDir for a network of this name"
	// (behaviour.md B1).
	Config string
	// ResourceName is the annotation k8s.v1.cni.cncf.io/resourceName, "" for none (behaviour.md H1).
	ResourceName string
}

// Pod is what the engine has to know of a pod object.
type Pod struct {
	Ref
	UID         string
	Annotations map[string]string
}

var (
	// ErrNotFound is returned by a source when it has asked and the object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable is returned by a source that cannot answer now: connection refused, time-out,
	// overload, expired credentials. The same call may succeed later.
	ErrUnavailable = errors.New("source unavailable")
)

// Networks finds network definitions. Errors wrap ErrNotFound or ErrUnavailable where they apply.
type Networks interface {
	Network(ctx context.Context, ref Ref) (*Definition, error)
}

// Pods finds pod objects. Errors wrap ErrNotFound or ErrUnavailable where they apply.
type Pods interface {
	Pod(ctx context.Context, ref Ref) (*Pod, error)
}

// Devices tells which devices the kubelet gave to a pod: resource name to device IDs, the IDs sorted as
// strings (behaviour.md H4). A pod without devices is an empty map and no error.
type Devices interface {
	Devices(ctx context.Context, pod Ref, uid string) (map[string][]string, error)
}
