// Package deviceplugin is a real device plugin for tests: it registers a resource with a kubelet, and serves its
// devices by the API of the kubelet (v1beta1). The devices need nothing in a container. Tests of any package import it.
package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Plugin is a running device plugin.
type Plugin struct {
	api.UnimplementedDevicePluginServer
	ids    []string
	server *grpc.Server
	served chan error
	ending chan struct{}
}

// Start registers the devices of a resource with the kubelet whose directory is dir, such as /var/lib/kubelet. It does
// not register them again when the kubelet restarts.
func Start(ctx context.Context, dir, resource string, ids []string) (*Plugin, error) {
	dir = filepath.Join(dir, "device-plugins")
	endpoint := strings.NewReplacer("/", "-", ".", "-").Replace(resource) + ".sock"
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(dir, endpoint))
	if err != nil {
		return nil, fmt.Errorf("serve devices: %w", err)
	}
	p := &Plugin{ids: ids, server: grpc.NewServer(), served: make(chan error, 1), ending: make(chan struct{})}
	api.RegisterDevicePluginServer(p.server, p)
	go func() { p.served <- p.server.Serve(l) }()
	if err := register(ctx, dir, endpoint, resource); err != nil {
		return nil, fmt.Errorf("register %s: %w", resource, errors.Join(err, p.Stop()))
	}
	return p, nil
}

func register(ctx context.Context, dir, endpoint, resource string) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "kubelet.sock"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = api.NewRegistrationClient(conn).Register(ctx, &api.RegisterRequest{
		Version: api.Version, Endpoint: endpoint, ResourceName: resource, Options: &api.DevicePluginOptions{},
	})
	return err
}

// Stop ends the plugin. It returns an error if the plugin has ended before.
func (p *Plugin) Stop() error {
	close(p.ending)
	p.server.Stop()
	return <-p.served
}

// GetDevicePluginOptions implements api.DevicePluginServer.
func (p *Plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch implements api.DevicePluginServer. All devices are healthy until the plugin ends.
func (p *Plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	out := &api.ListAndWatchResponse{}
	for _, id := range p.ids {
		out.Devices = append(out.Devices, &api.Device{ID: id, Health: api.Healthy})
	}
	if err := stream.Send(out); err != nil {
		return err
	}
	select {
	case <-p.ending:
	case <-stream.Context().Done():
	}
	return nil
}

// Allocate implements api.DevicePluginServer.
func (p *Plugin) Allocate(_ context.Context, r *api.AllocateRequest) (*api.AllocateResponse, error) {
	out := &api.AllocateResponse{}
	for range r.GetContainerRequests() {
		out.ContainerResponses = append(out.ContainerResponses, &api.ContainerAllocateResponse{})
	}
	return out, nil
}
