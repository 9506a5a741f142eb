// Package repair finds pods of the node that run without the networks that they request, because the container runtime
// attached their sandbox without calling Multus: at a boot at which the CNI configuration file was missing, by an
// installation that was removed meanwhile, or by a bypass. It reads the results that the runtime's libcni has cached,
// reports what it finds, and has it repaired if that is wanted: the pod is evicted, or its sandbox is handed to the
// runner. The daemon imports it.
package repair

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/netsel"
	"multus/internal/source/kube"
)

const (
	// lookInterval is the time between two looks at the cached results.
	lookInterval = 5 * time.Second
	// reportInterval is the time after which a pod is reported again.
	reportInterval = time.Hour
	// maxNetworks limits the networks of a pod, since what is kept of them is listed for all pods together.
	maxNetworks = 256
)

// Options are the settings of a Finder. All of them are required, except InForce.
type Options struct {
	// Dir is the directory in which the runtime's libcni caches its results, as the daemon sees it.
	Dir string
	// After is the age at which a sandbox is reported.
	After time.Duration
	// Rule is what happens to a pod for which no annotation says something else: a value of the key repair. Pods of the
	// namespaces in ReportOnly are at most reported.
	Rule       string
	ReportOnly []string
	// Rate is the number of pods that are evicted in a minute.
	Rate int
	// Report writes the events of a report that has no network status.
	Report func(*publish.Report)
	// Recorded reports whether a sandbox has a record of Multus: what is missing in it is not missing for that reason.
	Recorded func(container string) bool
	// RecordedPods returns the pods that have a record, by namespace/name.
	RecordedPods func() (map[string]bool, error)
	// Attach is called once for each sandbox to which the missing networks are to be attached.
	Attach func(pod request.Pod, container string)
	// InForce, if set, returns an error while the runtime does not call Multus: an evicted pod would come back without its
	// networks.
	InForce func() error
	Cluster Cluster
	Clock   clock.Clock
	Log     *slog.Logger
}

// Cluster reads what a watch of metadata does not have, and evicts. kube.Client implements it, and has its contract.
type Cluster interface {
	PodState(ctx context.Context, ref plan.Ref) (*kube.PodState, error)
	NamespaceAnnotations(ctx context.Context, name string) (map[string]string, error)
	Evict(ctx context.Context, pod request.Pod) error
}

// Finder finds the pods that run without their networks.
type Finder struct {
	o       Options
	results results
	// namespaces has the rules of namespaces. Only look uses it.
	namespaces map[string]namespaceRule
	limit      *rate.Limiter

	// mu guards pods and missing.
	mu      sync.Mutex
	pods    map[string]*pod // by UID
	missing []Missing       // what the last look found
}

// Missing is a pod that runs without its networks.
type Missing struct {
	request.Pod
	// Container and Network are the sandbox and the network that the runtime attached it to. They are "" if the runtime's
	// results have no sandbox of the pod.
	Container, Network string
	// Networks are those that the pod requests.
	Networks []string
	// Since is when the runtime attached the sandbox, or when the pod was first seen.
	Since time.Time
	// Rule is the value of the key repair that applies to the pod, and Note the reason why it is not repaired, or "".
	Rule, Note string
}

// pod is a pod of the node.
type pod struct {
	request.Pod
	seen        time.Time // when it was first seen
	networks    []string
	annotations map[string]string

	// Only look uses the fields below. reported is when the pod was last reported, and as what.
	reported time.Time
	as       Missing
	// The pod is not read from the API server before next. It was read reads times.
	next  time.Time
	reads int
	// runs reports whether the pod was running then, and ends whether it was evicted or deleted. note is the reason why it
	// was not evicted.
	runs, ends bool
	note       string
}

// New returns a Finder. It reads nothing before Run is called.
func New(o Options) *Finder {
	return &Finder{
		o: o, results: results{dir: o.Dir}, pods: map[string]*pod{},
		namespaces: map[string]namespaceRule{},
		limit:      rate.NewLimiter(rate.Limit(float64(o.Rate)/time.Minute.Seconds()), o.Rate),
	}
}

// Observe takes note of a pod of the node, and of the networks that it requests now.
func (f *Finder) Observe(p *plan.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.pods[p.UID]
	if known == nil {
		known = &pod{Pod: p.Identity(), seen: f.o.Clock.Now()}
		f.pods[p.UID] = known
	}
	known.networks, known.annotations = requested(p), p.Annotations
}

// Gone forgets a pod.
func (f *Finder) Gone(p *plan.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pods, p.UID)
}

