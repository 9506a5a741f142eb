package device

import (
	"os"
	"path/filepath"
)

// PhysicalFunction tells to which device a virtual function (SR-IOV) belongs, by PCI address: a device that is no
// virtual function is its own; "" is the answer for what this node does not have.
func PhysicalFunction(address string) string { return physicalFunction(sysfs, address) }

func physicalFunction(sys, address string) string {
	dir := filepath.Join(sys, "bus", "pci", "devices", address)
	if _, err := os.Stat(dir); err != nil || address == "" || address != filepath.Base(address) {
		return ""
	}
	parent, err := os.Readlink(filepath.Join(dir, "physfn"))
	if err != nil {
		return address
	}
	return filepath.Base(parent)
}
