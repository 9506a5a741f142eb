package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"multus/internal/source/dra"
)

const (
	// elsewhereAge is how long the slices of a driver that are not those of this node are used before they are read again,
	// and elsewherePause the shortest time between two lists that do not have a device.
	elsewhereAge   = 5 * time.Minute
	elsewherePause = 2 * time.Second
)

// SliceCache looks up devices in the ResourceSlices of a node, which it watches from the first look-up on, so that a
// node without claims costs nothing. The slices of a driver that does not publish by node are listed, and remembered
// for some time (behaviour H11).
type SliceCache struct {
	client *Client
	node   string
	log    *slog.Logger

	// first is closed by the first look-up, and synced when the slices of the node were read.
	first, synced chan struct{}
	begin, ready  sync.Once

	// mu guards the fields below. It is not held during a request.
	mu        sync.Mutex
	own       map[string]*slice // by name
	elsewhere map[string]listed // by driver
}

// listed are slices that were listed.
type listed struct {
	pools
	at time.Time
}

// NewSliceCache returns a cache of the slices of a node.
func NewSliceCache(c *Client, node string, log *slog.Logger) *SliceCache {
	return &SliceCache{
		client: c, node: node, log: log, first: make(chan struct{}), synced: make(chan struct{}),
		own: map[string]*slice{}, elsewhere: map[string]listed{},
	}
}

// Run waits for the first look-up and then watches the slices of the node until ctx ends.
func (s *SliceCache) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.first:
	}
	if s.node == "" {
		s.ready.Do(func() { close(s.synced) }) // every driver is listed
		<-ctx.Done()
		return nil
	}
	t := target{verb: "watch", group: resourceVersion.Group, resource: "resourceslices"}
	s.client.follow(ctx, &following{
		client: s.client.resourceStream, resource: t.resource,
		selector: fields.OneTermEqualSelector("spec.nodeName", s.node), object: &slice{},
		list: func(ctx context.Context, r *rest.Request) (runtime.Object, error) {
			list := &sliceList{}
			return list, do(ctx, r, list, listTimeout)
		},
		watch: func(ctx context.Context, r *rest.Request) (watch.Interface, error) { return r.Watch(ctx) },
		failed: watchLog(s.log, t,
			"watch of the node's ResourceSlices failed: the devices of ResourceClaims are not up to date"),
	}, sliceStore{s})
	return nil
}

// Attributes implements dra.Slices.
func (s *SliceCache) Attributes(ctx context.Context, d dra.Device) (dra.Attributes, error) {
	s.begin.Do(func() { close(s.first) })
	select {
	case <-s.synced:
	case <-ctx.Done():
		return dra.Attributes{}, fmt.Errorf("ResourceSlices of this node are not read yet: %w", context.Cause(ctx))
	}
	if a, ok := s.onNode(d); ok {
		return a, nil
	}
	s.mu.Lock()
	known := s.elsewhere[d.Driver]
	s.mu.Unlock()
	age := time.Since(known.at)
	if a, ok := known.find(d); ok && age < elsewhereAge {
		return a, nil
	}
	if age >= elsewherePause {
		found, err := s.client.slices(ctx, fields.Set{"spec.driver": d.Driver})
		if err != nil {
			return dra.Attributes{}, err
		}
		known = listed{found, time.Now()}
		s.mu.Lock()
		s.elsewhere[d.Driver] = known
		s.mu.Unlock()
	}
	if a, ok := known.find(d); ok {
		return a, nil
	}
	return dra.Attributes{}, notInSlices(d)
}

// onNode looks a device up in the slices of the node.
func (s *SliceCache) onNode(d dra.Device) (dra.Attributes, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := pools{}
	for _, one := range s.own {
		if one.Spec.Driver == d.Driver && one.Spec.Pool.Name == d.Pool {
			own.add(one)
		}
	}
	return own.find(d)
}

// sliceStore is the cache as the reflector fills it.
type sliceStore struct{ cache *SliceCache }

// Add stores a slice.
func (s sliceStore) Add(o any) error { return s.Update(o) }

// Update stores a slice.
func (s sliceStore) Update(o any) error {
	return s.change(o, func(one *slice) { s.cache.own[one.Name] = one })
}

// Delete removes a slice.
func (s sliceStore) Delete(o any) error {
	return s.change(o, func(one *slice) { delete(s.cache.own, one.Name) })
}

func (s sliceStore) change(o any, change func(*slice)) error {
	one, ok := o.(*slice)
	if !ok {
		return fmt.Errorf("read ResourceSlice: unexpected type %T", o)
	}
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	change(one)
	return nil
}

// Replace stores all slices of the node.
func (s sliceStore) Replace(all []any, _ string) error {
	own := map[string]*slice{}
	for _, o := range all {
		one, ok := o.(*slice)
		if !ok {
			return fmt.Errorf("read ResourceSlice: unexpected type %T", o)
		}
		own[one.Name] = one
	}
	s.cache.mu.Lock()
	s.cache.own = own
	s.cache.mu.Unlock()
	s.cache.ready.Do(func() { close(s.cache.synced) })
	return nil
}

// Resync is never called: the resync period is 0.
func (s sliceStore) Resync() error { return nil }
