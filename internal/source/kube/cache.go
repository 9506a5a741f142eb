package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

const (
	// staleTimeout limits the request that checks a cached definition while the watch is interrupted.
	staleTimeout = 500 * time.Millisecond
	// stalePause is the pause after such a request failed.
	stalePause = 5 * time.Second
	// relistSpread, for each cached definition, and maxRelistSpread limit the time after which a lost list is read again.
	// See relistPause.
	relistSpread    = 10 * time.Millisecond
	maxRelistSpread = 2 * time.Minute
	// cacheBudget limits the memory of the cached definitions, because users create them and the memory of the daemon is
	// limited. 10,000 ordinary definitions take a fifth of it. Of those that do not fit, the cache has the names only, and
	// they are read live.
	cacheBudget = 32 << 20
	// maxResourceName limits the length of a definition's resource name, as plan.MaxConfigBytes limits its configuration.
	maxResourceName = 1 << 10
)

// Cache serves network definitions from a watch of the whole cluster. It is for the daemon.
//
// A definition that is not in the cache is read live, so that a definition is found as soon as it is created. Today's
// daemon reports such a definition as missing (behaviour B9). While the API server is unavailable, cached definitions
// are served from memory, and the error for all others wraps plan.ErrUnavailable.
type Cache struct {
	client *Client
	log    *slog.Logger

	// mu guards the fields below. It is never held during a request.
	mu     sync.RWMutex
	defs   map[plan.Ref]value
	bytes  int     // sum of value.size of defs
	budget int     // limit of bytes
	full   bool    // a definition did not fit since the last list; it is logged once
	synced bool    // the first list was read
	stream *stream // the open watch, or nil
	// removals counts the removals of definitions. A live answer to a request from before a removal may be the removed
	// definition, and is not cached.
	removals    uint64
	nextConfirm time.Time // earliest time of the next live read of a cached definition
	lastError   string    // last error of the watch, or "" while it works; logged when it changes

	// observer, if not nil, is called for the definitions of the watch, which then have the annotations of extra.
	observer DefinitionObserver
	extra    []string
}

// Observed is a definition as the watch of a Cache has it.
type Observed struct {
	plan.Definition
	UID string
	// Annotations are those that Observe names. Partial reports whether the definition is too large for the cache, so that
	// Config is missing.
	Annotations map[string]string
	Partial     bool
}

// DefinitionObserver is called for the definitions of the cluster, one call at a time.
type DefinitionObserver interface {
	// Observe is called for each definition when it is first seen, and when it changes.
	Observe(d *Observed)
	// Gone is called when a definition no longer exists.
	Gone(ref plan.Ref)
}

// Annotations returns those annotations of a definition that Observe names: from memory while the watch works, and else
// from the API server. Its errors are those of Client.Network.
func (c *Cache) Annotations(ctx context.Context, ref plan.Ref) (map[string]string, error) {
	c.mu.RLock()
	v, held := c.defs[ref]
	well := c.following()
	c.mu.RUnlock()
	if held && well && !v.live && !v.bare {
		return v.annotations, nil
	}
	o, err := c.client.lookup(ctx, c.client.nads, nadTarget(ref), runtime.ContentTypeJSON)
	if err != nil {
		return nil, fmt.Errorf("get network definition %s: %w", ref, err)
	}
	return kept(o.Metadata.Annotations, c.extra), nil
}

// kept returns the annotations with the keys, or nil if there are none.
func kept(annotations map[string]string, keys []string) map[string]string {
	var out map[string]string
	for _, key := range keys {
		if text, ok := annotations[key]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[key] = text
		}
	}
	return out
}

// Observe makes Run call an observer. It must be called before Run. The observer gets the named annotations, and the
// cache keeps them.
func (c *Cache) Observe(o DefinitionObserver, annotations ...string) {
	c.observer, c.extra = o, annotations
}

// All returns the cached definitions, in any order, without those of which only the name is cached.
func (c *Cache) All() []plan.Definition {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]plan.Definition, 0, len(c.defs))
	for ref, v := range c.defs {
		if !v.live {
			out = append(out, *v.definition(ref))
		}
	}
	return out
}

