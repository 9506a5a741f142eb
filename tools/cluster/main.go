// Command cluster starts a cluster, prints how to use it, and removes it when it is interrupted.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"multus/internal/testutil/cluster"
)

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

func run(ctx context.Context) error {
	var o cluster.Options
	flag.BoolVar(&o.ReadOnly, "read-only", false, "make the node's root read-only")
	flag.BoolVar(&o.Shared, "shared", false, "make the node's mounts shared")
	flag.IntVar(&o.Nodes, "nodes", 1, "make so many nodes; the first one has the control plane")
	archive := flag.String("import", "", "import this `archive` of images")
	flag.Parse()
	dir, err := os.MkdirTemp("", "multus-cluster-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	o.Dir = dir
	c, err := cluster.Start(ctx, o)
	if err != nil {
		return err
	}
	defer c.Stop()
	if *archive != "" {
		for _, node := range append([]*cluster.Cluster{c}, c.Others...) {
			if err := node.Import(ctx, *archive); err != nil {
				return err
			}
		}
	}
	fmt.Printf(`The node is ready. All files are in %[1]s, logs in %[1]s/log.

  kubectl:          nsenter -t %[2]d -n kubectl --kubeconfig %[3]s get pods -A
  a shell:          nsenter -t %[2]d -a bash
  Multus:           nsenter -t %[2]d -n kubectl --kubeconfig %[3]s apply -k deploy/base
                    (with its image: -import dist/multus-….tar)
  an image to use:  %[4]s

`, dir, c.Pid(), filepath.Join(dir, "kubeconfig"), cluster.WorkloadImage)
	for _, node := range c.Others {
		fmt.Printf("  a shell on %s:  nsenter -t %d -a bash\n", node.Node, node.Pid())
	}
	fmt.Println("Ctrl-C removes it.")
	<-ctx.Done()
	return nil
}
