package repair

import (
	"context"
	"slices"
	"time"

	"multus/internal/config"
	"multus/internal/netsel"
)

// The rules: the values of the key repair.
const (
	off    = config.RepairOff
	report = config.RepairReport
	evict  = config.RepairEvict
	attach = config.RepairAttach
)

// namespaceAge is how long the annotation of a namespace is used before it is read again.
const namespaceAge = time.Minute

// namespaceRule is the rule of a namespace, or "" if the namespace has no valid annotation.
type namespaceRule struct {
	rule string
	read time.Time
}

// rule returns the rule of a pod (behaviour R16): its annotation, else the one of its namespace, else the one of the
// daemon's file.
func (f *Finder) rule(ctx context.Context, c *candidate) string {
	if config.IsRepair(c.rule) {
		return c.rule
	}
	if rule := f.namespaceRule(ctx, c.pod.Namespace); rule != "" {
		return rule
	}
	if f.o.Rule != off && slices.Contains(f.o.ReportOnly, c.pod.Namespace) {
		return report
	}
	return f.o.Rule
}

// namespaceRule returns the rule of a namespace. One that cannot be read has the last rule that was read: without the
// permission, the annotations of namespaces have no effect.
func (f *Finder) namespaceRule(ctx context.Context, name string) string {
	now := f.o.Clock.Now()
	known, ok := f.namespaces[name]
	if ok && now.Sub(known.read) < namespaceAge {
		return known.rule
	}
	annotations, err := f.o.Cluster.NamespaceAnnotations(ctx, name)
	switch rule := annotations[netsel.Repair]; {
	case err != nil && !ok:
		f.o.Log.Warn("annotation of a namespace has no effect", "annotation", netsel.Repair, "namespace", name, "err", err)
	case err == nil && config.IsRepair(rule):
		known.rule = rule
	case err == nil:
		known.rule = ""
	}
	known.read = now
	f.namespaces[name] = known
	return known.rule
}