// value is what is cached of a definition. Without the API object around the two strings, 10,000 definitions take a few
// MiB.
type value struct {
	config, resourceName string
	// live is set for a definition that does not fit into the cache. Only its name is cached.
	live bool
	// annotations are those of Cache.extra. They are missing with bare: the definition was read before the watch had it.
	annotations map[string]string
	bare        bool
}

func (v value) size() int {
	n := len(v.config) + len(v.resourceName)
	for key, text := range v.annotations {
		n += len(key) + len(text)
	}
	return n
}

// tooLarge reports whether a definition is too large to be used.
func (v value) tooLarge() bool {
	return len(v.config) > plan.MaxConfigBytes || len(v.resourceName) > maxResourceName
}

var _ plan.Networks = (*Cache)(nil)

// NewCache returns an empty cache, which reads definitions live until Run has filled it. It logs when the watch is
// interrupted and when it works again.
func NewCache(client *Client, log *slog.Logger) *Cache {
	return &Cache{client: client, log: log, defs: map[plan.Ref]value{}, budget: cacheBudget}
}

// Run keeps the cache up to date until ctx ends, and returns when all its goroutines have ended. It restarts an
// interrupted watch with back-off, for as long as it takes. It must be called once.
func (c *Cache) Run(ctx context.Context) {
	lw := listWatch{&cache.ListWatch{ListWithContextFunc: c.list, WatchFuncWithContext: c.watch}}
	r := cache.NewReflectorWithOptions(lw, &nadv1.NetworkAttachmentDefinition{}, store{c},
		cache.ReflectorOptions{Name: "network-attachment-definitions"})
	// No WatchListPageSize: with it, the list after an outage would be read from etcd, and not from the API server's
	// memory. Discard, because errors are logged once, where they occur. The reflector does not report a refused
	// connection, and logs other errors at each attempt.
	r.RunWithContext(klog.NewContext(ctx, logr.Discard()))
}

// Synced reports whether the whole list was read at least once.
func (c *Cache) Synced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced
}

// Len returns the number of cached definitions.
func (c *Cache) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.defs)
}

// Network returns a definition from memory while the watch works. Otherwise it reads the definition live: with the
// retries of Client.Network if it is not cached, and else with one short request, after whose failure the cached
// definition is used. Its errors are those of Client.Network.
func (c *Cache) Network(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	c.mu.RLock()
	v, held := c.defs[ref]
	well, removals := c.following(), c.removals
	ask := !time.Now().Before(c.nextConfirm)
	c.mu.RUnlock()
	if v.live {
		return c.readLive(ctx, ref)
	}
	switch {
	case held && (well || !ask):
		return v.definition(ref), nil
	case held:
		return c.confirmLive(ctx, ref, v)
	}
	def, err := c.client.Network(ctx, ref)
	if err == nil {
		c.cacheLive(def, removals)
	}
	return def, err
}

// readLive reads a definition live of which only the name is cached.
func (c *Cache) readLive(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	def, err := c.client.Network(ctx, ref)
	if errors.Is(err, plan.ErrUnavailable) {
		return nil, fmt.Errorf("%w (it is not cached: it is larger than %d bytes, or all definitions are larger "+
			"than %d)",
			err, plan.MaxConfigBytes, c.budget)
	}
	return def, err
}

// set caches a definition, or only its name if it does not fit. The caller holds mu.
func (c *Cache) set(ref plan.Ref, v value) {
	old := c.defs[ref].size()
	if v.tooLarge() || c.bytes-old+v.size() > c.budget {
		v = value{live: true}
	}
	if v.live && !c.full {
		c.full = true
		c.log.Warn("network definitions exceed the cache limits: some are read from the API server for each pod",
			"namespace", ref.Namespace, "name", ref.Name, "limit_one", plan.MaxConfigBytes, "limit_all", c.budget)
	}
	c.bytes += v.size() - old
	c.defs[ref] = v
}

