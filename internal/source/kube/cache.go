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
	"k8s.io/utils/clock"

	"multus/internal/engine/plan"
)

const (
	// staleTimeout limits the question whether a cached definition is still right while the watch is broken.
	staleTimeout = 500 * time.Millisecond
	// stalePause is how long that question is not asked again after it got no answer.
	stalePause = 5 * time.Second
	// relistSpread, for each definition held, and maxRelistSpread bound the time within which a list that has been lost is
	// read again: see relistPause.
	relistSpread    = 10 * time.Millisecond
	maxRelistSpread = 2 * time.Minute
	// cacheBudget limits what the definitions take that are held in memory: users create them, and the memory of the
	// daemon is limited. 10,000 ordinary ones take a fifth of it. Of others the names are held, and they are read live.
	cacheBudget = 32 << 20
	// maxResourceName limits the name of a definition's resource, as plan.MaxConfigBytes does its configuration.
	maxResourceName = 1 << 10
)

// Cache answers for network definitions from a watch of the whole cluster, for the daemon.
//
// A definition that the cache does not hold is asked for live, so that one made a moment ago is found; today's
// daemon reports it missing (behaviour.md B9). While the API server is away, definitions already held are
// answered from memory, and one never seen gives plan.ErrUnavailable.
type Cache struct {
	client *Client
	log    *slog.Logger

	// mu guards all below. It is never held during a request.
	mu     sync.RWMutex
	defs   map[plan.Ref]value
	bytes  int     // what defs takes, as value.size counts it
	budget int     // limit of bytes
	full   bool    // a definition was left out since the last list, which is logged once
	synced bool    // the first list is complete
	stream *stream // the watch that is open, nil for none
	// removals counts everything that took definitions away. A live answer that was asked for before a
	// removal may be the removed definition, and is not remembered.
	removals uint64
	askAgain time.Time // no live question about a held definition before
	trouble  string    // last error of the watch, "" while it is well: logged when it changes
}

// value is what is kept of a definition. Two strings, without the API object around them, keep 10,000
// definitions at a few MiB.
type value struct {
	config, resourceName string
	// live is set for a definition that is too large for the cache: it is held by name alone.
	live bool
}

func (v value) size() int { return len(v.config) + len(v.resourceName) }

// tooLarge reports whether a definition is not to be used at all.
func (v value) tooLarge() bool {
	return len(v.config) > plan.MaxConfigBytes || len(v.resourceName) > maxResourceName
}

var _ plan.Networks = (*Cache)(nil)

// NewCache makes a cache that is empty and asks live until Run has filled it. The log tells when the watch
// breaks and when it is well again.
func NewCache(client *Client, log *slog.Logger) *Cache {
	return &Cache{client: client, log: log, defs: map[plan.Ref]value{}, budget: cacheBudget}
}

// Run keeps the cache up to date until ctx ends, and returns when all its goroutines have ended. A watch that
// breaks is taken up again with back-off, without end. To be called once.
func (c *Cache) Run(ctx context.Context) {
	lw := listWatch{&cache.ListWatch{ListWithContextFunc: c.list, WatchFuncWithContext: c.watch}}
	r := cache.NewReflectorWithOptions(lw, &nadv1.NetworkAttachmentDefinition{}, store{c},
		cache.ReflectorOptions{Name: "network-attachment-definitions", Clock: interruptible{clock.RealClock{}, ctx}})
	// No WatchListPageSize: with it, the list after an outage would be read from etcd, and not from the API server's
	// memory. Discard: what goes wrong is logged where it is met, once. Of a refused connection the reflector tells
	// nobody, and other errors it repeats at each attempt.
	r.RunWithContext(klog.NewContext(ctx, logr.Discard()))
}

// Synced tells whether the cache has held the whole list once.
func (c *Cache) Synced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced
}

// Len returns the number of definitions held.
func (c *Cache) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.defs)
}

