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

// fromSocket requests the pod's devices from the kubelet. It waits for a kubelet that is restarting. Get is for one
// pod; a kubelet that does not serve it, or does not find the pod, is asked for all of them.
func fromSocket(ctx context.Context, socket string, pod plan.Ref) (*plan.Allocation, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	conn, err := dial(socket)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w; %s", socket, err, nextStep)
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	client := podresourcesv1.NewPodResourcesListerClient(conn)
	one, err := patiently(ctx, client.Get, &podresourcesv1.GetPodResourcesRequest{
		PodName: pod.Name, PodNamespace: pod.Namespace,
	})
	if err == nil {
		return allocation(one.GetPodResources()), nil
	}
	if transient(err) {
		return nil, listError(socket, err)
	}
	all, err := patiently(ctx, client.List, &podresourcesv1.ListPodResourcesRequest{})
	if err != nil {
		return nil, listError(socket, err)
	}
	for _, p := range all.GetPodResources() {
		if p.GetNamespace() == pod.Namespace && p.GetName() == pod.Name {
			return allocation(p), nil
		}
	}
	return &plan.Allocation{IDs: map[string][]string{}}, nil
}

// patiently sends a request, and sends it again while the kubelet refuses it because of a burst.
func patiently[Q, A any](ctx context.Context, call func(context.Context, Q, ...grpc.CallOption) (A, error), request Q,
) (answer A, err error) {
	answer, err = call(ctx, request, grpc.WaitForReady(true))
	for attempt := 1; status.Code(err) == codes.ResourceExhausted && attempt < listAttempts; attempt++ {
		if !pause(ctx, firstPause<<(attempt-1)) {
			break
		}
		answer, err = call(ctx, request, grpc.WaitForReady(true))
	}
	return answer, err
}

// allocation returns the devices of a pod: those of device plugins, and those of claims without their attributes.
func allocation(p *podresourcesv1.PodResources) *plan.Allocation {
	devices, seen := allocated{}, map[plan.ClaimedDevice]bool{}
	out := &plan.Allocation{IDs: devices}
	for _, container := range p.GetContainers() {
		own := map[string][]string{} // a resource is listed once for each NUMA node
		for _, d := range container.GetDevices() {
			own[d.GetResourceName()] = append(own[d.GetResourceName()], d.GetDeviceIds()...)
		}
		for resource, ids := range own {
			devices.add(resource, ids)
		}
		for _, claim := range container.GetDynamicResources() {
			for _, r := range claim.GetClaimResources() {
				d := plan.ClaimedDevice{
					Claim: claim.GetClaimName(), Driver: r.GetDriverName(), Pool: r.GetPoolName(), Device: r.GetDeviceName(),
					ShareID: r.GetShareId(),
				}
				if !seen[d] { // containers share claims
					seen[d] = true
					out.Claimed = append(out.Claimed, d)
				}
			}
		}
	}
	return out
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

// transient reports whether the same request may succeed later.
func transient(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return true
	}
	return false
}

func listError(socket string, err error) error {
	if transient(err) {
		return fmt.Errorf("list pod resources at %s: %w: %w; %s", socket, plan.ErrUnavailable, err, nextStep)
	}
	if status.Code(err) == codes.Unimplemented {
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