// confirmLive reads a cached definition live. That may succeed while the watch is still interrupted, because the
// back-off of the watch after an outage is up to a minute.
func (c *Cache) confirmLive(ctx context.Context, ref plan.Ref, v value) (*plan.Definition, error) {
	ask, cancel := context.WithTimeout(ctx, staleTimeout)
	defer cancel()
	def, err := c.client.networkOnce(ask, ref)
	if err == nil || errors.Is(err, plan.ErrNotFound) {
		return def, err
	}
	// The watch has the same error, and logs it.
	c.mu.Lock()
	c.nextConfirm = time.Now().Add(stalePause)
	c.mu.Unlock()
	return v.definition(ref), nil
}

// cacheLive caches a live answer that came before the event of the watch. It does nothing without a watch, because the
// definition would never be removed again.
func (c *Cache) cacheLive(def *plan.Definition, removals uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, held := c.defs[def.Ref]
	if c.following() && c.removals == removals && !held {
		c.set(def.Ref, value{config: def.Config, resourceName: def.ResourceName, bare: true})
	}
}

// following reports whether defs follows the API server. The caller holds mu.
func (c *Cache) following() bool { return c.synced && c.stream != nil }

func (v value) definition(ref plan.Ref) *plan.Definition {
	return &plan.Definition{Ref: ref, Config: v.config, ResourceName: v.resourceName}
}

// listWatch prevents the reflector from reading the list as events of a watch. The API server compresses lists but not
// watches, and encodes each event separately: for thousands of definitions the stream has fifteen times the bytes, and
// costs the API server twice the time (docs/scale.md).
type listWatch struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is called by the reflector.
func (listWatch) IsWatchListSemanticsUnSupported() bool { return true }

// list reads the definitions, all or one page. It decodes the answer as a stream, so that only the needed parts are in
// memory.
func (c *Cache) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.Continue == "" && !pause(ctx, c.relistPause()) { // the next page of a list must not wait
		return nil, fmt.Errorf("list network definitions: %w", cmp.Or(ctx.Err(), context.DeadlineExceeded))
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := c.client.stream.Get().Resource(nadResource).VersionedParams(&o, c.client.params).
		MaxRetries(0).Timeout(requestTimeout).Stream(ctx)
	if err != nil {
		return nil, c.logError("list", err)
	}
	defer func() { _ = body.Close() }()
	list, err := readList(body, c.budget, c.extra...)
	if err != nil {
		return nil, c.logError("list", err)
	}
	return list, nil
}

// relistPause returns how long to wait before a list. After a restart of the API server, the watches of all nodes begin
// with a list at the same moment. An empty cache does not wait. A cache with definitions serves them from memory and
// confirms the definition that is requested, so that its list can wait: for a random time that grows with the number of
// definitions. This applies to each attempt, because earlier attempts failed while the server was unavailable.
func (c *Cache) relistPause() time.Duration {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.synced {
		return 0
	}
	return rand.N(min(time.Duration(len(c.defs))*relistSpread, maxRelistSpread) + 1)
}

func (c *Cache) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	w, err := c.client.stream.Get().Resource(nadResource).VersionedParams(&o, c.client.params).MaxRetries(0).Watch(ctx)
	if err != nil {
		return nil, resumable(c.logError("watch", err))
	}
	s := &stream{Interface: w, cache: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream = s
	c.logRecovery()
	return s, nil
}

// resumable returns an error that makes the reflector resume the watch after its back-off, if the request got no answer
// or was rejected temporarily. By default the reflector resumes only after a refused connection and after 429. After
// other errors, such as those of a load balancer without a server behind it, it would read the whole list again.
func resumable(err error) error {
	if transient(err) {
		return apierrors.NewTooManyRequests(err.Error(), 0)
	}
	return err
}

// stream is an open watch. Its end is recorded in the cache. The reflector stops every watch that it was given.
type stream struct {
	watch.Interface
	cache *Cache
}

// Stop ends the watch.
func (s *stream) Stop() {
	s.Interface.Stop()
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if s.cache.stream == s {
		s.cache.stream = nil
		s.cache.log.Debug("watch of network definitions ended")
	}
}

