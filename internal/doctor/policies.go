package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"multus/internal/source/kube"
)

var policiesCheck = Check{
	Name: "policies", About: "admission policies limit the service account to its node, and namespaceIsolation is on " +
		"where several namespaces define networks",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		out, err := admission(ctx, n)
		isolation, isolationErr := isolated(ctx, n)
		return append(out, isolation...), errors.Join(err, isolationErr)
	},
}

// admission checks the admission policies of deploy/base.
func admission(ctx context.Context, n *Node) ([]Finding, error) {
	if n.Cluster == nil {
		return nil, errors.New("no API server is configured: give --kubeconfig, or run it in the daemon's pod")
	}
	if _, err := n.Cluster.Version(ctx); err != nil {
		return nil, errors.New("the API server does not answer: see api")
	}
	who := n.Cluster.Account()
	ours := strings.HasPrefix(who, "system:serviceaccount:") && strings.HasSuffix(who, account)
	var out []Finding
	for _, name := range kube.Policies() {
		p, err := n.Cluster.Policy(ctx, name)
		if err != nil {
			return out, fmt.Errorf("admission policies cannot be read: %w", err)
		}
		if f := policyFault(name, p); f != nil {
			out = append(out, *f)
		} else if ours && !p.Selects(who) {
			out = append(out, Finding{
				Severity: Warning, Message: fmt.Sprintf("the admission policy %s selects another service account", name),
				Evidence: fmt.Sprintf("the daemon uses %s; the policy selects: %s", who, strings.Join(p.Accounts, ", ")),
				Fix:      "put the service account into matchConditions of deploy/base/policies.yaml, and apply it",
			})
		}
	}
	return out, nil
}

// policyFault returns what is wrong with a policy, or nil.
func policyFault(name string, p *kube.Policy) *Finding {
	f := &Finding{
		Severity: Warning, Fix: "kubectl apply -f deploy/base/policies.yaml (Kubernetes 1.30 or later)",
		Message: fmt.Sprintf("the admission policy %s is missing: the credentials of one node can write to the pods of all "+
			"nodes", name),
	}
	if name == "multus-events" {
		f.Message = fmt.Sprintf("the admission policy %s is missing: the credentials of a node can forge events of any "+
			"component", name)
	}
	switch {
	case !p.Exists:
		f.Evidence = "the API server has no ValidatingAdmissionPolicy " + name
	case !p.Bound:
		f.Message = strings.Replace(f.Message, "is missing", "denies nothing", 1)
		f.Evidence = fmt.Sprintf("no ValidatingAdmissionPolicyBinding %s with the action Deny and without conditions", name)
	default:
		return nil
	}
	return f
}

// isolated reports that namespaceIsolation is off although several namespaces have definitions. It reports nothing if
// the configuration has the key, because it is then off on purpose.
func isolated(ctx context.Context, n *Node) ([]Finding, error) {
	s := n.setup()
	if s.raw == nil || n.Networks == nil || s.conf.NamespaceIsolation || hasKey(s.raw, "namespaceIsolation") {
		return nil, nil
	}
	if d := s.daemon; d != nil && (d.NamespaceIsolation || hasKey(d.Raw, "namespaceIsolation")) {
		return nil, nil
	}
	defs, err := n.Networks(ctx)
	if err != nil {
		return nil, fmt.Errorf("some network definitions cannot be read: %w", err)
	}
	namespaces := map[string]bool{}
	for i := range defs {
		if !slices.Contains(s.conf.Exceptions(), defs[i].Namespace) {
			namespaces[defs[i].Namespace] = true
		}
	}
	if len(namespaces) < 2 {
		return nil, nil
	}
	names := slices.Sorted(maps.Keys(namespaces))
	return []Finding{{
		Severity: Warning, Message: "namespaceIsolation is off: a pod may use the networks of every namespace",
		Evidence: fmt.Sprintf("network definitions in %d namespaces: %s", len(names), clip(names)),
		Fix: "use deploy/components/isolation; or, if the namespaces trust each other, set \"namespaceIsolation\": " +
			"false in the daemon's configuration",
	}}, nil
}

// clip joins the first names.
func clip(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// hasKey reports whether a configuration has a key.
func hasKey(raw []byte, key string) bool {
	var keys map[string]json.RawMessage
	return json.Unmarshal(raw, &keys) == nil && keys[key] != nil
}
