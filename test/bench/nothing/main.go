// nothing links what every plugin of this kind links, libcni and netlink, and does nothing. Its start-up time is the
// lower limit for the plugin's.
package main

import (
	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"
)

// keep is never called. It prevents the linker from removing the libraries.
var keep = []any{libcni.NewCNIConfig, netlink.LinkByName}

func main() {
	if len(keep) == 0 {
		panic("nothing is linked")
	}
}
