package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// Limits of reads. The limits of today's Multus for one attempt, 250 ms (thin) and 50 ms (daemon), are too short for an
// API server under load (behaviour D13, D15).
const (
	attemptTimeout = 2 * time.Second       // one GET
	maxConcurrent  = 16                    // concurrent GETs of pods, and of definitions
	maxDecoding    = 4                     // concurrent decodings of their answers
	maxObject      = 16 << 20              // size of an answer: what etcd accepts, with each byte escaped
	lookupTimeout  = 10 * time.Second      // one GET with its retries; the caller's context may be shorter
	firstBackoff   = 50 * time.Millisecond // before the second attempt; doubled for each further one
	maxBackoff     = 1 * time.Second       // longest pause, unless the server requests another one
	nadResource    = "network-attachment-definitions"
	acceptMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
)

// Client reads pods and network definitions live, and writes network statuses and events. It caches no objects and is
// safe for concurrent use.
type Client struct {
	core   *rest.RESTClient
	events *rest.RESTClient // core, with a rate limit of its own
	nads   *rest.RESTClient
	// resources is for the API group of ResourceClaims and ResourceSlices.
	resources *rest.RESTClient
	// stream, coreStream and resourceStream are nads, core and resources without a limit on the duration of a request: for
	// watches.
	stream, coreStream, resourceStream *rest.RESTClient

	params runtime.ParameterCodec
	update updates
	gates  gates
	// maxObject is the maximum size of an answer to a GET.
	maxObject int64
	// These have one element for each request in progress.
	podRequests, networkRequests, decoding chan struct{}
	node                                   func() string // the node of the credentials, or ""
}

var (
	_ plan.Pods     = (*Client)(nil)
	_ plan.Networks = (*Client)(nil)
)

// New returns a Client. It sends no request. If the configuration has no rate limit, it gets that of behaviour A43. A
// negative QPS disables the limit.
func New(config *Config) (*Client, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	if err := errors.Join(nadv1.AddToScheme(scheme), metav1.AddMetaToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("register types: %w", err)
	}
	scheme.AddKnownTypeWithName(resourceVersion.WithKind("ResourceSlice"), &slice{})
	metav1.AddToGroupVersion(scheme, resourceVersion)
	c := rest.CopyConfig(config)
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.ContentType = runtime.ContentTypeJSON
	c.AcceptContentTypes = runtime.ContentTypeJSON
	if c.QPS == 0 {
		c.QPS, c.Burst = clientQPS, clientBurst // the default of client-go is 5
	}
	events := c
	if c.RateLimiter == nil && c.QPS > 0 {
		// limiter gives the error of the rate limit a type. Events have a limit of their own: pods wait for their statuses,
		// and each has more events than statuses.
		events = rest.CopyConfig(c)
		c.RateLimiter = limiter{flowcontrol.NewTokenBucketRateLimiter(c.QPS, c.Burst)}
		events.RateLimiter = limiter{flowcontrol.NewTokenBucketRateLimiter(c.QPS, c.Burst)}
	}
	transport, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("prepare connection to %s: %w", c.Host, err)
	}
	client := &Client{
		podRequests: make(chan struct{}, maxConcurrent), networkRequests: make(chan struct{}, maxConcurrent),
		decoding:  make(chan struct{}, maxDecoding),
		maxObject: maxObject,
		params:    runtime.NewParameterCodec(scheme), node: func() string { return nodeOf(config) },
	}
	// http.Client.Timeout would also end a watch.
	unlimited := &http.Client{Transport: transport.Transport}
	core := schema.GroupVersion{Version: "v1"}
	for _, one := range []struct {
		client    **rest.RESTClient
		config    *Config
		path      string
		version   schema.GroupVersion
		transport *http.Client
	}{
		{&client.core, c, "/api", core, transport},
		{&client.events, events, "/api", core, transport},
		{&client.nads, c, "/apis", nadv1.SchemeGroupVersion, transport},
		{&client.resources, c, "/apis", resourceVersion, transport},
		{&client.coreStream, c, "/api", core, unlimited},
		{&client.stream, c, "/apis", nadv1.SchemeGroupVersion, unlimited},
		{&client.resourceStream, c, "/apis", resourceVersion, unlimited},
	} {
		if *one.client, err = restClient(one.config, one.path, one.version, one.transport); err != nil {
			return nil, err
		}
	}
	return client, nil
}

