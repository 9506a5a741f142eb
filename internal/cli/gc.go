package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"multus/internal/engine"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// gone is a sandbox that has ended, as gc prints it.
type gone struct {
	Container string   `json:"container"`
	Pod       string   `json:"pod,omitempty"`
	Netns     string   `json:"netns"`
	Networks  []string `json:"networks"`
	Why       string   `json:"why"`
	// Freed reports whether the sandbox was freed. Problem is the reason why it was not.
	Freed   bool   `json:"freed"`
	Problem string `json:"problem,omitempty"`
	// GivenUp are the networks whose plugins refuse DEL.
	GivenUp []string `json:"givenUp,omitempty"`
}

func (a *app) gcCommand() *cobra.Command {
	t := &attachment{app: a}
	var dryRun bool
	var grace time.Duration
	c := &cobra.Command{
		Use:   "gc",
		Short: "Free the resources of sandboxes that no longer exist",
		Long: "Free the resources of sandboxes that no longer exist and got no DEL: addresses, host ports, interfaces.\n" +
			"These are sandboxes whose network namespace does not exist, if the node was restarted since the attachment,\n" +
			"or if the record is older than --grace. Running sandboxes, and those with an operation in progress, are not\n" +
			"touched. Run it on the node, as root, where the network namespaces of the container runtime are visible.\n" +
			"The runtime's own GC does the same with its list of sandboxes.",
		Example: "  multusctl gc --dry-run\n  multusctl gc",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.gc(cmd.Context(), grace, dryRun) },
	}
	t.directories(c.Flags())
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be freed")
	c.Flags().DurationVar(&grace, "grace", engine.DefaultGrace, "minimum age of a record of this boot, a `duration`")
	return c
}

func (t *attachment) gc(ctx context.Context, grace time.Duration, dryRun bool) error {
	conf, err := t.configuration()
	if err != nil {
		return err
	}
	req := &request.Request{Command: request.Del, Path: t.pluginDir, Config: conf}
	found, err := t.engine(&plan.Resolver{}).Collect(ctx, req, grace, dryRun)
	if err != nil {
		return fault.ForUser(err)
	}
	list, left := []gone{}, 0
	for _, g := range found {
		one := gone{
			Container: g.ContainerID, Pod: g.Pod, Netns: g.Netns, Networks: g.Networks, Why: g.Why, Freed: g.Freed,
			GivenUp: g.GivenUp,
		}
		if g.Err != nil {
			one.Problem = fault.ForUser(g.Err).Error()
			left++
		}
		list = append(list, one)
	}
	err = t.print(map[string]any{"sandboxes": list}, func(w io.Writer) {
		for _, g := range list {
			fmt.Fprintf(w, "%s  %s  %s: %s; %s\n", short(g.Container), cmp.Or(g.Pod, "-"), g.Netns, cmp.Or(g.Problem, g.Why),
				g.outcome())
			if len(g.GivenUp) > 0 {
				fmt.Fprintf(w, "    given up, since their plugins refuse DEL: %s; see multusctl ledger verify\n",
					strings.Join(g.GivenUp, ", "))
			}
		}
		if dryRun {
			fmt.Fprintf(w, "%d to free\n", len(list)-left)
			return
		}
		fmt.Fprintf(w, "%d freed\n", len(list)-left)
	})
	if err == nil && left > 0 {
		return errors.New("some sandboxes were not freed: run gc again once the problem is fixed")
	}
	return err
}

func (g *gone) outcome() string {
	switch {
	case g.Freed:
		return "freed: " + strings.Join(g.Networks, ", ")
	case g.Problem != "":
		return "left: " + strings.Join(g.Networks, ", ")
	}
	return "would be freed: " + strings.Join(g.Networks, ", ")
}
