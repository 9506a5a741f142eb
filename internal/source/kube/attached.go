package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// maxAttached limits the networks that are kept of one pod. Any program may write a network status.
const maxAttached = 256

// running selects pods that are not in a terminal phase. A pod that ends is deleted from the watch.
const running = "status.phase!=Succeeded,status.phase!=Failed"

// AttachedPods has the pods of the cluster by the networks to which they are attached, from one watch of the metadata
// of all pods. It is for the admission server and not for nodes. Only the names of networks in the network status are
// kept. API servers that stream the first state (Kubernetes 1.34 and later) are not sent a list; others are sent one
// list at the start and after an interruption that is too long to resume the watch.
type AttachedPods struct {
	client *Client
	failed func(error) error

	mu       sync.RWMutex
	synced   bool
	users    map[plan.Ref]map[plan.Ref]bool // by network: the pods
	networks map[plan.Ref][]plan.Ref        // by pod
}

// NewAttachedPods returns an index that Run fills.
func NewAttachedPods(c *Client, log *slog.Logger) *AttachedPods {
	return &AttachedPods{
		client: c, users: map[plan.Ref]map[plan.Ref]bool{}, networks: map[plan.Ref][]plan.Ref{},
		failed: watchLog(log, target{verb: "watch", resource: "pods"},
			"watch of pods failed: it is not known which network definitions are in use"),
	}
}

// Run keeps the index up to date until ctx ends. It must be called once.
func (a *AttachedPods) Run(ctx context.Context) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := a.list(ctx, o)
			return list, a.failed(err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			body, err := a.request(&o).SetHeader("Accept", acceptMetadata).Stream(ctx)
			if err != nil {
				return nil, resumable(a.failed(err))
			}
			return watch.NewStreamWatcherWithLogger(klog.FromContext(ctx), &attachedDecoder{body, json.NewDecoder(body)},
				apierrors.NewClientErrorReporter(http.StatusInternalServerError, http.MethodGet, "ClientWatchDecoding")), nil
		},
	}
	r := cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, attachedStore{a}, cache.ReflectorOptions{
		Name:    "pods",
		Backoff: &wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 1, Cap: podsPauseMax, Steps: math.MaxInt},
	})
	r.RunWithContext(klog.NewContext(ctx, logr.Discard())) // failed logs the errors
}

func (a *AttachedPods) request(o *metav1.ListOptions) *rest.Request {
	o.FieldSelector = running
	return a.client.coreStream.Get().Resource("pods").VersionedParams(o, a.client.params).MaxRetries(0)
}

// list reads the metadata of all pods, page by page, for API servers that do not stream the first state.
func (a *AttachedPods) list(ctx context.Context, o metav1.ListOptions) (*metav1.List, error) {
	out := &metav1.List{}
	o.Limit, o.ResourceVersion, o.ResourceVersionMatch = listPage, "", ""
	for {
		var page struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []attachedPod   `json:"items"`
		}
		err := do(ctx, a.request(&o).SetHeader("Accept", acceptMetadataList).Timeout(listTimeout), &page, listTimeout)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			if page.Items[i].Metadata.Annotations.Status != "" {
				out.Items = append(out.Items, runtime.RawExtension{Object: page.Items[i].object()})
			}
		}
		if out.ResourceVersion == "" {
			out.ResourceVersion = page.Metadata.ResourceVersion
		}
		if o.Continue = page.Metadata.Continue; o.Continue == "" {
			return out, nil
		}
	}
}

// Synced reports whether the pods of the cluster were read at least once.
func (a *AttachedPods) Synced() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.synced
}

// Users returns the first most of the pods that are attached to a network, in the order of their names, and the number
// of all.
func (a *AttachedPods) Users(ref plan.Ref, most int) (pods []plan.Ref, total int) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for pod := range a.users[ref] {
		i, _ := slices.BinarySearchFunc(pods, pod, compareRefs)
		if i < most {
			pods = slices.Insert(pods, i, pod)
			pods = pods[:min(len(pods), most)]
		}
	}
	return pods, len(a.users[ref])
}

func compareRefs(a, b plan.Ref) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// set replaces the networks of a pod. The caller holds mu.
func (a *AttachedPods) set(pod plan.Ref, networks []plan.Ref) {
	for _, ref := range a.networks[pod] {
		if delete(a.users[ref], pod); len(a.users[ref]) == 0 {
			delete(a.users, ref)
		}
	}
	delete(a.networks, pod)
	for _, ref := range networks {
		if a.users[ref] == nil {
			a.users[ref] = map[plan.Ref]bool{}
		}
		a.users[ref][pod] = true
	}
	if len(networks) > 0 {
		a.networks[pod] = networks
	}
}

