// nothing links what every plugin of this kind links, libcni and netlink, and does nothing: what its start costs is the
// limit for ours.
package main

import (
	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"
)

// keep is never called; it keeps the libraries in the binary.
var keep = []any{libcni.NewCNIConfig, netlink.LinkByName}

func main() {
	if len(keep) == 0 {
		panic("nothing is linked")
	}
}
