package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// PodHandler is called for the pods of a node, one call at a time.
type PodHandler interface {
	// Observe is called for each pod when it is first seen, and when its metadata changes. The pod has only the
	// annotations about networks.
	Observe(pod *plan.Pod)
	// Gone is called when a pod no longer exists.
	Gone(pod *plan.Pod)
}

// WatchPods calls a handler for the pods of a node until ctx ends. It reads only their metadata. An interrupted watch
// is resumed with back-off, and logged once.
func (c *Client) WatchPods(ctx context.Context, node string, h PodHandler, log *slog.Logger) error {
	// Without client-go's informers and metadata client, which link the types of all APIs.
	own := fields.OneTermEqualSelector("spec.nodeName", node).String()
	request := func(o *metav1.ListOptions, accept string) *rest.Request {
		o.FieldSelector = own
		return c.coreStream.Get().Resource("pods").SetHeader("Accept", accept).VersionedParams(o, c.params)
	}
	informer := cache.NewSharedIndexInformer(listWatch{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list := &metav1.PartialObjectMetadataList{}
			return list, request(&o, acceptMetadataList).Do(ctx).Into(list)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return request(&o, acceptMetadata).Watch(ctx)
		},
	}}, &metav1.PartialObjectMetadata{}, 0, nil)
	failed := watchLog(log, node)
	err := informer.SetTransform(trimPod)
	if err == nil {
		err = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { failed(err) })
	}
	if err == nil {
		_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { observe(o, h.Observe) },
			UpdateFunc: func(_, o any) { observe(o, h.Observe) },
			DeleteFunc: func(o any) { observe(o, h.Gone) },
		})
	}
	if err != nil {
		return fmt.Errorf("watch the pods of node %s: %w", node, err)
	}
	informer.RunWithContext(ctx)
	return nil
}

// logEvery is the shortest time between two log lines about an interrupted watch.
const logEvery = time.Minute

// watchLog returns a function that logs the error of a watch, once a minute at most.
func watchLog(log *slog.Logger, node string) func(error) {
	var mu sync.Mutex
	var last time.Time
	return func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) < logEvery {
			return
		}
		last = time.Now()
		if code(err) == 403 {
			err = forbidden(target{verb: "watch", resource: "pods"}, err)
		}
		log.Warn("watch of the node's pods failed: changes of their networks are not seen", "node", node, "err", err)
	}
}

// trimPod keeps of a pod what is needed here.
func trimPod(o any) (any, error) {
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return o, nil // the note of a deletion that was missed
	}
	out := &metav1.PartialObjectMetadata{TypeMeta: m.TypeMeta}
	out.Namespace, out.Name, out.UID, out.ResourceVersion = m.Namespace, m.Name, m.UID, m.ResourceVersion
	for _, key := range []string{netsel.Networks, netsel.Status, netsel.DefaultNetwork, netsel.ConfigSource} {
		if v, ok := m.Annotations[key]; ok {
			if out.Annotations == nil {
				out.Annotations = map[string]string{}
			}
			out.Annotations[key] = v
		}
	}
	return out, nil
}

func observe(o any, fn func(*plan.Pod)) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	if m, ok := o.(*metav1.PartialObjectMetadata); ok {
		fn(&plan.Pod{
			Ref: plan.Ref{Namespace: m.Namespace, Name: m.Name}, UID: string(m.UID), Annotations: m.Annotations,
		})
	}
}
