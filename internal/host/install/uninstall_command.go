package install

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"multus/internal/config"
	"multus/internal/node"
)

const inNodeFlag = "in-node"

// UninstallCommand returns `multus-daemon uninstall`. defaultConfig is the path of the daemon's configuration.
func UninstallCommand(defaultConfig string) *cobra.Command {
	var inNode, allNodes bool
	var wait time.Duration
	var one nodeFlags
	var all clusterFlags
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove Multus from this node",
		Long: "Remove Multus from this node: first the CNI configuration, so that the runtime calls the cluster network\n" +
			"directly again; then, when no pod is attached through Multus any more, the plugins and what else is left.\n" +
			"While pods are attached, it lists them, keeps the plugins and fails; run it again later, or use --wait.\n" +
			"It frees the resources of pods that were deleted meanwhile. Delete the daemon first: it would write its\n" +
			"configuration again. If Multus is installed again while it waits, it ends, and removes nothing more.\n\n" +
			"With --all-nodes, remove Multus from a cluster: delete the DaemonSets, and run a Job on each node.",
		Example: "  kubectl -n kube-system delete daemonset/kube-multus-ds\n" +
			"  multus-daemon uninstall --bin-dir /opt/cni/bin\n" +
			"  multus-daemon uninstall --all-nodes --job job.yaml --kubeconfig ~/.kube/config",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if allNodes {
				return all.run(cmd, wait)
			}
			if err := all.unused(cmd); err != nil {
				return err
			}
			if inNode {
				// The last of several equal flags counts.
				return node.Enter(append(slices.Clone(os.Args), "--"+inNodeFlag+"=false"), os.Environ())
			}
			return one.run(cmd, wait)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "how long to wait for attached pods (with --all-nodes: for all nodes, 4m)")
	cmd.Flags().BoolVar(&inNode, inNodeFlag, false,
		"run in the mount namespace of process 1: for a privileged pod with hostPID")
	cmd.Flags().BoolVar(&allNodes, "all-nodes", false, "remove Multus from all nodes of a cluster")
	one.register(cmd, defaultConfig)
	all.register(cmd)
	for _, ofNode := range []string{"config", "conf-dir", "bin-dir", "state-dir", "socket-dir", "force", inNodeFlag} {
		cmd.MarkFlagsMutuallyExclusive("all-nodes", ofNode)
	}
	return cmd
}

// nodeFlags are the flags of `uninstall` for one node.
type nodeFlags struct {
	config, confDir, binDir, stateDir, socketDir string
	force                                        bool
}

func (f *nodeFlags) register(cmd *cobra.Command, defaultConfig string) {
	cmd.Flags().StringVar(&f.config, "config", defaultConfig,
		"the daemon's configuration `file`, for the directories below; it may be missing")
	cmd.Flags().StringVar(&f.confDir, "conf-dir", "",
		"`directory` of the runtime's CNI configurations (default: cniConfigDir of the configuration)")
	cmd.Flags().StringVar(&f.binDir, "bin-dir", DefaultDest, "the CNI bin `directory`")
	cmd.Flags().StringVar(&f.stateDir, "state-dir", "", "`directory` of the ledger (default: cniDir of the configuration)")
	cmd.Flags().StringVar(&f.socketDir, "socket-dir", "",
		"`directory` of the daemon's socket (default: socketDir of the configuration)")
	cmd.Flags().BoolVar(&f.force, "force", false,
		"go on although a daemon runs, pods are attached, or no other CNI configuration exists")
}

// run removes Multus from this node. A new installation that appears meanwhile is no error, since a Job would try again
// after one, and remove it.
func (f *nodeFlags) run(cmd *cobra.Command, wait time.Duration) error {
	conf, err := readConfig(f.config, cmd.Flags().Changed("config"))
	if err != nil {
		return err
	}
	conf.SocketDir = first(f.socketDir, existing(conf.SocketDir), conf.HostPath(conf.SocketDir))
	log := slog.New(slog.NewTextHandler(cmd.OutOrStdout(), nil))
	err = Uninstall(cmd.Context(), Removal{
		ConfDir:  first(f.confDir, existing(conf.CNIConfigDir), conf.HostPath(conf.CNIConfigDir)),
		BinDir:   f.binDir,
		StateDir: first(f.stateDir, existing(conf.CNIDir), conf.HostPath(conf.CNIDir), config.DefaultCNIDir),
		Socket:   conf.Socket(), LockFile: node.LockFile, Boot: node.Boot(), Wait: wait, Force: f.force, Log: log,
	})
	switch {
	case errors.Is(err, ErrInstalledAgain):
		log.Warn("not everything is removed", "err", err)
		return nil
	case err == nil:
		log.Info("multus is not installed on this node any more")
	}
	return err
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
