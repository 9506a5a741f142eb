package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/node"
)

// attachment has the flags of attach and detach.
type attachment struct {
	*app
	netns, container, ifName   string
	conf, clusterNetwork       string
	pluginDir, stateDir, locks string
}

func (a *app) attachCommand() *cobra.Command {
	t := &attachment{app: a}
	c := &cobra.Command{
		Use:   "attach NAMESPACE/NAME --netns PATH",
		Short: "Attach a pod's networks to a network namespace, by hand",
		Long: "Attach the networks of a pod to a network namespace as the ADD of a container runtime does, with the same\n" +
			"engine and the same ledger. Use it to try out network definitions on a machine without Kubernetes;\n" +
			"detach undoes it.",
		Example: "  ip netns add try\n  multusctl attach default/chosen-address --netns /run/netns/try --networks-dir " +
			"examples \\\n" +
			"      --cluster-network examples/node/10-cluster.conflist\n  multusctl detach default/chosen-address --netns " +
			"/run/netns/try",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return t.attach(cmd.Context(), args[0]) },
	}
	t.flags(c)
	c.Flags().StringVar(&t.clusterNetwork, "cluster-network", "",
		"CNI configuration `file` of the cluster network, if --config is not set")
	c.AddCommand(a.attachPodCommand())
	return c
}

func (a *app) detachCommand() *cobra.Command {
	t := &attachment{app: a}
	c := &cobra.Command{
		Use:   "detach NAMESPACE/NAME --netns PATH",
		Short: "Undo attach",
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return t.detach(cmd.Context(), args[0]) },
	}
	t.flags(c)
	c.AddCommand(a.detachPodCommand())
	return c
}

func (t *attachment) flags(c *cobra.Command) {
	t.source.add(c.Flags())
	f := c.Flags()
	f.StringVar(&t.netns, "netns", "", "`path` of the network namespace")
	f.StringVar(&t.container, "container", "",
		"container `ID` of the record (default: multusctl-NAMESPACE-NAME)")
	f.StringVar(&t.ifName, "ifname", "eth0", "`name` of the cluster network's interface")
	t.directories(f)
}

// directories adds the flags for the directories of this node.
func (t *attachment) directories(f *pflag.FlagSet) {
	f.StringVar(&t.conf, "config", "", "CNI configuration `file` of Multus")
	f.StringVar(&t.pluginDir, "plugin-dir", config.DefaultBinDir, "`directory` of the plugins")
	f.StringVar(&t.stateDir, "state-dir", config.DefaultCNIDir, "the state `directory`")
	f.StringVar(&t.locks, "lock-file", node.LockFile, "the `file` of the locks")
}

func (t *attachment) attach(ctx context.Context, name string) error {
	req, err := t.request(request.Add, name)
	if err != nil {
		return err
	}
	s, err := t.open()
	if err != nil {
		return err
	}
	r := &plan.Resolver{
		Networks: s, Pods: s, Devices: t.allocated(),
		PhysicalFunction: device.PhysicalFunction,
	}
	res, err := t.engine(r).Add(ctx, req)
	if err != nil {
		return fault.ForUser(err)
	}
	return t.print(res, func(w io.Writer) {
		fmt.Fprintf(w, "pod %s is attached to %s; see: multusctl status --state-dir %s\n", name, t.netns, t.stateDir)
	})
}

func (t *attachment) detach(ctx context.Context, name string) error {
	req, err := t.request(request.Del, name)
	if err != nil {
		return err
	}
	// For a runtime, DEL of an unknown sandbox is a success. For a user, it is a misspelt name.
	r, err := lookUp(&ledger.Store{Dir: t.stateDir, Log: slog.New(slog.DiscardHandler)}, req.ContainerID, t.ifName)
	if r == nil {
		return cmp.Or(err, fmt.Errorf(
			"pod %s (container %s) has no record in %s: nothing was done (see multusctl ledger ls)", req.Pod(),
			req.ContainerID, t.stateDir))
	}
	// The planner is empty, because DEL replays the record that attach has written.
	if err := t.engine(&plan.Resolver{}).Del(ctx, req); err != nil {
		return fault.ForUser(err)
	}
	return t.print(map[string]string{"detached": name}, func(w io.Writer) { fmt.Fprintf(w, "pod %s is detached\n", name) })
}

// request returns the request that a runtime would send.
func (t *attachment) request(command, name string) (*request.Request, error) {
	if t.netns == "" {
		return nil, usageError{errors.New("no network namespace: give --netns PATH")}
	}
	ref, err := parseRef(name)
	if err != nil {
		return nil, err
	}
	conf, err := t.configuration()
	if err != nil {
		return nil, err
	}
	container := cmp.Or(t.container, "multusctl-"+ref.Namespace+"-"+ref.Name)
	return &request.Request{
		Command: command, ContainerID: container, Netns: t.netns, IfName: t.ifName, Path: t.pluginDir, Config: conf,
		Args: request.Args{
			{request.IgnoreUnknown, "1"},
			{request.PodNamespace, ref.Namespace},
			{request.PodName, ref.Name},
			{request.InfraContainer, container},
		},
	}, nil
}

// configuration returns the file of --config with the directories of the flags, or a configuration made from the flags
// alone.
func (t *attachment) configuration() ([]byte, error) {
	made, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "multusctl", "type": "multus", "cniDir": t.stateDir, "binDir": t.pluginDir,
		// Without a cluster network, DEL still replays the ledger.
		"clusterNetwork": cmp.Or(t.clusterNetwork, "/etc/cni/net.d"),
	})
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	if t.conf == "" {
		return made, nil
	}
	b, err := os.ReadFile(t.conf)
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration: %w", err)
	}
	return config.Overlay(b, made, "cniVersion", "name", "type", "clusterNetwork")
}

func (t *attachment) engine(r *plan.Resolver) *engine.Engine {
	r.Log = slog.New(slog.NewTextHandler(t.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return engine.New(engine.Deps{
		Planner: r, Publisher: noop{}, Status: noop{}, LockFile: t.locks,
		Boot: node.Boot(), Log: r.Log,
	})
}

// noop replaces the publisher and the cache of STATUS results: attachments made by hand belong to no pod of a
// cluster.
type noop struct{}

// Publish does nothing.
func (noop) Publish(context.Context, *publish.Report) error { return nil }

// Get returns no STATUS result.
func (noop) Get(context.Context, []byte) (error, bool) { return nil, false }

// Put does nothing.
func (noop) Put(context.Context, []byte, error) {}
