// multus-daemon is the node agent. It plans for the plugin, writes the network status, maintains the CNI configuration
// file, and installs the plugin.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"multus/internal/fault"
	"multus/internal/host/admission"
	"multus/internal/host/daemon"
	"multus/internal/host/entrypoint"
	"multus/internal/host/install"
	"multus/internal/host/shell"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args, os.Stderr, os.Geteuid())
	stop()
	os.Exit(code)
}

// run runs one command line for the user uid and returns the exit code.
func run(ctx context.Context, args []string, stderr io.Writer, uid int) int {
	if slices.Contains(shell.Names, filepath.Base(args[0])) {
		sh := &shell.Shell{Stdout: os.Stdout, Stderr: stderr, Container: shell.ContainerLog}
		if err := sh.Run(ctx, args); err != nil {
			fmt.Fprintln(stderr, "error:", err)
			return 1
		}
		return 0
	}
	cmd := program(args) //nolint:contextcheck // cobra passes ctx to the commands
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, install.ErrHelp) {
		fmt.Fprintln(stderr, "error:", fault.AsRoot(fault.ForUser(err), uid))
	}
	return 1
}

// program returns the command for the name of the executable: the image has links to this binary with the names of the
// other programs of today's Multus (behaviour G60).
func program(args []string) *cobra.Command {
	var cmd *cobra.Command
	flags := args[1:]
	switch filepath.Base(args[0]) {
	case install.LegacyName:
		cmd = install.LegacyCommand()
	case "thin_entrypoint":
		cmd = entrypoint.Command(os.Getenv, os.Stdout)
	case entrypoint.LegacyName:
		cmd = entrypoint.LegacyCommand(os.Getenv, os.Stdout)
	default:
		cmd, flags = daemon.Command(os.Getenv, os.Stdout), daemon.Arguments(flags)
		cmd.AddCommand(admission.Command(os.Getenv, daemon.DefaultConfig))
	}
	cmd.SetArgs(flags)
	return cmd
}
