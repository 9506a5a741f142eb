package daemon

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"multus/internal/obs"
)

// Command returns the command line of multus-daemon. Without a sub-command it runs, as today's does:
// `multus-daemon -config FILE` (behaviour.md F1).
func Command(getenv func(string) string, stdout io.Writer) *cobra.Command {
	o := Options{Getenv: getenv}
	root := &cobra.Command{
		Use:           "multus-daemon",
		Short:         "Multus node agent: plans the networks of pods, writes their status, owns the CNI configuration",
		Version:       obs.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return Run(cmd.Context(), o) },
	}
	run := &cobra.Command{
		Use:   "run",
		Short: "Serve the plugin on this node (the default)",
		Long: "Serve the plugin on this node. In a pod, the API server and the credentials are those of the pod;\n" +
			"by hand, give --kubeconfig, or set networksDir in the configuration to run without Kubernetes.",
		Example: "  multus-daemon run --config /etc/cni/net.d/multus.d/daemon-config.json --kubeconfig ~/.kube/config --node-name node-1",
		Args:    cobra.NoArgs,
		RunE:    root.RunE,
	}
	for _, c := range []*cobra.Command{root, run} {
		c.Flags().StringVar(&o.Config, "config", DefaultConfig, "the daemon's configuration `file`")
		c.Flags().StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig `file`; default: the pod's service account")
		c.Flags().StringVar(&o.NodeName, "node-name", getenv("MULTUS_NODE_NAME"), "`name` of this node (default: MULTUS_NODE_NAME)")
	}
	root.AddCommand(run)
	root.SetOut(stdout)
	root.SetVersionTemplate("multus-daemon: {{.Version}}\n")
	return root
}

// Arguments turns today's single dash into the double one: -config FILE.
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
