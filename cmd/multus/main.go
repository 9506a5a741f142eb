// multus is the CNI plugin of the thin deployment. It plans in process, from the API server or from files.
package main

import (
	"os"

	"multus/internal/host/plugin"
	"multus/internal/host/thin"
)

func main() { os.Exit(plugin.Run(os.Args[1:], os.Stdout, thin.Host())) }
