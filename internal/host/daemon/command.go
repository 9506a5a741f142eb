package daemon

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"multus/internal/host/install"
	"multus/internal/version"
)

// Command returns the command line of multus-daemon. Without a subcommand it runs the daemon, like today's Multus:
// `multus-daemon -config FILE` (behaviour F1).
func Command(getenv func(string) string, stdout io.Writer) *cobra.Command {
	o := Options{Getenv: getenv}
	var dest string
	var reference bool
	root := &cobra.Command{
		Use:           "multus-daemon",
		Short:         "Multus node agent: plans the networks of pods, writes their status, owns the CNI configuration",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := installFirst(cmd, dest, reference); err != nil {
				return err
			}
			return Run(cmd.Context(), o)
		},
	}
	run := &cobra.Command{
		Use:   "run",
		Short: "Serve the plugin on this node (the default)",
		Long: "Serve the plugin on this node. In a pod, the API server and the credentials are those of the pod;\n" +
			"by hand, give --kubeconfig, or set networksDir in the configuration to run without Kubernetes.",
		Example: "  multus-daemon run --config /etc/cni/net.d/multus.d/daemon-config.json --kubeconfig ~/.kube/config " +
			"--node-name node-1 \\\n      --install-dir /opt/cni/bin",
		Args: cobra.NoArgs,
		RunE: root.RunE,
	}
	// Settings that belong to the manifest, such as mounts and probes, are flags. They are not keys of the configuration
	// file: users carry that file over from today's Multus, and it is merged into the configuration of every request.
	for _, c := range []*cobra.Command{root, run} {
		c.Flags().StringVar(&o.Config, "config", DefaultConfig, "the daemon's configuration `file`")
		c.Flags().StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig `file`; default: the pod's service account")
		c.Flags().StringVar(&o.NodeName, "node-name", getenv("MULTUS_NODE_NAME"),
			"`name` of this node (default: MULTUS_NODE_NAME)")
		c.Flags().StringVar(&o.NodeAddress, "node-address", getenv("MULTUS_NODE_ADDRESS"),
			"`address` of this node in the cluster, whose device no pod gets (default: MULTUS_NODE_ADDRESS)")
		c.Flags().StringVar(&dest, "install-dir", "", "install the plugins into this CNI bin `directory` before serving")
		c.Flags().BoolVar(&reference, "reference-plugins", false,
			"with --install-dir, also install the reference CNI plugins that it lacks")
		c.Flags().IntVar(&o.HealthPort, "health-port", 0,
			"answer /healthz and /readyz on this `port` of 127.0.0.1, for probes")
		c.Flags().IntVar(&o.MetricsPort, "metrics-port", 0,
			"serve /metrics on this `port`, instead of metricsPort of the configuration")
		c.Flags().StringVar(&o.MetricsAuth, "metrics-auth", "",
			"who may read /metrics, instead of metricsAuth of the configuration: `kubernetes`")
	}
	root.AddCommand(run, install.Command(), install.UninstallCommand(DefaultConfig))
	root.SetOut(stdout)
	root.SetVersionTemplate("multus-daemon: {{.Version}}\n")
	return root
}

// installFirst installs the plugins before the daemon serves, so that no init container is needed. A failed
// installation ends the daemon, as a failed init container would: otherwise the node would look up to date.
func installFirst(cmd *cobra.Command, dest string, reference bool) error {
	if dest == "" {
		return nil
	}
	// Install all plugins: a configuration or a record of the other deployment may still be on the node.
	o, err := install.For("", dest, "all", reference)
	if err != nil {
		return err
	}
	o.Report = install.Reporter(cmd.ErrOrStderr())
	return install.Install(cmd.Context(), o)
}

// Arguments turns the single dash of today's command line (-config FILE) into a double dash.
func Arguments(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") && len(a) > 2 {
			a = "-" + a
		}
		out[i] = a
	}
	return out
}
