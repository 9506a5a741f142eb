// Package podresources tells which devices the kubelet gave to a pod: SR-IOV functions and whatever else device
// plugins manage.
//
// It asks the kubelet of this node, by its podresources socket or, where there is none, by its checkpoint file
// (behaviour.md H1-H6). It knows nothing about networks and does not choose devices. Process edges
// (internal/host, internal/cli, internal/doctor) may import it; the engine may not.
package podresources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"multus/internal/engine/plan"
)

// DefaultRoot is the kubelet's root directory where nothing else is configured. Some distributions have another.
const DefaultRoot = "/var/lib/kubelet"

const (
	socketFile     = "pod-resources/kubelet.sock"
	checkpointFile = "device-plugins/kubelet_internal_checkpoint"
)

// nextStep ends the errors that a wrong root directory causes.
const nextStep = "check that the kubelet runs and that the kubelet root directory is set to its --root-dir"

// Options say where the kubelet is.
type Options struct {
	// Root is the kubelet's root directory, empty for DefaultRoot.
	Root string
}

// Kubelet answers for the devices of the pods of this node. It keeps no connection and nothing in memory:
// devices are given to a pod when it is admitted, just before it is asked for.
type Kubelet struct {
	root string
}

var _ plan.Devices = (*Kubelet)(nil)

// New makes a Kubelet. Nothing is read yet.
func New(o Options) *Kubelet {
	if o.Root == "" {
		o.Root = DefaultRoot
	}
	return &Kubelet{root: o.Root}
}

// Devices returns the IDs of the pod's devices by resource name, each once, in the order of allocated.add. If the
// socket exists it alone is asked, by namespace and name; else the checkpoint file is read, by UID (behaviour.md
// H2-H4). The error wraps plan.ErrUnavailable when the same call may succeed later.
func (k *Kubelet) Devices(ctx context.Context, pod plan.Ref, uid string) (map[string][]string, error) {
	socket := filepath.Join(k.root, socketFile)
	_, err := os.Stat(socket)
	var devices map[string][]string
	switch {
	case err == nil:
		devices, err = list(ctx, socket, pod)
	case errors.Is(err, fs.ErrNotExist):
		devices, err = fromCheckpoint(filepath.Join(k.root, checkpointFile), uid)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("neither the socket %s nor the checkpoint file %s exists; %s", socket,
				filepath.Join(k.root, checkpointFile), nextStep)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("find devices of pod %s: %w", pod, err)
	}
	return devices, nil
}

// allocated collects the devices of a pod, by resource.
type allocated map[string][]string

// add adds the devices of one resource of one container: sorted as strings, behind those of the containers before it. A
// container's environment names its devices in this order, and so a network with a device of the second container gets
// that one (behaviour H4; multus-cni#1539). A device that belongs to two NUMA nodes, or that an init container handed
// on, is reported twice and counts once.
func (a allocated) add(resource string, ids []string) {
	ids = slices.Sorted(slices.Values(ids))
	for _, id := range ids {
		if !slices.Contains(a[resource], id) {
			a[resource] = append(a[resource], id)
		}
	}
}
