// multus-shim is the CNI plugin of the thick deployment. It runs the delegates on the host, as the daemon plans. As
// "multus-shim runner" it changes the networks of running pods.
package main

import (
	"os"

	"multus/internal/host/plugin"
	"multus/internal/host/runner"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == plugin.RunnerCommand {
		os.Exit(runner.Run(os.Args[2:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
	}
	os.Exit(plugin.Run(os.Args[1:], os.Stdout, plugin.Thick()))
}