// Network returns a definition from memory while the watch is well. Otherwise it asks live: for one that is not
// held with the retries of Client.Network, for one that is held once and briefly, falling back to memory.
// Errors are those of Client.Network.
func (c *Cache) Network(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	c.mu.RLock()
	v, held := c.defs[ref]
	well, removals := c.well(), c.removals
	ask := !time.Now().Before(c.askAgain)
	c.mu.RUnlock()
	if v.live {
		return c.ask(ctx, ref)
	}
	switch {
	case held && (well || !ask):
		return v.definition(ref), nil
	case held:
		return c.confirm(ctx, ref, v)
	}
	def, err := c.client.Network(ctx, ref)
	if err == nil {
		c.remember(def, removals)
	}
	return def, err
}

// ask reads a definition live that is held by name alone.
func (c *Cache) ask(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	def, err := c.client.Network(ctx, ref)
	if errors.Is(err, plan.ErrUnavailable) {
		return nil, fmt.Errorf("%w (it is not held in memory: it is larger than %d bytes, or all definitions are larger "+
			"than %d)",
			err, plan.MaxConfigBytes, c.budget)
	}
	return def, err
}

// set keeps a definition, by name alone if there is no room. The caller holds mu.
func (c *Cache) set(ref plan.Ref, v value) {
	old := c.defs[ref].size()
	if v.tooLarge() || c.bytes-old+v.size() > c.budget {
		v = value{live: true}
	}
	if v.live && !c.full {
		c.full = true
		c.log.Warn("network definitions are too large to be held in memory: some are read live, at each pod",
			"namespace", ref.Namespace, "name", ref.Name, "limit_one", plan.MaxConfigBytes, "limit_all", c.budget)
	}
	c.bytes += v.size() - old
	c.defs[ref] = v
}

// confirm asks whether a held definition is still right. The watch may be broken for a reason that a single
// request does not have: its back-off after an outage is up to a minute.
func (c *Cache) confirm(ctx context.Context, ref plan.Ref, v value) (*plan.Definition, error) {
	ask, cancel := context.WithTimeout(ctx, staleTimeout)
	defer cancel()
	def, err := c.client.networkOnce(ask, ref)
	if err == nil || errors.Is(err, plan.ErrNotFound) {
		return def, err
	}
	// Any other error is the watch's trouble, too, which is logged where it is met.
	c.mu.Lock()
	c.askAgain = time.Now().Add(stalePause)
	c.mu.Unlock()
	return v.definition(ref), nil
}

// remember keeps a live answer that came before the watch's event. Without a watch nothing would ever take it
// away again.
func (c *Cache) remember(def *plan.Definition, removals uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, held := c.defs[def.Ref]
	if c.well() && c.removals == removals && !held {
		c.set(def.Ref, value{config: def.Config, resourceName: def.ResourceName})
	}
}

// well tells whether defs follows the API server; mu is held.
func (c *Cache) well() bool { return c.synced && c.stream != nil }

func (v value) definition(ref plan.Ref) *plan.Definition {
	return &plan.Definition{Ref: ref, Config: v.config, ResourceName: v.resourceName}
}

// listWatch keeps the reflector from having the list streamed as events of the watch. The API server compresses lists
// but no watches, and encodes each event by itself: for thousands of definitions the stream has fifteen times the
// bytes and costs the API server twice the time (docs/scale.md).
type listWatch struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is asked by the reflector.
func (listWatch) IsWatchListSemanticsUnSupported() bool { return true }

// list reads the definitions, all or a page. The answer is decoded as it comes, and only what is kept is held.
func (c *Cache) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.Continue == "" && !pause(ctx, c.relistPause()) { // a page that continues a list belongs to it
		return nil, fmt.Errorf("list network definitions: %w", cmp.Or(ctx.Err(), context.DeadlineExceeded))
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := c.client.stream.Get().Resource(nadResource).VersionedParams(&o, c.client.params).
		MaxRetries(0).Timeout(requestTimeout).Stream(ctx)
	if err != nil {
		return nil, c.troubled("list", err)
	}
	defer func() { _ = body.Close() }()
	list, err := readList(body, c.budget)
	if err != nil {
		return nil, c.troubled("list", err)
	}
	return list, nil
}

