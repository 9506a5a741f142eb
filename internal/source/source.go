// Package source opens the sources of network definitions, pods and devices, and the place to which network statuses
// are written: a directory of files, or the API server. It is the one list of them. The hosts import it; multusctl,
// which combines sources by its flags, does not.
package source

import (
	"log/slog"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/source/dra"
	"multus/internal/source/file"
	"multus/internal/source/kube"
	"multus/internal/source/podresources"
	"multus/internal/version"
)

// Options are what a configuration says about sources.
type Options struct {
	// NetworksDir has definitions and pods in YAML files. If it is set, no API server is used, and statuses are written
	// below StatusDir.
	NetworksDir, StatusDir string
	// Kubeconfig is the path of a kubeconfig file. Without it, the cluster in which the process runs is used.
	Kubeconfig string
	// KubeletRoot is the root directory of the kubelet, whose socket lists the devices of pods.
	KubeletRoot string
	// Events is the key events: which events of pods are written.
	Events string
	// Slices, if set, returns what looks up the devices of claims. Otherwise each look-up is a request.
	Slices func(*kube.Client) dra.Slices
	// Getenv returns KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT.
	Getenv func(string) string
	Log    *slog.Logger
}

// Sources are open sources.
type Sources struct {
	Networks plan.Networks
	Pods     plan.Pods
	Devices  plan.Devices
	Cluster  publish.Cluster
	// Kube is the client of the API server, or nil if a directory is used.
	Kube *kube.Client
}

// Open opens the sources (behaviour A40). It sends no request. It returns kube.ErrNoCluster if there is neither a
// directory nor a cluster.
func Open(o Options) (*Sources, error) {
	devices := podresources.New(podresources.Options{Root: o.KubeletRoot})
	if o.NetworksDir != "" {
		f := file.New(file.Options{Dir: o.NetworksDir, StateDir: o.StatusDir})
		return &Sources{Networks: f, Pods: f, Devices: devices, Cluster: publish.WithEvents(f, o.Events)}, nil
	}
	config, err := kube.Load(kube.Options{
		Kubeconfig: o.Kubeconfig, Version: version.Release(),
		ServiceHost: o.Getenv("KUBERNETES_SERVICE_HOST"), ServicePort: o.Getenv("KUBERNETES_SERVICE_PORT"),
	})
	if err != nil {
		return nil, err
	}
	client, err := kube.New(config)
	if err != nil {
		return nil, err
	}
	client.Log(o.Log)
	claimed := &dra.Devices{Kubelet: devices, API: client}
	if o.Slices != nil {
		claimed.Slices = o.Slices(client)
	} else {
		claimed.Slices = kube.NewSlices(client)
	}
	return &Sources{
		Networks: client, Pods: client, Devices: claimed, Cluster: publish.WithEvents(client, o.Events), Kube: client,
	}, nil
}
