package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"multus/internal/engine/plan"
)

// Policies returns the names of the admission policies in the manifests. They restrict the service account beyond its
// role.
func Policies() []string { return []string{"multus-node-identity", "multus-events"} }

// Policy is the state of an admission policy.
type Policy struct {
	// Exists reports whether the policy exists, and Bound whether a binding of the same name makes it deny requests.
	Exists, Bound bool
	// Accounts are the expressions that select requests by their service account.
	Accounts []string
}

// Policy reads an admission policy and its binding. It returns a *ForbiddenError if the role does not permit that. If
// the API server does not have the kind (Kubernetes before 1.30), the policy does not exist.
func (c *Client) Policy(ctx context.Context, name string) (*Policy, error) {
	var policy struct {
		Spec struct {
			MatchConditions []struct {
				Expression string `json:"expression"`
			} `json:"matchConditions"`
		} `json:"spec"`
	}
	p := &Policy{}
	var err error
	if p.Exists, err = c.admission(ctx, "validatingadmissionpolicies", name, &policy); err != nil || !p.Exists {
		return p, err
	}
	for _, m := range policy.Spec.MatchConditions {
		p.Accounts = append(p.Accounts, m.Expression)
	}
	var binding struct {
		Spec struct {
			PolicyName        string    `json:"policyName"`
			ValidationActions []string  `json:"validationActions"`
			MatchResources    *struct{} `json:"matchResources"`
		} `json:"spec"`
	}
	p.Bound, err = c.admission(ctx, "validatingadmissionpolicybindings", name, &binding)
	p.Bound = p.Bound && binding.Spec.PolicyName == name && slices.Contains(binding.Spec.ValidationActions, "Deny") &&
		binding.Spec.MatchResources == nil
	return p, err
}

// Selects reports whether the policy applies to an account, as far as its expressions show.
func (p *Policy) Selects(account string) bool {
	return len(p.Accounts) == 0 || slices.ContainsFunc(p.Accounts, func(e string) bool {
		return strings.Contains(e, "'"+account+"'") || strings.Contains(e, `"`+account+`"`)
	})
}

// admission reads an object of admissionregistration.k8s.io and reports whether it exists.
func (c *Client) admission(ctx context.Context, resource, name string, into any) (bool, error) {
	t := target{verb: "get", group: "admissionregistration.k8s.io", resource: resource, name: name}
	err := do(ctx, c.core.Get().AbsPath("/apis", t.group, "v1", resource, name).MaxRetries(0), into, reviewTimeout)
	err = lookupError(t, err)
	if errors.Is(err, plan.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get %s %s: %w", resource, name, err)
	}
	return true, nil
}
