package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"multus/internal/engine/plan"
	"multus/internal/graph"
	"multus/internal/netsel"
)

func (a *app) graphCommand() *cobra.Command {
	var format, node string
	c := &cobra.Command{
		Use:   "graph",
		Short: "Draw pods, networks and the interfaces of nodes, as SVG, Mermaid or DOT",
		Long: "Draw pods, their networks and the node's interfaces that the networks use. Addresses are those of the\n" +
			"annotation network-status; a network that a pod requests and does not have is marked.",
		Example: "  multusctl graph --format svg > networks.svg\n  multusctl graph --format dot --networks-dir examples | " +
			"dot -Tpng > networks.png",
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("output") {
				return usageError{errors.New("graph has --format, not --output")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			draw, ok := map[string]func(*graph.Graph, io.Writer) error{
				"svg":     (*graph.Graph).SVG,
				"mermaid": (*graph.Graph).Mermaid, "dot": (*graph.Graph).DOT,
			}[format]
			if !ok {
				return usageError{fmt.Errorf("unknown format %q: want svg, mermaid or dot", format)}
			}
			s, err := a.open()
			if err != nil {
				return err
			}
			g, err := drawing(cmd.Context(), s, node)
			if err != nil {
				return err
			}
			return draw(g, a.Stdout)
		},
	}
	a.source.add(c.Flags())
	c.Flags().StringVar(&format, "format", "mermaid", "svg, mermaid or dot")
	c.Flags().StringVar(&node, "node", "", "only the pods of this `node`")
	must(c.RegisterFlagCompletionFunc("format",
		cobra.FixedCompletions([]string{"svg", "mermaid", "dot"}, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

// drawing returns the graph of all definitions, and of the pods with networks of their own.
func drawing(ctx context.Context, s *source, node string) (*graph.Graph, error) {
	defs, err := s.networks(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := s.pods(ctx, node)
	if err != nil {
		return nil, err
	}
	g := &graph.Graph{}
	for _, r := range networkRows(defs) {
		network := g.Add(graph.Node{
			Kind: graph.Network, Name: r.Namespace + "/" + r.Name,
			Note: strings.Join(r.Plugins, ", "),
		})
		if r.On != "" {
			g.Join(g.Add(graph.Node{Kind: graph.Interface, Name: r.On}), network, "")
		}
	}
	var errs []error
	for i := range pods {
		errs = append(errs, drawPod(g, &pods[i]))
	}
	return g, errors.Join(errs...)
}

// drawPod adds the networks that a pod has, or else those that it requests.
func drawPod(g *graph.Graph, p *plan.Pod) error {
	got, err := reportedNetworks(p)
	if err != nil {
		return err
	}
	asked, err := netsel.Parse(p.Annotations[netsel.Networks])
	if err != nil {
		return fmt.Errorf("annotation %s of pod %s: %w", netsel.Networks, p.Ref, err)
	}
	if len(got) == 0 && len(asked) == 0 {
		return nil
	}
	pod := g.Add(graph.Node{Kind: graph.Pod, Name: p.String()})
	for _, n := range got {
		network := g.Add(graph.Node{Kind: graph.Network, Name: n.Name})
		g.Join(network, pod, strings.TrimSpace(n.Interface+" "+strings.Join(n.IPs, " ")))
	}
	if len(got) > 0 {
		return nil
	}
	for _, e := range asked {
		namespace := e.Namespace
		if namespace == "" {
			namespace = p.Namespace
		}
		// Add uses the note only if the network was not added before.
		network := g.Add(graph.Node{Kind: graph.Network, Name: namespace + "/" + e.Name, Note: "not defined"})
		g.Want(network, pod, strings.TrimSpace("asked for "+e.Interface))
	}
	return nil
}
