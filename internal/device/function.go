package device

import (
	"os"
	"path/filepath"
)

// PhysicalFunction returns the PCI address of the physical function of a virtual function (SR-IOV). For a device that
// is not a virtual function it returns the address itself, and "" for a device that the node does not have.
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
