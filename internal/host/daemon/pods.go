package daemon

import (
	"cmp"
	"context"

	"k8s.io/utils/clock"

	"multus/internal/agent/hotplug"
	"multus/internal/agent/repair"
	"multus/internal/agent/resync"
	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/source/kube"
)

// followPods connects the parts that follow the pods of the node.
func (a *agent) followPods() {
	a.hotPlug = hotplug.New(clock.RealClock{}, a.log)
	a.hotPlug.Changed = a.metrics.Changed
	a.hotPlug.ObserveIn(0) // a change that was interrupted before the daemon started is in the records only
	a.metrics.HotPlug(a.hotPlug.Waiting, a.hotPlug.RunnerUp)
	a.compareStatuses()
	records := &ledger.Store{Dir: cmp.Or(a.conf.CNIDir, config.DefaultCNIDir), Log: a.log}
	o := repair.Options{
		Dir: cmp.Or(a.conf.CNIResultsDir, config.DefaultCNIResultsDir), After: a.conf.RepairAge(),
		Rule: a.conf.RepairRule(), ReportOnly: a.conf.ReportOnly(), Rate: a.conf.RepairPace(),
		Report: a.statuses.Announce, Recorded: records.Has,
		RecordedPods: func() (map[string]bool, error) { return recordedPods(records) },
		Attach:       a.hotPlug.Adopt, Cluster: a.sources.Kube, Clock: clock.RealClock{}, Log: a.log,
	}
	if a.cniConf != nil {
		o.InForce = a.cniConf.InForce
	}
	a.missing = repair.New(o)
	a.hotPlug.Adopted = a.missing.Attached
	a.metrics.Missing(a.missing.ByNamespace)
}

// recordedPods returns the pods that have a record, by namespace/name.
func recordedPods(records *ledger.Store) (map[string]bool, error) {
	containers, err := records.Containers()
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, id := range containers {
		// A record that cannot be read completely is a record, too.
		if r, _ := records.Inspect(id, ledger.DefaultIfName); r != nil {
			pod := session.PodOf(r)
			out[pod.Namespace+"/"+pod.Name] = true
		}
	}
	return out, nil
}

// compareStatuses connects the part that keeps the network statuses of running pods true.
func (a *agent) compareStatuses() {
	every := a.conf.ResyncInterval()
	if every == 0 {
		return
	}
	a.metrics.Resync()
	a.resync = resync.New(resync.Options{
		Every: every, Reattach: a.conf.Reattach, Pods: a.sources.Pods, Next: a.hotPlug.ObserveIn, Log: a.log,
		Busy: func(pod request.Pod) bool { return a.hotPlug.Busy(pod) || a.statuses.Pending(pod) },
		Report: func(ctx context.Context, r *publish.Report) {
			a.metrics.Observe(r)
			a.statuses.Accept(ctx, r)
		},
	})
}

// watchPods passes the pods of a node to the parts that follow them.
func (a *agent) watchPods(ctx context.Context, node string) {
	handlers := podHandlers{a.hotPlug}
	if a.missing != nil {
		handlers = append(handlers, a.missing)
	}
	if a.resync != nil {
		handlers = append(handlers, a.resync)
	}
	a.sources.Kube.WatchPods(ctx, node, handlers, a.log)
}

// podHandlers are called one after another.
type podHandlers []kube.PodHandler

// Observe calls all handlers.
func (h podHandlers) Observe(p *plan.Pod) {
	for _, one := range h {
		one.Observe(p)
	}
}

// Gone calls all handlers.
func (h podHandlers) Gone(p *plan.Pod) {
	for _, one := range h {
		one.Gone(p)
	}
}
