package kube

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
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

// podsPauseMax limits the pause before an interrupted watch is resumed; it varies between this and twice this. It is
// shorter than the default of client-go (30 seconds), because the changes that running pods request wait for it.
// The answer has only the pods of one node.
const podsPauseMax = 10 * time.Second

// WatchPods calls a handler for the pods of a node until ctx ends. SetStatus then writes the conditions of their
// readiness gates without a request of its own. An interrupted watch is resumed with back-off, and logged once a minute
// at most.
func (c *Client) WatchPods(ctx context.Context, node string, h PodHandler, log *slog.Logger) {
	// Without client-go's metadata client, which links the types of all APIs.
	c.follow(ctx, &following{
		client: c.coreStream, resource: "pods", selector: fields.OneTermEqualSelector("spec.nodeName", node),
		object: &watchedPod{},
		list: func(ctx context.Context, r *rest.Request) (runtime.Object, error) {
			var list wholePods
			err := do(ctx, r, &list, listTimeout)
			return list.objects(), err
		},
		watch: func(ctx context.Context, r *rest.Request) (watch.Interface, error) {
			body, err := r.Stream(ctx)
			if err != nil {
				return nil, err
			}
			return watch.NewStreamWatcherWithLogger(klog.FromContext(ctx), newPodDecoder(body),
				apierrors.NewClientErrorReporter(http.StatusInternalServerError, http.MethodGet, "ClientWatchDecoding")), nil
		},
		failed: watchLog(log, target{verb: "watch", resource: "pods"},
			"watch of the node's pods failed: changes of their networks are not seen"),
	}, &podStore{handler: h, gates: &c.gates})
}

// following is a list and a watch.
type following struct {
	client   *rest.RESTClient
	resource string
	selector fields.Selector
	object   runtime.Object
	list     func(context.Context, *rest.Request) (runtime.Object, error)
	watch    func(context.Context, *rest.Request) (watch.Interface, error)
	failed   func(error) error // logs an error, and returns it
}

// follow passes what is listed and watched to a store until ctx ends. An interrupted watch is resumed with back-off.
func (c *Client) follow(ctx context.Context, f *following, store cache.ReflectorStore) {
	// Without the informers of client-go, whose pause after an error cannot be set.
	request := func(o *metav1.ListOptions) *rest.Request {
		o.FieldSelector = f.selector.String()
		return f.client.Get().Resource(f.resource).VersionedParams(o, c.params).MaxRetries(0)
	}
	lw := listWatch{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := f.list(ctx, request(&o))
			return list, f.failed(err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			w, err := f.watch(ctx, request(&o))
			return w, resumable(f.failed(err))
		},
	}}
	r := cache.NewReflectorWithOptions(lw, f.object, store, cache.ReflectorOptions{
		Name:    f.resource,
		Backoff: &wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 1, Cap: podsPauseMax, Steps: math.MaxInt},
	})
	r.RunWithContext(klog.NewContext(ctx, logr.Discard())) // failed logs the errors
}

// logEvery is the shortest time between two log lines about an interrupted watch.
const logEvery = time.Minute

// watchLog returns a function that logs the error of a watch, once in logEvery at most, and returns it.
func watchLog(log *slog.Logger, t target, message string) func(error) error {
	var last time.Time
	return func(err error) error {
		if err == nil || time.Since(last) < logEvery {
			return err
		}
		last = time.Now()
		if code(err) == http.StatusForbidden {
			err = forbidden(t, err)
		}
		log.Warn(message, "err", err) //nolint:sloglint // a constant of the callers
		return err
	}
}

// podStore passes what the reflector reads to a handler. The reflector calls it from one goroutine.
type podStore struct {
	handler PodHandler
	gates   *gates
	pods    map[types.UID]*plan.Pod
}

// Add passes a new pod to the handler.
func (s *podStore) Add(o any) error { return s.Update(o) }

// Update passes a changed pod to the handler.
func (s *podStore) Update(o any) error {
	w, err := asWatched(o)
	if err != nil {
		return err
	}
	p := trimPod(w)
	if s.pods == nil {
		s.pods = map[types.UID]*plan.Pod{}
	}
	s.pods[w.UID] = p
	s.gates.set(w.UID, w.gate)
	s.handler.Observe(p)
	return nil
}

// Delete tells the handler that a pod is gone.
func (s *podStore) Delete(o any) error {
	w, err := asWatched(o)
	if err != nil {
		return err
	}
	s.gone(w.UID)
	return nil
}

func (s *podStore) gone(uid types.UID) {
	if p, known := s.pods[uid]; known {
		delete(s.pods, uid)
		s.gates.drop(uid)
		s.handler.Gone(p)
	}
}

// Replace passes all pods to the handler, after those that no longer exist.
func (s *podStore) Replace(list []any, _ string) error {
	exists := map[types.UID]bool{}
	for _, o := range list {
		w, err := asWatched(o)
		if err != nil {
			return err
		}
		exists[w.UID] = true
	}
	for uid := range s.pods {
		if !exists[uid] {
			s.gone(uid)
		}
	}
	for _, o := range list {
		if err := s.Update(o); err != nil {
			return err
		}
	}
	return nil
}

// Resync is never called: the resync period is 0.
func (s *podStore) Resync() error { return nil }

func asWatched(o any) (*watchedPod, error) {
	w, ok := o.(*watchedPod)
	if !ok {
		return nil, fmt.Errorf("read pod: unexpected type %T", o)
	}
	return w, nil
}

// trimPod returns what is needed here of a pod.
func trimPod(w *watchedPod) *plan.Pod {
	p := &plan.Pod{
		Ref: plan.Ref{Namespace: w.Namespace, Name: w.Name}, UID: string(w.UID),
		Unready: w.gate != nil && w.gate.Status == "False" && w.gate.Reason == publish.NetworkMissing,
	}
	for _, key := range []string{
		netsel.Networks, netsel.Status, netsel.DefaultNetwork, netsel.ConfigSource, netsel.ConfigHash,
		netsel.Repair,
	} {
		if v, ok := w.Annotations[key]; ok {
			if p.Annotations == nil {
				p.Annotations = map[string]string{}
			}
			p.Annotations[key] = v
		}
	}
	return p
}
