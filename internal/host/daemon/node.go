package daemon

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/autoconf"
	"multus/internal/engine/plan"
	"multus/internal/source/kube"
)

// askNode lets the controller of the CNI configuration file read the Node object of this node. It does nothing without
// a cluster. Without a node name, reading the node returns autoconf.ErrNodeUnknown.
func askNode(slot *autoconf.Slot, read func(context.Context, string) (*kube.Node, error), name string) {
	if slot == nil || read == nil {
		return
	}
	slot.Node = func(ctx context.Context) (autoconf.Node, error) {
		if name == "" {
			return autoconf.Node{}, fmt.Errorf("%w: give --node-name, or MULTUS_NODE_NAME in the environment",
				autoconf.ErrNodeUnknown)
		}
		n, err := read(ctx, name)
		if denied := (*kube.ForbiddenError)(nil); errors.As(err, &denied) || errors.Is(err, plan.ErrNotFound) {
			err = fmt.Errorf("%w: get node %q: %w", autoconf.ErrNodeUnknown, name, err)
		}
		if err != nil {
			return autoconf.Node{}, err
		}
		return autoconf.Node{Runtime: n.ContainerRuntimeVersion, Addresses: n.Addresses}, nil
	}
}
