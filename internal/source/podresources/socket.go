package podresources

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"multus/internal/engine/plan"
)

// Limits of the request (behaviour H2).
const (
	listTimeout = 10 * time.Second
	maxMessage  = 16 << 20
)

// The kubelet refuses requests over its own limit (a burst of 10) and does not queue them, and pods are created in
// bursts. A message over maxMessage has the same code, which is why the attempts are limited.
const (
	listAttempts = 6
	firstPause   = 20 * time.Millisecond // doubled for each further attempt
	maxReconnect = 500 * time.Millisecond
)

// list requests the pod's devices from the kubelet. It waits for a kubelet that is restarting.
func list(ctx context.Context, socket string, pod plan.Ref) (map[string][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	conn, err := dial(socket)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w; %s", socket, err, nextStep)
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	client := podresourcesv1.NewPodResourcesListerClient(conn)
	response, err := client.List(ctx, &podresourcesv1.ListPodResourcesRequest{}, grpc.WaitForReady(true))
	for attempt := 1; status.Code(err) == codes.ResourceExhausted && attempt < listAttempts; attempt++ {
		if !pause(ctx, firstPause<<(attempt-1)) {
			break
		}
		response, err = client.List(ctx, &podresourcesv1.ListPodResourcesRequest{}, grpc.WaitForReady(true))
	}
	if err != nil {
		return nil, listError(socket, err)
	}
	devices := allocated{}
	for _, p := range response.GetPodResources() {
		if p.GetNamespace() != pod.Namespace || p.GetName() != pod.Name {
			continue
		}
		for _, container := range p.GetContainers() {
			own := map[string][]string{} // a resource is listed once for each NUMA node
			for _, d := range container.GetDevices() {
				own[d.GetResourceName()] = append(own[d.GetResourceName()], d.GetDeviceIds()...)
			}
			for resource, ids := range own {
				devices.add(resource, ids)
			}
		}
	}
	return devices, nil
}

// dial prepares a connection, which the first request opens. The path is not the gRPC target, because it need not match
// the syntax of targets.
func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///kubelet",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket that only root can open
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{
			BaseDelay: firstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: maxReconnect,
		}}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
}

func listError(socket string, err error) error {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return fmt.Errorf("list pod resources at %s: %w: %w; %s", socket, plan.ErrUnavailable, err, nextStep)
	case codes.Unimplemented:
		return fmt.Errorf("list pod resources at %s: %w; the kubelet is too old for the podresources API v1", socket, err)
	}
	return fmt.Errorf("list pod resources at %s: %w; %s", socket, err, nextStep)
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
