// Package admission decides about requests to the API server that create, change or delete network definitions, and
// that create pods: a pure function from the request and what the cluster has to a response. The rules are those of
// package lint. It opens no port, reads no file and sends no request; what it reads of the cluster are interfaces of
// Reviewer, which package source/kube implements. The process edge, internal/host/admission, may import it.
package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/lint"
)

// The kinds of objects that are reviewed, as in the metrics.
const (
	KindDefinition = "definition"
	KindPod        = "pod"
	// KindOther is any other object. It is allowed: the webhook configuration selects too much.
	KindOther = "other"
)

// The verdicts, as in the metrics.
const (
	VerdictAllow = "allow"
	VerdictWarn  = "warn"
	VerdictDeny  = "deny"
)

// Rules that are not rules of lint.
const (
	// RuleInUse is about definitions that running pods use.
	RuleInUse = "in-use"
	// RuleUnknown is the rule of lint that the key unknownNetwork sets.
	RuleUnknown = string(plan.RuleMissing)
)

// AllowInUse is the annotation of a definition that may be changed and deleted while pods use it, with the value
// "true".
const AllowInUse = "v1.multus-cni.io/allow-in-use"

// Definitions has the network definitions of the cluster.
type Definitions interface {
	plan.Networks
	// All returns the definitions that are known without a request.
	All() []plan.Definition
}

// Attached has the pods that are attached to networks.
type Attached interface {
	// Users returns the first most of the pods that are attached to a network, in the order of their names, and the
	// number of all.
	Users(ref plan.Ref, most int) (pods []plan.Ref, total int)
}

// Namespaces has the state of namespaces.
type Namespaces interface {
	// Terminating reports whether a namespace is being deleted.
	Terminating(ctx context.Context, name string) (bool, error)
}

// Reviewer reviews requests. Its fields are not changed after the first request.
type Reviewer struct {
	definitions Definitions
	attached    Attached
	namespaces  Namespaces
	actions     map[string]string
	lint        lint.Options
}

// Options are the settings of a Reviewer.
type Options struct {
	// Config has the keys of the section admission.
	Config config.Admission
	// Plugin is the configuration of Multus in the cluster, whose limits apply to pods and definitions, or nil.
	Plugin      *config.Plugin
	Definitions Definitions
	// Attached may be nil if the key inUse is off.
	Attached   Attached
	Namespaces Namespaces
}

// New returns a Reviewer. It returns an error for a key of the configuration that has no such value, or a rule that
// does not exist.
func New(o Options) (*Reviewer, error) {
	actions := map[string]string{
		// The definitions may be for different nodes or for different clusters of one configuration, which cannot be seen.
		"overlap":   config.AdmissionWarn,
		RuleUnknown: config.AdmissionWarn, RuleInUse: config.AdmissionWarn,
	}
	maps.Copy(actions, o.Config.Rules)
	if o.Config.UnknownNetwork != "" {
		actions[RuleUnknown] = o.Config.UnknownNetwork
	}
	if o.Config.InUse != "" {
		actions[RuleInUse] = o.Config.InUse
	}
	if err := errors.Join(o.Config.Check(), checkRules(o.Config.Rules)); err != nil {
		return nil, err
	}
	r := &Reviewer{
		definitions: o.Definitions, attached: o.Attached, namespaces: o.Namespaces, actions: actions,
		lint: lint.Options{Config: o.Plugin},
	}
	for rule, action := range actions {
		if action == config.AdmissionOff {
			r.lint.Disabled = append(r.lint.Disabled, rule)
		}
	}
	return r, nil
}

// checkRules returns an error for an ID that is not that of a rule.
func checkRules(rules map[string]string) error {
	for _, id := range slices.Sorted(maps.Keys(rules)) {
		if id != RuleInUse && !slices.ContainsFunc(lint.Rules(), func(r lint.Rule) bool { return r.ID == id }) {
			return fmt.Errorf("admission.rules: no rule %q; `multusctl lint --rules` lists them", id)
		}
	}
	return nil
}

// Rules returns the IDs of all rules, as in the metrics.
func Rules() []string {
	out := []string{RuleInUse}
	for _, r := range lint.Rules() {
		out = append(out, r.ID)
	}
	return out
}

// Outcome is a response and what the metrics say about it.
type Outcome struct {
	*admissionv1.AdmissionResponse
	Kind, Verdict string
	// Rule is the rule of the first finding that determines the verdict. It is "" if no finding does.
	Rule string
}

// Review decides about one request. It returns an error if the object of the request cannot be read; the API server
// then applies the failurePolicy of the webhook.
func (r *Reviewer) Review(ctx context.Context, req *admissionv1.AdmissionRequest) (*Outcome, error) {
	switch {
	case req.Resource.Group == "k8s.cni.cncf.io" && req.SubResource == "":
		found, err := r.definition(ctx, req)
		return outcome(req, KindDefinition, found), err
	case req.Resource.Group == "" && req.Resource.Resource == "pods" && req.SubResource == "" &&
		req.Operation == admissionv1.Create:
		found, err := r.pod(ctx, req)
		return outcome(req, KindPod, found), err
	}
	return outcome(req, KindOther, nil), nil
}

// finding is a finding and what follows from it.
type finding struct {
	lint.Finding
	deny bool
}

// judge returns the findings that matter, and their consequences: errors deny, unless the configuration has another
// action for their rule.
func (r *Reviewer) judge(found []lint.Finding) []finding {
	var out []finding
	for _, f := range found {
		deny := f.Severity == lint.Error
		switch r.actions[f.Rule] {
		case config.AdmissionOff:
			continue
		case config.AdmissionDeny:
			deny = true
		case config.AdmissionWarn:
			deny = false
		}
		out = append(out, finding{f, deny})
	}
	return out
}

// check applies the rules to the object of a request.
func (r *Reviewer) check(ctx context.Context, req *admissionv1.AdmissionRequest) ([]lint.Finding, error) {
	//nolint:contextcheck // the planner has its objects in memory
	return lint.Review(req.Object.Raw, req.Namespace, r.cluster(ctx), r.lint)
}

// cluster returns what the rules read of the cluster.
func (r *Reviewer) cluster(ctx context.Context) lint.Cluster {
	return lint.Cluster{
		Network: func(ref plan.Ref) (*plan.Definition, error) { return r.definitions.Network(ctx, ref) },
		Others:  r.definitions.All,
	}
}

// pod reviews a new pod.
func (r *Reviewer) pod(ctx context.Context, req *admissionv1.AdmissionRequest) ([]finding, error) {
	found, err := r.check(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("review pod %s/%s: %w", req.Namespace, req.Name, err)
	}
	return r.judge(found), nil
}
