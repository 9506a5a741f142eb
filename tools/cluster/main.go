// Command cluster starts a cluster with Multus, prints how to use it, and removes it when it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/cluster"
	"multus/internal/testutil/module"
)

// installLimit bounds the time until the daemon runs on all nodes.
const installLimit = 3 * time.Minute

func main() {
	cluster.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	cluster.Options

	multus       bool
	dir, archive string
	env          string
	root         string
}

func run(ctx context.Context) (err error) {
	o := options{}
	flag.BoolVar(&o.ReadOnly, "read-only", false, "make the node's root read-only")
	flag.BoolVar(&o.Shared, "shared", false, "make the node's mounts shared")
	flag.IntVar(&o.Nodes, "nodes", 1, "make so many nodes; the first one has the control plane")
	flag.BoolVar(&o.multus, "multus", true, "install Multus; its image is built from this directory")
	flag.StringVar(&o.dir, "manifests", "deploy/base", "`directory` from which Multus is installed")
	flag.StringVar(&o.archive, "import", "", "import this `archive` of images, too")
	flag.StringVar(&o.env, "env", "bin/cluster-env", "`file` for the environment that a shell reads to use the cluster")
	flag.Parse()
	if o.root, err = module.Root(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "multus-cluster-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o.Dir = dir
	progress("starting Kubernetes")
	c, err := cluster.Start(ctx, o.Options)
	if err != nil {
		return err
	}
	defer c.Stop()
	if err := o.images(ctx, c); err != nil {
		return err
	}
	if o.multus {
		progress("installing " + o.dir)
		if err := o.install(ctx, c); err != nil {
			return err
		}
	}
	if err := o.writeEnv(ctx, c); err != nil {
		return err
	}
	defer func() {
		if gone := os.Remove(o.env); !errors.Is(gone, os.ErrNotExist) { // another cluster may have used the name
			err = errors.Join(err, gone)
		}
	}()
	o.explain(c)
	<-ctx.Done()
	return nil
}

func progress(text string) { fmt.Printf("%s  %s …\n", time.Now().Format(time.TimeOnly), text) }

// images imports the image of Multus and the archive of the command line on all nodes.
func (o *options) images(ctx context.Context, c *cluster.Cluster) error {
	var archives []string
	if o.multus {
		progress("building the image of Multus")
		archive, err := cluster.MultusImage()
		if err != nil {
			return err
		}
		archives = append(archives, archive)
	}
	if o.archive != "" {
		archives = append(archives, o.archive)
	}
	for _, node := range append([]*cluster.Cluster{c}, c.Others...) {
		for _, archive := range archives {
			if err := node.Import(ctx, archive); err != nil {
				return err
			}
		}
	}
	return nil
}

// install applies the manifests and waits until the daemon is ready on all nodes.
func (o *options) install(ctx context.Context, c *cluster.Cluster) error {
	ctx, cancel := context.WithTimeoutCause(ctx, installLimit, fmt.Errorf("not ready within %s", installLimit))
	defer cancel()
	if err := c.Kustomize(ctx, o.dir); err != nil {
		return err
	}
	for {
		ds, err := c.Client.AppsV1().DaemonSets("kube-system").Get(ctx, "kube-multus-ds", metav1.GetOptions{})
		if err == nil && ds.Status.ObservedGeneration == ds.Generation && ds.Status.NumberReady == int32(1+len(c.Others)) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the daemon: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(time.Second):
		}
	}
}

// writeEnv writes the file that makes kubectl and kubectl multus use the cluster.
func (o *options) writeEnv(ctx context.Context, c *cluster.Cluster) error {
	kubeconfig, err := c.Outside(ctx)
	if err != nil {
		return err
	}
	bin := filepath.Join(o.root, "bin")
	text := fmt.Sprintf("export KUBECONFIG=%s\nexport PATH=%s:%s:$PATH\n", kubeconfig, filepath.Join(bin, "tools"), bin)
	if err := os.WriteFile(o.env, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the environment: %w", err)
	}
	return nil
}

// explain prints how to use the cluster.
func (o *options) explain(c *cluster.Cluster) {
	fmt.Printf(`
The cluster is ready. In another shell, in this directory:

  . %[1]s

and then, for example:

  kubectl get nodes,pods --all-namespaces
  kubectl multus doctor --node %[2]s
  kubectl apply -f examples/bridge.yaml

docs/tutorial.md continues from here. An image for pods is %[3]s.
A shell on %[2]s:  nsenter -t %[4]d -a bash
`, o.env, c.Node, cluster.WorkloadImage, c.Pid())
	for _, node := range c.Others {
		fmt.Printf("A shell on %s:  nsenter -t %d -a bash\n", node.Node, node.Pid())
	}
	fmt.Printf("Files are in %[1]s, logs in %[1]s/log. Ctrl-C removes the cluster.\n", o.Dir)
}
