package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"multus/internal/agent/cniconfig"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/source/kube"
)

// expirySoon is the remaining lifetime of credentials that causes a warning. The kubelet renews a token when a fifth of
// its lifetime is left, which is 12 of 60 minutes. Certificates are renewed by an administrator or an operator.
const expirySoon = 5 * time.Minute

// account is the end of the name of the service account in the manifests, in any namespace.
const account = ":multus"

var apiCheck = Check{
	Name: "api", About: "the API server answers, the credentials are good, and the role allows what Multus needs",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		if n.Cluster == nil {
			return nil, errors.New("no API server is configured: give --kubeconfig, or run it in the daemon's pod")
		}
		if _, err := n.Cluster.Version(ctx); err != nil {
			return []Finding{unanswered(err)}, nil
		}
		out := expiry(n)
		has, err := n.Cluster.HasDefinitions(ctx)
		if err == nil && !has {
			out = append(out, Finding{
				Severity: Error, Message: "the cluster has no CustomResourceDefinition for network definitions",
				Evidence: "the API server does not serve k8s.cni.cncf.io/v1",
				Fix:      "kubectl apply -f deploy/base/crd.yaml",
			})
		}
		who := n.Cluster.Account()
		if who != "" && !strings.HasSuffix(who, account) {
			return out, errors.Join(err, fmt.Errorf("the role of Multus cannot be checked: the credentials are those of %s",
				who))
		}
		return append(out, role(ctx, n)...), err
	},
}

func unanswered(err error) Finding {
	f := Finding{
		Severity: Error, Message: "the API server refuses the credentials", Evidence: err.Error(),
		Fix: "kubectl -n kube-system rollout restart daemonset/kube-multus-ds: its pods get new tokens",
	}
	if errors.Is(err, plan.ErrUnavailable) && !strings.Contains(err.Error(), "credentials") {
		f.Message = "the API server cannot be reached"
		f.Fix = "curl -k https://<address>/version on the node; in a pod that uses the host's network, kube-proxy or its " +
			"replacement must run"
	}
	return f
}

// expiry reports credentials that have expired or expire soon (multus-cni#852).
func expiry(n *Node) []Finding {
	end, what, err := n.Cluster.Expiry()
	if err != nil || end.IsZero() || end.After(n.Now.Add(expirySoon)) {
		return nil
	}
	f := Finding{
		Severity: Warning, Message: fmt.Sprintf("the %s ends soon and is not renewed", what),
		Evidence: "it ends at " + end.UTC().Format("2006-01-02 15:04:05Z"),
		Fix:      "mount a projected service account token, which the kubelet renews, as deploy/base does",
	}
	if end.Before(n.Now) {
		f.Severity, f.Message = Error, fmt.Sprintf("the %s has expired", what)
	}
	return []Finding{f}
}

// role reports the permissions that the credentials lack (k8snetworkplumbingwg/helm-charts#2).
func role(ctx context.Context, n *Node) (out []Finding) {
	lacks := func(needed []kube.Access, severity Severity, effect, fix string) {
		var lacking []string
		for _, a := range needed {
			if ok, err := n.Cluster.Allowed(ctx, a); err == nil && !ok &&
				!(a.String() == "get pods" && passesAnnotations(ctx, n)) {
				lacking = append(lacking, a.String())
			}
		}
		if len(lacking) > 0 {
			out = append(out, Finding{
				Severity: severity, Message: "the role does not allow: " + strings.Join(lacking, ", ") + effect,
				Evidence: "SelfSubjectAccessReview denies it", Fix: fix,
			})
		}
	}
	lacks(kube.Needed(), Error, "", "kubectl apply -f deploy/base/rbac.yaml")
	if claims, err := n.Cluster.HasClaims(ctx); err == nil && claims {
		lacks(kube.NeededForClaims(), Warning, "; networks get no devices of ResourceClaims",
			"kubectl apply -f deploy/base/rbac.yaml")
	}
	if s := n.setup(); s.daemon != nil && len(s.daemon.ClaimDrivers()) > 0 {
		if version, err := n.Cluster.Version(ctx); err == nil {
			lacks(kube.NeededForClaimStatus(version, s.daemon.ClaimDrivers()), Warning,
				"; the status of ResourceClaims is not written (claimStatus)",
				"add deploy/components/claim-status to your kustomization, with your drivers in its rbac.yaml, and apply it")
		}
	}
	if s := n.setup(); s.daemon != nil && s.daemon.HotPlug {
		lacks(kube.NeededForHotPlug(), Error, "; the networks of running pods do not change (hotPlug)",
			"add deploy/components/hotplug to your kustomization, and apply it")
	}
	return out
}

// passesAnnotations reports whether the node's runtime passes the annotations of pods. Multus then does not read pods,
// and deploy/components/runtime-annotations removes the permission.
func passesAnnotations(ctx context.Context, n *Node) bool {
	var conf struct {
		Capabilities map[string]bool `json:"capabilities"`
	}
	if json.Unmarshal(n.setup().raw, &conf) != nil || !conf.Capabilities[config.PodAnnotations] {
		return false
	}
	node, err := n.Cluster.Node(ctx, n.Name)
	return err == nil && cniconfig.VersionFor(node.ContainerRuntimeVersion) != ""
}