func restClient(config *Config, path string, gv schema.GroupVersion, h *http.Client) (*rest.RESTClient, error) {
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion = path, &gv
	client, err := rest.RESTClientForConfigAndClient(c, h)
	if err != nil {
		return nil, fmt.Errorf("prepare client of %s: %w", c.Host, err)
	}
	return client, nil
}

// limiter is a rate limiter whose errors wrap errThrottled.
type limiter struct{ flowcontrol.RateLimiter }

// Wait blocks until the next request is allowed.
func (l limiter) Wait(ctx context.Context) error {
	if err := l.RateLimiter.Wait(ctx); err != nil {
		return fmt.Errorf("%w: %w", errThrottled, err)
	}
	return nil
}

// target is the object of a request, for its path and for errors.
type target struct {
	verb, group, resource, subresource string
	namespace, name                    string
}

func (t target) roleResource() string {
	if t.subresource != "" {
		return t.resource + "/" + t.subresource
	}
	return t.resource
}

func (t target) resourceGroup() string {
	return schema.GroupResource{Group: t.group, Resource: t.resource}.String()
}

// object is the part of an object that Multus reads.
type object struct {
	Metadata struct {
		Namespace       string            `json:"namespace"`
		Name            string            `json:"name"`
		UID             string            `json:"uid"`
		Annotations     map[string]string `json:"annotations"`
		ResourceVersion string            `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		Config      string `json:"config"`
		HostNetwork bool   `json:"hostNetwork"`
		NodeName    string `json:"nodeName"`
	} `json:"spec"`
	// Reason and Message are those of an event.
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (o *object) pod(ref plan.Ref) *plan.Pod {
	return &plan.Pod{Ref: ref, UID: o.Metadata.UID, Annotations: o.Metadata.Annotations}
}

// Pod reads the metadata of a pod live. It retries while the API server is unavailable or overloaded, for lookupTimeout
// at most (behaviour D13). The error wraps plan.ErrNotFound or plan.ErrUnavailable, or is a *ForbiddenError.
func (c *Client) Pod(ctx context.Context, ref plan.Ref) (*plan.Pod, error) {
	t := target{verb: "get", resource: "pods", namespace: ref.Namespace, name: ref.Name}
	o, err := c.lookup(ctx, c.core, t, acceptMetadata)
	if err != nil {
		return nil, fmt.Errorf("get pod %s: %w", ref, err)
	}
	return o.pod(ref), nil
}

// HostNetwork reports whether a pod uses the network of its node, with the retries and errors of Pod. It reads the
// whole pod, so that it is for diagnostic tools and not for ADD.
func (c *Client) HostNetwork(ctx context.Context, ref plan.Ref) (bool, error) {
	_, host, err := c.Placement(ctx, ref)
	return host, err
}

// Network reads a network definition live, with the retries and errors of Pod.
func (c *Client) Network(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	o, err := c.lookup(ctx, c.nads, nadTarget(ref), runtime.ContentTypeJSON)
	if err != nil {
		return nil, fmt.Errorf("get network definition %s: %w", ref, err)
	}
	return o.usable(ref)
}

// networkOnce is Network without retries, for callers that have a fallback.
func (c *Client) networkOnce(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	t := nadTarget(ref)
	o, err := c.get(ctx, c.nads, t, runtime.ContentTypeJSON)
	if err != nil {
		return nil, fmt.Errorf("get network definition %s: %w", ref, lookupError(t, err))
	}
	return o.usable(ref)
}

// usable returns the definition. It returns an error if the definition is too large.
func (o *object) usable(ref plan.Ref) (*plan.Definition, error) {
	def := o.definition(ref)
	if v := (value{config: def.Config, resourceName: def.ResourceName}); v.tooLarge() {
		return nil, fmt.Errorf("get network definition %s: spec.config has %d bytes, the resource name %d; "+
			"at most %d and %d are allowed: make it smaller", ref, len(v.config), len(v.resourceName), plan.MaxConfigBytes,
			maxResourceName)
	}
	return def, nil
}

func nadTarget(ref plan.Ref) target {
	return target{
		verb: "get", group: nadv1.SchemeGroupVersion.Group, resource: nadResource, namespace: ref.Namespace,
		name: ref.Name,
	}
}

func (o *object) definition(ref plan.Ref) *plan.Definition {
	return &plan.Definition{Ref: ref, Config: o.Spec.Config, ResourceName: o.Metadata.Annotations[netsel.ResourceName]}
}

// lookup sends one GET with its retries.
func (c *Client) lookup(ctx context.Context, client *rest.RESTClient, t target, accept string) (*object, error) {
	if t.namespace == "" || t.name == "" {
		return nil, errors.New("namespace and name must not be empty")
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		o, err := c.get(ctx, client, t, accept)
		if err == nil {
			return o, nil
		}
		if !(unreachable(err) || overloaded(code(err))) || !pause(ctx, retryDelay(err, attempt)) {
			return nil, attempted(attempt, lookupError(t, err))
		}
	}
}

func attempted(n int, err error) error {
	if n == 1 {
		return err
	}
	return fmt.Errorf("after %d attempts: %w", n, err)
}

// get sends one GET for a pod or a definition.
func (c *Client) get(ctx context.Context, client *rest.RESTClient, t target, accept string) (*object, error) {
	asking := c.podRequests
	if client == c.nads {
		asking = c.networkRequests
	}
	o := &object{}
	err := c.read(ctx, client, t, accept, asking, func(b []byte) error { return json.Unmarshal(b, o) })
	if err != nil {
		return nil, err
	}
	return o, nil
}

// read sends one GET and passes the answer to use. Objects of users may have more than a megabyte, and the memory of
// the daemon is limited. The number of concurrent requests is therefore limited by the places of asking, because the
// transport buffers answers, and fewer answers are read and used at the same time. It returns errTooLarge for an answer
// of more than maxObject bytes.
func (c *Client) read(ctx context.Context, client *rest.RESTClient, t target, accept string, asking chan struct{},
	use func([]byte) error,
) error {
	if err := enter(ctx, asking); err != nil {
		return err
	}
	defer leave(asking)
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	// MaxRetries(0): client-go retries only if the server requests it, and waits whole seconds. lookup has its own
	// retries.
	return c.receive(ctx, client.Get().Namespace(t.namespace).Resource(t.resource).Name(t.name).
		SetHeader("Accept", accept).MaxRetries(0), use)
}

// receive sends a request and passes the answer to use. Its limits are those of read.
func (c *Client) receive(ctx context.Context, r *rest.Request, use func([]byte) error) error {
	body, err := r.Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close() // it was read completely, or is not needed
	if err := enter(ctx, c.decoding); err != nil {
		return err
	}
	defer leave(c.decoding)
	b, err := io.ReadAll(io.LimitReader(body, c.maxObject+1))
	switch {
	case err != nil:
		return err
	case int64(len(b)) > c.maxObject:
		return fmt.Errorf("%w: more than %d bytes", errTooLarge, c.maxObject)
	}
	if err := use(b); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// errTooLarge is returned for an object that the API server cannot have stored.
var errTooLarge = errors.New("the answer is too large")

// enter waits for a free place.
func enter(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func leave(places chan struct{}) { <-places }

// retryDelay returns the delay that the server requests, or an exponential back-off. The back-off has jitter, so that
// the nodes of a cluster do not retry in step.
func retryDelay(err error, attempt int) time.Duration {
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	d := min(firstBackoff<<min(attempt-1, 10), maxBackoff)
	return d/2 + rand.N(d/2)
}

// pause waits, and reports whether there is time for another attempt. If the deadline of ctx comes first, it returns at
// once.
func pause(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