// attachedPod is the part of a pod's metadata, or of the Status in an event about an error, that is decoded.
type attachedPod struct {
	Metadata struct {
		Namespace       string    `json:"namespace"`
		Name            string    `json:"name"`
		UID             types.UID `json:"uid"`
		ResourceVersion string    `json:"resourceVersion"`
		Annotations     struct {
			Status string `json:"k8s.v1.cni.cncf.io/network-status"`
			// InitialEnd marks the bookmark after the first state.
			InitialEnd string `json:"k8s.io/initial-events-end"`
		} `json:"annotations"`
	} `json:"metadata"`
	Code    int32               `json:"code"`
	Reason  metav1.StatusReason `json:"reason"`
	Message string              `json:"message"`
}

func (p *attachedPod) object() *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.Namespace, o.Name, o.UID = p.Metadata.Namespace, p.Metadata.Name, p.Metadata.UID
	o.ResourceVersion = p.Metadata.ResourceVersion
	if status := p.Metadata.Annotations.Status; status != "" {
		o.Annotations = map[string]string{netsel.Status: status}
	}
	if end := p.Metadata.Annotations.InitialEnd; end != "" {
		o.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: end}
	}
	return o
}

// attachedDecoder decodes the events of a watch of the metadata of pods.
type attachedDecoder struct {
	body io.ReadCloser
	json *json.Decoder
}

// Decode returns the next event, without new pods that have no network status. At the end of the stream it returns
// io.EOF.
func (d *attachedDecoder) Decode() (watch.EventType, runtime.Object, error) {
	for {
		var event struct {
			Type   watch.EventType `json:"type"`
			Object attachedPod     `json:"object"`
		}
		if err := d.json.Decode(&event); err != nil {
			return "", nil, err
		}
		switch o := &event.Object; {
		case event.Type == watch.Error:
			return event.Type, &metav1.Status{
				Status: metav1.StatusFailure, Code: o.Code, Reason: o.Reason, Message: o.Message,
			}, nil
		case event.Type != watch.Added || o.Metadata.Annotations.Status != "":
			return event.Type, o.object(), nil
		}
	}
}

// Close ends the stream.
func (d *attachedDecoder) Close() { _ = d.body.Close() }

// attachedStore is the index as the reflector fills it.
type attachedStore struct{ *AttachedPods }

// Add indexes a new pod.
func (s attachedStore) Add(o any) error { return s.Update(o) }

// Update indexes a changed pod.
func (s attachedStore) Update(o any) error {
	p, err := asMetadata(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(plan.Ref{Namespace: p.Namespace, Name: p.Name}, networksOf(p))
	return nil
}

// Delete removes a pod.
func (s attachedStore) Delete(o any) error {
	p, err := asMetadata(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(plan.Ref{Namespace: p.Namespace, Name: p.Name}, nil)
	return nil
}

// Replace replaces all pods.
func (s attachedStore) Replace(list []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users, s.networks = map[plan.Ref]map[plan.Ref]bool{}, map[plan.Ref][]plan.Ref{}
	for _, o := range list {
		p, err := asMetadata(o)
		if err != nil {
			return err
		}
		s.set(plan.Ref{Namespace: p.Namespace, Name: p.Name}, networksOf(p))
	}
	s.synced = true
	return nil
}

// Resync is never called: the resync period is 0.
func (s attachedStore) Resync() error { return nil }

func asMetadata(o any) (*metav1.PartialObjectMetadata, error) {
	p, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return nil, fmt.Errorf("read pod: unexpected type %T", o)
	}
	return p, nil
}

// networksOf returns the network definitions that the network status of a pod names. A network of a node's file has no
// namespace. A status that cannot be read names none: any program can write it.
func networksOf(p *metav1.PartialObjectMetadata) []plan.Ref {
	var status []struct {
		Name string `json:"name"`
	}
	if json.Unmarshal([]byte(p.Annotations[netsel.Status]), &status) != nil {
		return nil
	}
	var out []plan.Ref
	for _, s := range status {
		namespace, name, ok := strings.Cut(s.Name, "/")
		ref := plan.Ref{Namespace: namespace, Name: name}
		if ok && len(out) < maxAttached && !slices.Contains(out, ref) {
			out = append(out, unique.Make(ref).Value()) // one copy of the names for all pods
		}
	}
	return out
}
