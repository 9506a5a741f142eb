// multus-daemon is the node agent: it plans for the plugin, writes status and owns the CNI configuration; and it
// installs the plugin.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"multus/internal/host/daemon"
	"multus/internal/host/entrypoint"
	"multus/internal/host/install"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := program(os.Args).ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	if !errors.Is(err, install.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	os.Exit(1)
}

// program is what this was called as: the image has links to this binary under the names of today's other programs
// (behaviour.md G60).
func program(args []string) *cobra.Command {
	var cmd *cobra.Command
	flags := args[1:]
	switch filepath.Base(args[0]) {
	case install.LegacyName:
		cmd = install.LegacyCommand()
	case "thin_entrypoint":
		cmd = entrypoint.Command(os.Getenv, os.Stdout)
	default:
		cmd, flags = daemon.Command(os.Getenv, os.Stdout), daemon.Arguments(flags)
	}
	cmd.SetArgs(flags)
	return cmd
}
