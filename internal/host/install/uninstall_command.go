package install

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"multus/internal/config"
	"multus/internal/node"
)

// UninstallCommand returns `multus-daemon uninstall`. defaultConfig is the path of the daemon's configuration.
func UninstallCommand(defaultConfig string) *cobra.Command {
	const inNodeFlag = "in-node"
	var file, confDir, stateDir, socketDir string
	var inNode, allNodes bool
	var cluster clusterFlags
	r := Removal{LockFile: node.LockFile, Boot: node.Boot()}
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove Multus from this node",
		Long: "Remove Multus from this node: first the CNI configuration, so that the runtime calls the cluster network\n" +
			"directly again; then, when no pod is attached through Multus any more, the plugins and what else is left.\n" +
			"While pods are attached, it lists them, keeps the plugins and fails; run it again later, or use --wait.\n" +
			"It frees the resources of pods that were deleted meanwhile. Delete the daemon first: it would write its\n" +
			"configuration again.\n\n" +
			"With --all-nodes, remove Multus from a cluster: delete the DaemonSets, and run a Job on each node.",
		Example: "  kubectl -n kube-system delete daemonset/kube-multus-ds\n" +
			"  multus-daemon uninstall --bin-dir /opt/cni/bin\n" +
			"  multus-daemon uninstall --all-nodes --job job.yaml --kubeconfig ~/.kube/config",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if inNode {
				// The last of several equal flags counts.
				return node.Enter(append(slices.Clone(os.Args), "--"+inNodeFlag+"=false"), os.Environ())
			}
			if allNodes {
				return cluster.run(cmd, r.Wait)
			}
			if err := cluster.unused(cmd); err != nil {
				return err
			}
			conf, err := readConfig(file, cmd.Flags().Changed("config"))
			if err != nil {
				return err
			}
			r.ConfDir = first(confDir, existing(conf.CNIConfigDir), conf.HostPath(conf.CNIConfigDir))
			r.StateDir = first(stateDir, existing(conf.CNIDir), conf.HostPath(conf.CNIDir), config.DefaultCNIDir)
			conf.SocketDir = first(socketDir, existing(conf.SocketDir), conf.HostPath(conf.SocketDir))
			r.Socket = conf.Socket()
			r.Log = slog.New(slog.NewTextHandler(cmd.OutOrStdout(), nil))
			err = Uninstall(cmd.Context(), r)
			if errors.Is(err, ErrInstalledAgain) {
				r.Log.Warn(err.Error()) // no error, after which a Job would try again, and remove the new installation
				return nil
			}
			if err != nil {
				return err
			}
			r.Log.Info("multus is not installed on this node any more")
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", defaultConfig,
		"the daemon's configuration `file`, for the directories below; it may be missing")
	cmd.Flags().StringVar(&confDir, "conf-dir", "",
		"`directory` of the runtime's CNI configurations (default: cniConfigDir of the configuration)")
	cmd.Flags().StringVar(&r.BinDir, "bin-dir", DefaultDest, "the CNI bin `directory`")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "`directory` of the ledger (default: cniDir of the configuration)")
	cmd.Flags().StringVar(&socketDir, "socket-dir", "",
		"`directory` of the daemon's socket (default: socketDir of the configuration)")
	cmd.Flags().DurationVar(&r.Wait, "wait", 0, "how long to wait for pods that are attached")
	cmd.Flags().BoolVar(&inNode, inNodeFlag, false,
		"run in the mount namespace of process 1: for a privileged pod with hostPID")
	cmd.Flags().BoolVar(&allNodes, "all-nodes", false, "remove Multus from all nodes of a cluster")
	cluster.register(cmd)
	cmd.Flags().BoolVar(&r.Force, "force", false,
		"go on although a daemon runs, pods are attached, or no other CNI configuration exists")
	for _, ofNode := range []string{"config", "conf-dir", "bin-dir", "state-dir", "socket-dir", inNodeFlag, "force"} {
		cmd.MarkFlagsMutuallyExclusive("all-nodes", ofNode)
	}
	return cmd
}

// readConfig reads the daemon's configuration. If the file does not exist and must is false, it returns the defaults.
func readConfig(file string, must bool) (*config.Daemon, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !must {
		b, err = []byte("{}"), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the daemon's configuration: %w", err)
	}
	conf, err := config.ParseDaemon(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return conf, nil
}

// existing returns dir if it exists, and "" otherwise: a configuration that was written for today's manifests names the
// directories of the container (/host/...), which do not exist on the node itself.
func existing(dir string) string {
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

func first(dirs ...string) string {
	for _, d := range dirs {
		if d != "" {
			return d
		}
	}
	return ""
}
