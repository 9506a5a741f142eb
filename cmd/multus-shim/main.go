// multus-shim is the CNI plugin of the thick deployment. It runs the delegates on the host, as the daemon plans.
package main

import (
	"os"

	"multus/internal/host/plugin"
)

func main() { os.Exit(plugin.Run(os.Args[1:], os.Stdout, plugin.Thick())) }
