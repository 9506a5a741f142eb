package admission

import (
	"time"

	"github.com/spf13/cobra"

	"multus/internal/engine/plan"
)

// The names in deploy/components/admission.
const (
	// Name is that of the service and of the webhook configurations.
	Name = "multus-admission"
	// Secret is that of the secret with the certificate.
	Secret = "multus-admission-tls"
	// drain is longer than it takes until the API servers see that an endpoint is gone.
	drain = 5 * time.Second
)

// Command returns the command `multus-daemon admission`. defaultConfig is the path of the daemon's file.
func Command(getenv func(string) string, defaultConfig string) *cobra.Command {
	o := Options{Getenv: getenv, Drain: drain}
	var namespace, service string
	c := &cobra.Command{
		Use:   "admission",
		Short: "Serve the webhook that checks network definitions and pods when they are applied",
		Long: "Serve the webhook that checks network definitions and pods when they are applied, with the rules of\n" +
			"`multusctl lint`. It needs no privilege and runs in a Deployment (deploy/components/admission). Its certificate is\n" +
			"in a Secret that all replicas use; it is made and renewed by itself, unless admission.certManager is set.",
		Example: "  multus-daemon admission --config /etc/cni/net.d/multus.d/daemon-config.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Secret = plan.Ref{Namespace: namespace, Name: Secret}
			o.Names = []string{service + "." + namespace + ".svc"}
			return Run(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Config, "config", defaultConfig, "the daemon's configuration `file`, whose section admission applies")
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig `file`; default: the pod's service account")
	f.StringVar(&o.Listen, "listen", ":8443", "`address` of the webhook")
	f.StringVar(&o.Health, "health", ":8080", "`address` of /healthz, /readyz and /metrics")
	f.StringVar(&namespace, "namespace", "kube-system", "`namespace` of the service and of the secret "+Secret)
	f.StringVar(&service, "service", Name, "`name` of the service, for which the certificate is made")
	f.StringVar(&o.Webhooks, "webhooks", Name, "`name` of the webhook configurations whose caBundle is maintained")
	f.StringVar(&o.CertDir, "cert-dir", "/etc/multus-admission/tls",
		"`directory` of tls.crt and tls.key, with --cert-manager")
	f.BoolVar(&o.CertManager, "cert-manager", false,
		"cert-manager maintains the certificate and the webhook configurations (the same as admission.certManager)")
	return c
}
