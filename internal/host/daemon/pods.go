package daemon

import (
	"cmp"
	"context"

	"k8s.io/utils/clock"

	"multus/internal/agent/hotplug"
	"multus/internal/agent/repair"
	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/source/kube"
)

// followPods connects the parts that follow the pods of the node.
func (a *agent) followPods() {
	a.hotPlug = hotplug.New(clock.RealClock{}, a.log)
	a.hotPlug.Changed = a.metrics.Changed
	a.metrics.HotPlug(a.hotPlug.Waiting, a.hotPlug.RunnerUp)
	if a.conf.Repair == config.RepairOff {
		return
	}
	records := &ledger.Store{Dir: cmp.Or(a.conf.CNIDir, config.DefaultCNIDir), Log: a.log}
	o := repair.Options{
		Dir:   cmp.Or(a.conf.CNIResultsDir, config.DefaultCNIResultsDir),
		After: a.conf.RepairAge(), Report: a.statuses.Announce,
		Recorded: records.Has, Clock: clock.RealClock{}, Log: a.log,
	}
	if a.conf.Repair == config.RepairAttach {
		o.Attach = a.hotPlug.Adopt
	}
	a.missing = repair.New(o)
	a.metrics.Missing(a.missing.Missing)
}

// watchPods passes the pods of a node to the parts that follow them.
func (a *agent) watchPods(ctx context.Context, node string) {
	handlers := podHandlers{a.hotPlug}
	if a.missing != nil {
		handlers = append(handlers, a.missing)
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
