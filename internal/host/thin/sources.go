package thin

import (
	"errors"
	"log/slog"
	"path/filepath"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/obs"
	"multus/internal/source/file"
	"multus/internal/source/kube"
	"multus/internal/source/podresources"
)

// errNoSource is returned when neither Kubernetes nor a directory is configured.
var errNoSource = errors.New("neither Kubernetes nor networksDir is configured")

// sources provide network definitions, pods and devices, and accept network statuses.
type sources struct {
	networks plan.Networks
	pods     plan.Pods
	devices  plan.Devices
	cluster  publish.Cluster
}

// connect opens the sources of a configuration: networksDir if it is set, else a kubeconfig, else the cluster in which
// the process runs (behaviour A40). It sends no request.
func connect(conf *config.Plugin, getenv func(string) string, log *slog.Logger) (*sources, error) {
	devices := podresources.New(podresources.Options{Root: conf.KubeletRoot})
	if dir := conf.NetworksDir; dir != "" {
		s := file.New(file.Options{Dir: dir, StateDir: filepath.Join(dir, "status")})
		return &sources{networks: s, pods: s, devices: devices, cluster: s}, nil
	}
	c, err := kube.Load(kube.Options{
		Kubeconfig: conf.Kubeconfig, ServiceHost: getenv("KUBERNETES_SERVICE_HOST"),
		ServicePort: getenv("KUBERNETES_SERVICE_PORT"),
		Version:     obs.Release(),
	})
	if errors.Is(err, kube.ErrNoCluster) {
		return nil, errNoSource
	}
	if err != nil {
		return nil, err
	}
	client, err := kube.New(c)
	if err != nil {
		return nil, err
	}
	client.Log(log)
	return &sources{networks: client, pods: client, devices: devices, cluster: client}, nil
}
