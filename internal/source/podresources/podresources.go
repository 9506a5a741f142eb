// Package podresources returns the devices that the kubelet has allocated to a pod, such as SR-IOV functions and other
// devices of device plugins.
//
// It reads them from the podresources socket of the kubelet or, if the socket does not exist, from its checkpoint file
// (behaviour H1-H6). It has no knowledge of networks and does not choose devices. The process edges (internal/host,
// internal/cli, internal/doctor) may import it, the engine may not.
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

// DefaultRoot is the default of the kubelet's root directory. Some distributions use another one.
const DefaultRoot = "/var/lib/kubelet"

const (
	socketFile     = "pod-resources/kubelet.sock"
	checkpointFile = "device-plugins/kubelet_internal_checkpoint"
)

// nextStep is the end of errors that a wrong root directory causes.
const nextStep = "check that the kubelet runs and that the kubelet root directory is set to its --root-dir"

// Options say where the kubelet is.
type Options struct {
	// Root is the kubelet's root directory. It defaults to DefaultRoot.
	Root string
}

// Kubelet returns the devices of the pods of this node. It keeps no connection and no cache, because the kubelet
// allocates devices at the admission of a pod, just before they are requested.
type Kubelet struct {
	root string
}

var _ plan.Devices = (*Kubelet)(nil)

// New returns a Kubelet. It reads nothing.
func New(o Options) *Kubelet {
	if o.Root == "" {
		o.Root = DefaultRoot
	}
	return &Kubelet{root: o.Root}
}

// Devices returns the IDs of the pod's devices by resource name, each once, in the order of allocated.add, and the
// devices of its ResourceClaims without their attributes. If the socket exists, Devices uses only that, by namespace
// and name. Otherwise it reads the checkpoint file, by UID (behaviour H2-H5). The error wraps plan.ErrUnavailable if
// the same call may succeed later.
func (k *Kubelet) Devices(ctx context.Context, pod plan.Ref, uid string) (*plan.Allocation, error) {
	socket := filepath.Join(k.root, socketFile)
	_, err := os.Stat(socket)
	devices := &plan.Allocation{}
	switch {
	case err == nil:
		devices, err = fromSocket(ctx, socket, pod)
	case errors.Is(err, fs.ErrNotExist):
		devices.IDs, err = fromCheckpoint(filepath.Join(k.root, checkpointFile), uid)
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

// allocated has the devices of a pod by resource.
type allocated map[string][]string

// add adds the devices of one resource of one container: sorted as strings, after those of earlier containers. The
// environment of a container lists its devices in this order, so that a network with a device of the second container
// gets that one (behaviour H4; multus-cni#1539). A device that belongs to two NUMA nodes, or that an init container
// passed on, is reported twice and counts once.
func (a allocated) add(resource string, ids []string) {
	ids = slices.Sorted(slices.Values(ids))
	for _, id := range ids {
		if !slices.Contains(a[resource], id) {
			a[resource] = append(a[resource], id)
		}
	}
}
