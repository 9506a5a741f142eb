package inject

import (
	"k8s.io/apimachinery/pkg/api/resource"
)

// pod has the parts of a pod that are read. A patch leaves all other parts as they are, also those that later versions
// of Kubernetes add.
type pod struct {
	Metadata struct {
		Namespace   string            `json:"namespace"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Containers     []container       `json:"containers"`
		InitContainers []container       `json:"initContainers"`
		Volumes        []volume          `json:"volumes"`
		NodeSelector   map[string]string `json:"nodeSelector"`
		ResourceClaims []Claim           `json:"resourceClaims"`
		HostNetwork    bool              `json:"hostNetwork"`
	} `json:"spec"`
}

type container struct {
	Name          string     `json:"name"`
	RestartPolicy string     `json:"restartPolicy"`
	Resources     *resources `json:"resources"`
	VolumeMounts  []mount    `json:"volumeMounts"`
}

type resources struct {
	Requests map[string]resource.Quantity `json:"requests"`
	Limits   map[string]resource.Quantity `json:"limits"`
}

type volume struct {
	Name        string    `json:"name"`
	DownwardAPI *struct{} `json:"downwardAPI"`
}

type mount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
}

// isSidecar reports whether an init container runs as long as the pod.
func (c *container) isSidecar() bool { return c.RestartPolicy == "Always" }

// devices returns how many devices of a resource a container requests. Requests and limits of devices are equal.
func (c *container) devices(name string) int64 {
	if c.Resources == nil {
		return 0
	}
	q, ok := c.Resources.Limits[name]
	if !ok {
		q = c.Resources.Requests[name]
	}
	return max(0, q.Value())
}

// devices returns how many devices of a resource the networks of a pod can get. The kubelet reports those of containers
// that run as long as the pod. Those of other init containers are given to a container afterwards.
func (p *pod) devices(name string) int64 {
	var sum int64
	add := func(n int64) { sum = max(sum, sum+n) } // no overflow
	for i := range p.Spec.Containers {
		add(p.Spec.Containers[i].devices(name))
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.isSidecar() {
			add(c.devices(name))
		}
	}
	return sum
}
