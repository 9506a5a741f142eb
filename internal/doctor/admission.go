package doctor

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"multus/internal/engine/plan"
	"multus/internal/source/kube"
)

const (
	// webhookName is the name of the webhook configurations in deploy/components/admission.
	webhookName = "multus-admission"
	// webhookExpirySoon is the remaining lifetime of the webhook's certificate that causes a warning. The webhook renews
	// it when four months are left, and cert-manager as its object says.
	webhookExpirySoon = 14 * 24 * time.Hour
)

var admissionCheck = Check{
	Name: "admission", About: "where the admission webhook is installed: it can be reached, the API server trusts its " +
		"certificate, and the certificate does not end soon",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		if n.Cluster == nil {
			return nil, errors.New("no API server is configured: give --kubeconfig, or run it in the daemon's pod")
		}
		if _, err := n.Cluster.Version(ctx); err != nil {
			return nil, errors.New("the API server does not answer: see api")
		}
		for _, kind := range []string{kube.Validating, kube.Mutating} {
			w, err := n.Cluster.Webhooks(ctx, kind, webhookName)
			_, forbidden := errors.AsType[*kube.ForbiddenError](err)
			switch {
			case errors.Is(err, plan.ErrNotFound):
				continue // not installed
			case forbidden && strings.HasSuffix(n.Cluster.Account(), account):
				return nil, nil // the component grants the permission, so that it is not installed
			case err != nil:
				return nil, fmt.Errorf("webhook configurations cannot be read: %w", err)
			}
			if out, err := webhooks(ctx, n, w); len(out) > 0 || err != nil {
				return out, err
			}
		}
		return nil, nil
	},
}

// webhooks checks the webhooks of one configuration, and returns the first fault.
func webhooks(ctx context.Context, n *Node, w *kube.Webhooks) ([]Finding, error) {
	for i, name := range w.Names {
		out, err := webhook(ctx, n, name, w.Services[i], w.Bundles[i])
		for i := range out {
			out[i].Severity = Warning
			out[i].Message += ": network definitions and pods are not checked when they are applied"
		}
		if len(out) > 0 || err != nil {
			return out, err
		}
	}
	return nil, nil
}

// webhook returns what is wrong with one webhook.
func webhook(ctx context.Context, n *Node, name, service string, bundle []byte) ([]Finding, error) {
	const restart = "kubectl -n kube-system logs deployment/multus-admission"
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bytes.TrimSpace(bundle)) {
		return []Finding{{
			Message:  "the API server does not trust the certificate of the admission webhook",
			Evidence: fmt.Sprintf("webhook %s has no caBundle", name), Fix: restart,
		}}, nil
	}
	namespace, at, _ := strings.Cut(service, "/")
	ref := plan.Ref{Namespace: namespace, Name: at}
	address, err := n.Cluster.ServiceAddress(ctx, ref)
	if errors.Is(err, plan.ErrNotFound) {
		return []Finding{{
			Message: "the admission webhook has no service", Evidence: fmt.Sprintf("webhook %s calls %s", name, service),
			Fix: "apply deploy/components/admission again",
		}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("service of the webhook: %w", err)
	}
	if n.Handshake == nil {
		return nil, errors.New("the webhook cannot be called from here")
	}
	host := at + "." + namespace + ".svc"
	chain, err := n.Handshake(ctx, address, host)
	if err != nil || len(chain) == 0 {
		return []Finding{{
			Message:  "the admission webhook cannot be reached",
			Evidence: fmt.Sprintf("%s at %s: %v", service, address, err),
			Fix: "kubectl -n kube-system get pods -l app=multus-admission; this means nothing on a machine that is " +
				"not a node",
		}}, nil
	}
	if chain[0].NotAfter.Before(n.Now.Add(webhookExpirySoon)) {
		return []Finding{{
			Message:  "the certificate of the admission webhook ends soon or has ended, and is not renewed",
			Evidence: "it ends at " + chain[0].NotAfter.UTC().Format("2006-01-02 15:04:05Z"), Fix: restart,
		}}, nil
	}
	intermediates := x509.NewCertPool()
	for _, c := range slices.Clone(chain)[1:] {
		intermediates.AddCert(c)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{
		DNSName: host, Roots: pool, Intermediates: intermediates, CurrentTime: n.Now,
	})
	if err != nil {
		return []Finding{{
			Message:  "the API server does not trust the certificate of the admission webhook",
			Evidence: fmt.Sprintf("webhook %s: %v", name, err), Fix: restart,
		}}, nil
	}
	return nil, nil
}