// relistPause returns how long to wait before a list. After a restart of the API server, the watches of all nodes begin
// with a list at the same moment. An empty cache does not wait. A cache with definitions answers from memory and
// confirms the definition that is requested, so its list can wait: for a random time that grows with the number of
// definitions. This applies to each attempt, since earlier attempts failed while the server was away.
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
		return nil, resumable(c.troubled("watch", err))
	}
	s := &stream{Interface: w, cache: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream = s
	c.recovered()
	return s, nil
}

// resumable makes the reflector go on from where the watch was, after its back-off, when the request got no answer or
// was rejected for now. It does so by itself for a refused connection and for 429 only; from others, as a load balancer
// without a server behind it gives them, it would read the whole list again.
func resumable(err error) error {
	if transient(err) {
		return apierrors.NewTooManyRequests(err.Error(), 0)
	}
	return err
}

// stream is an open watch that tells the cache when it ends. The reflector stops every watch it was given.
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

// troubled logs an error that the reflector is going to swallow, once until it changes.
func (c *Cache) troubled(verb string, err error) error {
	if code(err) == http.StatusForbidden {
		err = forbidden(target{verb: verb, group: nadv1.SchemeGroupVersion.Group, resource: nadResource}, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if text := err.Error(); text != c.trouble {
		c.trouble = text
		c.log.Warn("watching network definitions is interrupted, lookups are live or from memory", "verb", verb, "error", err)
	}
	return err
}

// recovered logs the end of a trouble; mu is held.
func (c *Cache) recovered() {
	if c.trouble != "" && c.well() {
		c.trouble = ""
		c.log.Info("watching network definitions again", "definitions", len(c.defs))
	}
}

// store is how the reflector writes into the cache.
type store struct{ *Cache }

// Add keeps a new definition.
func (s store) Add(o any) error { return s.Update(o) }

// Update keeps a changed definition.
func (s store) Update(o any) error {
	nad, err := definition(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(refOf(nad), valueOf(nad))
	return nil
}

// Delete forgets a definition.
func (s store) Delete(o any) error {
	nad, err := definition(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removals++
	ref := refOf(nad)
	s.bytes -= s.defs[ref].size()
	delete(s.defs, ref)
	return nil
}

// Replace takes over a complete list.
func (s store) Replace(list []any, _ string) error {
	nads := make([]*nadv1.NetworkAttachmentDefinition, len(list))
	for i, o := range list {
		nad, err := definition(o)
		if err != nil {
			return err
		}
		nads[i] = nad
	}
	namespaces := map[string]string{} // one copy of each, for all its definitions
	s.mu.Lock()
	defer s.mu.Unlock()
	s.defs, s.bytes, s.full = make(map[plan.Ref]value, len(list)), 0, false
	for _, nad := range nads {
		ref := refOf(nad)
		if known, ok := namespaces[ref.Namespace]; ok {
			ref.Namespace = known
		} else {
			namespaces[ref.Namespace] = ref.Namespace
		}
		s.set(ref, valueOf(nad))
	}
	s.removals++
	s.synced = true
	s.askAgain = time.Time{}
	return nil
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

func valueOf(nad *nadv1.NetworkAttachmentDefinition) value {
	_, live := nad.Annotations[liveAnno]
	return value{config: nad.Spec.Config, resourceName: nad.Annotations[resourceAnno], live: live}
}

// interruptible is a clock whose After also fires when ctx ends: the reflector waits out a back-off of up to a
// minute without looking at its context, and Run would return that late.
type interruptible struct {
	clock.RealClock
	ctx context.Context //nolint:containedctx // it is the point of the type
}

// After returns a channel that gets the time after d, or when the context ends.
func (i interruptible) After(d time.Duration) <-chan time.Time {
	out := make(chan time.Time, 2)
	stop := context.AfterFunc(i.ctx, func() { out <- time.Now() })
	time.AfterFunc(d, func() {
		stop() // the registration would otherwise live as long as the daemon
		out <- time.Now()
	})
	return out
}