// requested returns the networks of a pod's annotation, with names of limited length. What cannot be read, or has more
// elements than maxNetworks, requests none here: its ADD has failed, or its next change is rejected.
func requested(p *plan.Pod) (names []string) {
	elements, _ := netsel.ParseMax(p.Annotations[netsel.Networks], maxNetworks)
	for i := range elements {
		name := elements[i].Name
		if namespace := elements[i].Namespace; namespace != "" {
			name = namespace + "/" + name
		}
		names = append(names, fault.Clip(name, fault.MaxName))
	}
	return names
}

// Run looks for such pods until ctx ends.
func (f *Finder) Run(ctx context.Context) error {
	logged := ""
	for {
		problem := ""
		if err := f.look(ctx); err != nil {
			problem = err.Error()
		}
		if problem != logged && problem != "" {
			f.o.Log.Warn("look for pods without their networks is incomplete", "err", problem)
		}
		logged = problem
		select {
		case <-ctx.Done():
			return nil
		case <-f.o.Clock.After(lookInterval):
		}
	}
}

// Missing returns the pods that the last look found, in the order of their names.
func (f *Finder) Missing() []Missing {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.missing)
}

// look finds the pods that run without their networks, reports them and has them repaired. Without the runtime's
// results it finds only pods that have no record and never had a network status.
func (f *Finder) look(ctx context.Context) error {
	latest, err := f.results.latest()
	var missing []Missing
	for _, c := range f.candidates(ctx, latest) {
		m := c.missing
		if m.Rule = f.rule(ctx, &c); m.Rule == off {
			continue
		}
		f.repair(ctx, c.pod, &m)
		missing = append(missing, m)
	}
	slices.SortFunc(missing, func(a, b Missing) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	f.mu.Lock()
	f.missing = missing
	f.mu.Unlock()
	return err
}

// candidate is a pod that seems to run without its networks.
type candidate struct {
	pod     *pod
	missing Missing
	// rule is the annotation of the pod.
	rule string
}

// candidates returns the pods that run without their networks, given the latest result of each pod.
func (f *Finder) candidates(ctx context.Context, latest map[string]result) (out []candidate) {
	now := f.o.Clock.Now()
	var unknown []candidate
	f.mu.Lock()
	for _, p := range f.pods {
		if len(p.networks) == 0 {
			continue
		}
		c := candidate{p, Missing{Pod: p.Pod, Networks: p.networks, Since: p.seen}, p.annotations[netsel.Repair]}
		r, known := latest[cmp.Or(p.annotations[netsel.ConfigHash], p.UID)]
		_, attached := p.annotations[netsel.Status]
		switch {
		case !known && !attached && now.Sub(p.seen) >= f.o.After:
			unknown = append(unknown, c)
		case known && !r.multus && now.Sub(r.made) >= f.o.After && !f.o.Recorded(r.container):
			c.missing.Container, c.missing.Network, c.missing.Since = r.container, r.network, r.made
			out = append(out, c)
		}
	}
	f.mu.Unlock()
	return append(out, f.running(ctx, unknown)...)
}

// running returns those pods that run and have no record. Each is read from the API server, and again with back-off
// while it does not run: most of them wait for their ADD, which fails.
func (f *Finder) running(ctx context.Context, pods []candidate) []candidate {
	if len(pods) == 0 {
		return nil
	}
	recorded, err := f.o.RecordedPods()
	if err != nil {
		f.o.Log.Warn("look for pods without their networks is incomplete", "err", err)
		return nil
	}
	return slices.DeleteFunc(pods, func(c candidate) bool {
		p := c.pod
		if recorded[p.Namespace+"/"+p.Name] {
			return true
		}
		if !p.runs && !f.o.Clock.Now().Before(p.next) {
			state, err := f.o.Cluster.PodState(ctx, plan.Ref{Namespace: p.Namespace, Name: p.Name})
			if p.runs = err == nil && state.UID == p.UID && state.Running && !state.HostNetwork; !p.runs {
				f.later(p)
			}
		}
		return !p.runs
	})
}

// firstPause and lastPause limit the pause before a pod is read again. It doubles.
const (
	firstPause = 10 * time.Second
	lastPause  = 5 * time.Minute
)

func (f *Finder) later(p *pod) {
	p.next = f.o.Clock.Now().Add(min(firstPause<<min(p.reads, 10), lastPause))
	p.reads++
}

// ByNamespace returns the number of pods of each namespace that the last look found.
func (f *Finder) ByNamespace() map[string]int {
	out := map[string]int{}
	for _, m := range f.Missing() {
		out[m.Namespace]++
	}
	return out
}
