// Package repair finds pods of the node that run without the networks that they request, because the container runtime
// attached their sandbox without calling Multus: at a boot at which the CNI configuration file was missing, by an
// installation that was removed meanwhile, or by a bypass. It reads the results that the runtime's libcni has cached,
// reports what it finds, and changes nothing itself. The daemon imports it.
package repair

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/netsel"
)

const (
	// lookInterval is the time between two looks at the cached results.
	lookInterval = 5 * time.Second
	// reportInterval is the time after which a pod is reported again.
	reportInterval = time.Hour
	// NetworksMissing is the reason of the event of a pod that runs without its networks.
	NetworksMissing = "NetworksMissing"
	// maxShown limits how many networks an event names.
	maxShown = 8
)

// Options are the settings of a Finder. All of them are required, except Attach.
type Options struct {
	// Dir is the directory in which the runtime's libcni caches its results, as the daemon sees it.
	Dir string
	// After is the age at which a sandbox is reported.
	After time.Duration
	// Report writes the events of a report that has no network status.
	Report func(*publish.Report)
	// Recorded reports whether a sandbox has a record of Multus: what is missing in it is not missing for that reason.
	Recorded func(container string) bool
	// Attach, if set, is called once for each sandbox to which the missing networks are to be attached.
	Attach func(pod request.Pod, container string)
	Clock  clock.Clock
	Log    *slog.Logger
}

// Finder finds the pods that run without their networks.
type Finder struct {
	o       Options
	results results

	// mu guards pods and missing.
	mu   sync.Mutex
	pods map[string]*pod // by UID
	// missing is the number of pods that the last look found.
	missing int
}

// pod is a pod of the node.
type pod struct {
	request.Pod
	// networks are those that the pod requests.
	networks []string
	// reported is when the pod was last reported, and container its sandbox then.
	reported  time.Time
	container string
}

// New returns a Finder. It reads nothing before Run is called.
func New(o Options) *Finder {
	return &Finder{o: o, results: results{dir: o.Dir}, pods: map[string]*pod{}}
}

// Observe takes note of a pod of the node, and of the networks that it requests now.
func (f *Finder) Observe(p *plan.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.pods[p.UID]
	if known == nil {
		known = &pod{Pod: p.Identity()}
		f.pods[p.UID] = known
	}
	known.networks = requested(p)
}

// Gone forgets a pod.
func (f *Finder) Gone(p *plan.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pods, p.UID)
}

// requested returns the networks of a pod's annotation. What cannot be read requests none here: its ADD has failed, or
// its next change is rejected.
func requested(p *plan.Pod) (names []string) {
	elements, _ := netsel.Parse(p.Annotations[netsel.Networks])
	for i := range elements {
		name := elements[i].Name
		if namespace := elements[i].Namespace; namespace != "" {
			name = namespace + "/" + name
		}
		names = append(names, name)
	}
	return names
}

// Run looks for such pods until ctx ends.
func (f *Finder) Run(ctx context.Context) error {
	logged := ""
	for {
		problem := ""
		if err := f.look(); err != nil {
			problem = err.Error()
		}
		if problem != logged && problem != "" {
			f.o.Log.Warn("cannot look for pods without their networks", "err", problem)
		}
		logged = problem
		select {
		case <-ctx.Done():
			return nil
		case <-f.o.Clock.After(lookInterval):
		}
	}
}

// Missing returns how many pods run without their networks.
func (f *Finder) Missing() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return float64(f.missing)
}

// found is a pod that runs without its networks.
type found struct {
	request.Pod
	container string
	report    *publish.Report // nil if the pod was reported
	first     bool            // whether the sandbox was not found before
}

// look compares the cached results with the pods of the node, and reports what is missing.
func (f *Finder) look() error {
	latest, err := f.results.latest()
	if err != nil {
		return err
	}
	for _, p := range f.find(latest) {
		if p.report != nil {
			f.o.Log.Error("pod runs without the networks that it requests", "pod", p.Namespace+"/"+p.Name,
				"container", p.container, "err", p.report.Events[0].Message)
			f.o.Report(p.report)
		}
		if p.first && f.o.Attach != nil {
			f.o.Attach(p.Pod, p.container)
		}
	}
	return nil
}

// find returns the pods that run without their networks, given the latest result of each pod.
func (f *Finder) find(latest map[string]result) (out []found) {
	now := f.o.Clock.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for uid, p := range f.pods {
		r, ok := latest[uid]
		if !ok || r.multus || len(p.networks) == 0 || now.Sub(r.made) < f.o.After || f.o.Recorded(r.container) {
			continue
		}
		one := found{Pod: p.Pod, container: r.container, first: p.container != r.container}
		if one.first || now.Sub(p.reported) >= reportInterval {
			p.reported, p.container = now, r.container
			one.report = f.report(p, &r)
		}
		out = append(out, one)
	}
	f.missing = len(out)
	return out
}

// report returns the report of a pod whose sandbox was attached without Multus.
func (f *Finder) report(p *pod, r *result) *publish.Report {
	networks := strings.Join(p.networks[:min(len(p.networks), maxShown)], ", ")
	if more := len(p.networks) - maxShown; more > 0 {
		networks += fmt.Sprintf(" and %d more", more)
	}
	message := fmt.Sprintf("the pod runs without the networks that it requests (%s): at %s the container runtime "+
		"attached it to network %q alone and did not call Multus. ", networks, r.made.UTC().Format(time.RFC3339),
		fault.Clip(r.network, fault.MaxName))
	if f.o.Attach != nil {
		message += "They are attached now"
	} else {
		message += "Delete the pod, so that it is created again with its networks; on the node, `multusctl doctor` says " +
			"whether the runtime calls Multus now"
	}
	return &publish.Report{
		Command: request.Update, Pod: p.Pod, ContainerID: r.container,
		Events: []publish.Event{{Type: publish.Warning, Reason: NetworksMissing, Message: message}},
	}
}
