// multus-shim is the CNI plugin of the thick deployment: it runs the delegates on the host; the daemon says
// which.
package main

import (
	"os"

	"multus/internal/host/plugin"
)

func main() { os.Exit(plugin.Run(os.Args[1:], os.Stdout, plugin.Thick())) }
