package install

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"multus/internal/fsx"
	"multus/internal/source/kube"
	product "multus/internal/version"
)

// maxJob limits the size of the manifest of the Job.
const maxJob = 1 << 20

// defaultClusterWait is how long `uninstall --all-nodes` waits without --wait.
const defaultClusterWait = 4 * time.Minute

// clusterFlags are the flags of `uninstall --all-nodes`.
type clusterFlags struct {
	kubeconfig, namespace, job string
	daemonSets                 []string
}

func (f *clusterFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.job, "job", "", "with --all-nodes: `file` with the Job of one node, as in deploy/uninstall/job.yaml")
	cmd.Flags().StringVar(&f.namespace, "namespace", "kube-system", "with --all-nodes: `namespace` of the DaemonSets and Jobs")
	cmd.Flags().StringSliceVar(&f.daemonSets, "daemonsets", []string{"kube-multus-ds", "multus-executor"},
		"with --all-nodes: `names` of the DaemonSets to delete")
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "",
		"with --all-nodes: `file` with the credentials (default: those of the pod)")
}

// unused returns an error if one of the flags is given without --all-nodes.
func (f *clusterFlags) unused(cmd *cobra.Command) error {
	for _, name := range []string{"job", "namespace", "daemonsets", "kubeconfig"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s needs --all-nodes", name)
		}
	}
	return nil
}

// run removes Multus from the cluster. A wait of zero is the default.
func (f *clusterFlags) run(cmd *cobra.Command, wait time.Duration) error {
	if f.job == "" {
		return errors.New("--all-nodes needs --job: a file like deploy/uninstall/job.yaml, with the image")
	}
	job, err := fsx.ReadFile(f.job, maxJob)
	if err != nil {
		return fmt.Errorf("read the Job of a node (--job): %w", err)
	}
	config, err := kube.Load(kube.Options{
		Kubeconfig: f.kubeconfig, ServiceHost: os.Getenv("KUBERNETES_SERVICE_HOST"),
		ServicePort: os.Getenv("KUBERNETES_SERVICE_PORT"), Version: product.Release(),
	})
	if err != nil {
		return err
	}
	client, err := kube.New(config)
	if err != nil {
		return err
	}
	if wait == 0 {
		wait = defaultClusterWait
	}
	return Everywhere(cmd.Context(), client, &FromCluster{
		Namespace: f.namespace, DaemonSets: f.daemonSets, Job: job, Wait: wait, Pause: pollPause,
		Log: slog.New(slog.NewTextHandler(cmd.OutOrStdout(), nil)),
	})
}
