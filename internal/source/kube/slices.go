package kube

import (
	"context"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"multus/internal/engine/plan"
	"multus/internal/source/dra"
)

// resourceVersion is the API of dynamic resource allocation.
var resourceVersion = schema.GroupVersion{Group: "resource.k8s.io", Version: "v1"}

// slice is the part of a ResourceSlice that Multus uses. k8s.io/api has the whole, with what it links.
type slice struct {
	metav1.TypeMeta
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		Driver string `json:"driver"`
		Pool   struct {
			Name       string `json:"name"`
			Generation int64  `json:"generation"`
		} `json:"pool"`
		Devices []struct {
			Name       string `json:"name"`
			Attributes map[string]struct {
				String string `json:"string"`
			} `json:"attributes"`
		} `json:"devices"`
	} `json:"spec"`
}

// DeepCopyObject implements runtime.Object. A slice is not changed, so the copy shares its devices.
func (s *slice) DeepCopyObject() runtime.Object {
	out := *s
	return &out
}

// sliceList is a list of slices.
type sliceList struct {
	metav1.TypeMeta
	metav1.ListMeta `json:"metadata"`

	Items []slice `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *sliceList) DeepCopyObject() runtime.Object {
	out := *l
	return &out
}

// pool identifies a pool of devices.
type pool struct{ driver, name string }

// pools has the devices of pools. Only the slices with the highest generation of a pool count.
type pools map[pool]struct {
	generation int64
	devices    map[string]dra.Attributes
}

// add adds the devices of a slice.
func (p pools) add(s *slice) {
	at := pool{s.Spec.Driver, s.Spec.Pool.Name}
	known := p[at]
	switch {
	case known.devices != nil && s.Spec.Pool.Generation < known.generation:
		return
	case known.devices == nil || s.Spec.Pool.Generation > known.generation:
		known.generation, known.devices = s.Spec.Pool.Generation, map[string]dra.Attributes{}
	}
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		known.devices[d.Name] = dra.Attributes{
			ResourceName: d.Attributes[dra.ResourceName].String, DeviceID: d.Attributes[dra.DeviceID].String,
		}
	}
	p[at] = known
}

func (p pools) find(d dra.Device) (dra.Attributes, bool) {
	a, ok := p[pool{d.Driver, d.Pool}].devices[d.Name]
	return a, ok
}

// slices reads the ResourceSlices that a field selector selects.
func (c *Client) slices(ctx context.Context, selector fields.Set) (pools, error) {
	found := pools{}
	t := target{verb: "list", group: resourceVersion.Group, resource: "resourceslices"}
	err := list(ctx, c.resources, t, runtime.ContentTypeJSON, selector.AsSelector().String(), found.add)
	if err != nil {
		return nil, fmt.Errorf("list ResourceSlices with %s: %w", selector, err)
	}
	return found, nil
}

// Slices looks up devices by requests to the API server: one for each driver, and another one for a driver whose slices
// are not those of one node (behaviour H11). It remembers the answers, so it is for a process that handles one pod.
type Slices struct {
	Client *Client

	mu    sync.Mutex
	known map[string]pools // by selector
}

// NewSlices returns a Slices. It sends no request.
func NewSlices(c *Client) *Slices { return &Slices{Client: c, known: map[string]pools{}} }

// Attributes implements dra.Slices.
func (s *Slices) Attributes(ctx context.Context, d dra.Device) (dra.Attributes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	selectors := []fields.Set{{"spec.driver": d.Driver}}
	if node := s.Client.node(); node != "" {
		selectors = []fields.Set{{"spec.driver": d.Driver, "spec.nodeName": node}, {"spec.driver": d.Driver}}
	}
	for _, selector := range selectors {
		key := selector.AsSelector().String()
		found, ok := s.known[key]
		if !ok {
			var err error
			if found, err = s.Client.slices(ctx, selector); err != nil {
				return dra.Attributes{}, err
			}
			s.known[key] = found
		}
		if a, ok := found.find(d); ok {
			return a, nil
		}
	}
	return dra.Attributes{}, notInSlices(d)
}

func notInSlices(d dra.Device) error {
	return fmt.Errorf("device %s/%s/%s in a ResourceSlice: %w", d.Driver, d.Pool, d.Name, plan.ErrNotFound)
}
