package podresources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"multus/internal/engine/plan"
)

// PodClaim is a device of a ResourceClaim that a pod has.
type PodClaim struct {
	Pod plan.Ref
	plan.ClaimedDevice
}

// Claims returns the devices of ResourceClaims of all pods of the node, without their attributes. A kubelet without a
// socket has none. It is for diagnostic tools.
func (k *Kubelet) Claims(ctx context.Context) ([]PodClaim, error) {
	socket := filepath.Join(k.root, socketFile)
	if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	conn, err := dial(socket)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w; %s", socket, err, nextStep)
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	all, err := patiently(ctx, podresourcesv1.NewPodResourcesListerClient(conn).List,
		&podresourcesv1.ListPodResourcesRequest{})
	if err != nil {
		return nil, listError(socket, err)
	}
	var out []PodClaim
	for _, p := range all.GetPodResources() {
		for _, d := range allocation(p).Claimed {
			out = append(out, PodClaim{plan.Ref{Namespace: p.GetNamespace(), Name: p.GetName()}, d})
		}
	}
	return out, nil
}
