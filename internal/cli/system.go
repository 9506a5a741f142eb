package cli

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// linux is the system of nodes.
const linux = "linux"

// errNotLinux is wrapped by the error of a command that needs a node, on a machine with another system.
var errNotLinux = errors.New("needs a Linux node")

// isLinux reports whether this machine can be a node. On other systems the commands work that read files or the API,
// and those that run on a node, with --node.
func (a *app) isLinux() bool { return cmp.Or(a.OS, linux) == linux }

// needsNode reports whether a command reads or changes the node on which it runs. verb is its name below the root.
func needsNode(verb string, c *cobra.Command, args []string) bool {
	switch verb {
	case "attach", "check", "detach", "devices", "doctor", "gc", "ledger ls", "ledger show", "ledger verify":
		return true
	case "status": // the network status of a pod is in the API
		return len(args) == 0
	case "explain": // what a sandbox has is on its node
		return c.Flags().Changed("running")
	}
	return false
}

// nodeOnly makes a command that needs a node return an error on other systems, before it does anything.
func (a *app) nodeOnly(verb string, c *cobra.Command) {
	run := c.RunE
	c.RunE = func(cmd *cobra.Command, args []string) error {
		node := cmd.Flags().Lookup("node")
		switch {
		case !needsNode(verb, cmd, args) || node != nil && node.Value.String() != "":
			return run(cmd, args)
		case node != nil:
			return fmt.Errorf("%s %w: run it on the node, or with --node NAME", cmd.CommandPath(), errNotLinux)
		}
		return fmt.Errorf("%s %w: run it on the node", cmd.CommandPath(), errNotLinux)
	}
}