// logError logs an error that the reflector does not report. It logs only changes.
func (c *Cache) logError(verb string, err error) error {
	if code(err) == http.StatusForbidden {
		err = forbidden(target{verb: verb, group: nadv1.SchemeGroupVersion.Group, resource: nadResource}, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if text := err.Error(); text != c.lastError {
		c.lastError = text
		c.log.Warn("watch of network definitions failed: lookups use the API server or the cache", "verb", verb, "error", err)
	}
	return err
}

// logRecovery logs that the watch works again after an error. The caller holds mu.
func (c *Cache) logRecovery() {
	if c.lastError != "" && c.following() {
		c.lastError = ""
		c.log.Info("watching network definitions again", "definitions", len(c.defs))
	}
}

// store is the interface of the cache for the reflector.
type store struct{ *Cache }

// Add caches a new definition.
func (s store) Add(o any) error { return s.Update(o) }

// Update caches a changed definition.
func (s store) Update(o any) error {
	nad, err := definition(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.set(refOf(nad), s.valueOf(nad))
	s.mu.Unlock()
	s.observe(nad)
	return nil
}

// observe passes a definition to the observer.
func (s store) observe(nad *nadv1.NetworkAttachmentDefinition) {
	if s.observer == nil {
		return
	}
	v := s.valueOf(nad)
	s.observer.Observe(&Observed{
		Definition: *v.definition(refOf(nad)), UID: string(nad.UID), Partial: v.live, Annotations: v.annotations,
	})
}

// Delete removes a definition.
func (s store) Delete(o any) error {
	nad, err := definition(o)
	if err != nil {
		return err
	}
	ref := refOf(nad)
	s.mu.Lock()
	s.removals++
	s.bytes -= s.defs[ref].size()
	delete(s.defs, ref)
	s.mu.Unlock()
	if s.observer != nil {
		s.observer.Gone(ref)
	}
	return nil
}

// Replace replaces all definitions.
func (s store) Replace(list []any, _ string) error {
	nads := make([]*nadv1.NetworkAttachmentDefinition, len(list))
	for i, o := range list {
		nad, err := definition(o)
		if err != nil {
			return err
		}
		nads[i] = nad
	}
	before := s.replace(nads)
	for _, nad := range nads {
		delete(before, refOf(nad))
		s.observe(nad)
	}
	if s.observer != nil {
		for ref := range before {
			s.observer.Gone(ref)
		}
	}
	return nil
}

// replace replaces all definitions, and returns those before.
func (s store) replace(nads []*nadv1.NetworkAttachmentDefinition) map[plan.Ref]value {
	namespaces := map[string]string{} // one copy of each namespace for all its definitions
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.defs
	s.defs, s.bytes, s.full = make(map[plan.Ref]value, len(nads)), 0, false
	for _, nad := range nads {
		ref := refOf(nad)
		if known, ok := namespaces[ref.Namespace]; ok {
			ref.Namespace = known
		} else {
			namespaces[ref.Namespace] = ref.Namespace
		}
		s.set(ref, s.valueOf(nad))
	}
	s.removals++
	s.synced = true
	s.nextConfirm = time.Time{}
	return before
}

// Resync is never called: the resync period is 0.
func (s store) Resync() error { return nil }

func definition(o any) (*nadv1.NetworkAttachmentDefinition, error) {
	nad, ok := o.(*nadv1.NetworkAttachmentDefinition)
	if !ok {
		return nil, fmt.Errorf("keep network definition: unexpected type %T", o)
	}
	return nad, nil
}

func refOf(nad *nadv1.NetworkAttachmentDefinition) plan.Ref {
	return plan.Ref{Namespace: nad.Namespace, Name: nad.Name}
}

func (s store) valueOf(nad *nadv1.NetworkAttachmentDefinition) value {
	_, live := nad.Annotations[liveAnno]
	return value{
		config: nad.Spec.Config, resourceName: nad.Annotations[netsel.ResourceName], live: live,
		annotations: kept(nad.Annotations, s.extra),
	}
}
