// multusctl is the command-line tool of Multus. It explains what Multus would do, checks files before they are applied,
// and diagnoses a node. As kubectl-multus it is a plugin of kubectl.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"multus/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := cli.Run(ctx, cli.Env{
		Args: os.Args, Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, UID: os.Geteuid(),
		OS:       runtime.GOOS,
		Terminal: terminal(os.Stdout),
	})
	stop()
	os.Exit(code)
}
