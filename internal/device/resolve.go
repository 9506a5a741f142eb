package device

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"multus/internal/link"
)

// errAbsent is returned if the node has no such device.
var errAbsent = errors.New("not on this node")

// errDriverless is returned if the device exists and has no interface in the node's namespace: it has no driver, or the
// interface is in another namespace.
var errDriverless = errors.New("no interface on this node")

// errUserspace is errDriverless for a device with a user-space driver, which has no interface anywhere.
var errUserspace = fmt.Errorf("%w: its driver is in user space", errDriverless)

// resolve returns the device that a plugin would use for r. If a plugin uses the first of several devices, so does
// resolve.
func (inv *Inventory) resolve(r *Reference) (*link.Device, error) {
	switch r.Key {
	case "hwaddr":
		mac, err := net.ParseMAC(r.Value)
		if err != nil {
			return nil, fmt.Errorf("%w: it is not a MAC address", errAbsent)
		}
		i := slices.IndexFunc(inv.Devices, func(d link.Device) bool { return d.MAC == mac.String() })
		if i < 0 {
			return nil, errAbsent
		}
		return &inv.Devices[i], nil
	case "kernelpath":
		path, ok := strings.CutPrefix(filepath.Clean(r.Value), "/sys/")
		if !ok {
			return nil, fmt.Errorf("%w: it is not a path below /sys/devices", errAbsent)
		}
		return inv.first(filepath.Join(inv.Sys, path), "net")
	case "pciBusID", "deviceID":
		return inv.onBus(r)
	}
	if d := inv.named(r.Value); d != nil {
		return d, nil
	}
	return nil, errAbsent
}

// onBus returns the interface of a PCI device or, for a device of the kubelet, of an auxiliary device.
func (inv *Inventory) onBus(r *Reference) (*link.Device, error) {
	var found []*link.Device
	for i := range inv.Devices {
		if inv.Devices[i].Bus == r.Value {
			found = append(found, &inv.Devices[i])
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	buses := []string{"pci"}
	if r.Key == "deviceID" {
		buses = append(buses, "auxiliary")
	}
	for _, bus := range buses {
		dir := filepath.Join(inv.Sys, "bus", bus, "devices", r.Value)
		d, err := inv.first(dir, "net", "virtio*/net")
		if !errors.Is(err, errAbsent) {
			return d, err
		}
	}
	if len(found) > 0 {
		return found[0], nil
	}
	return nil, errAbsent
}

// first returns the first interface that sysfs lists for a device, below one of the patterns. sysfs shows the
// interfaces of the namespace in which it was mounted. Wherever a runtime runs, this is the node's namespace.
func (inv *Inventory) first(dir string, patterns ...string) (*link.Device, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, errAbsent
	}
	for _, pattern := range patterns {
		names, err := filepath.Glob(filepath.Join(dir, pattern, "*"))
		if err != nil || len(names) == 0 {
			continue
		}
		if d := inv.named(filepath.Base(names[0])); d != nil {
			return d, nil
		}
	}
	if userspace(driver(dir)) {
		return nil, errUserspace
	}
	return nil, errDriverless
}

// driver returns the name of the driver that a device is bound to, or "" for none.
func driver(dir string) string {
	target, err := os.Readlink(filepath.Join(dir, "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// userspace reports whether a driver is a user-space driver: vfio-pci and its variants (mlx5_vfio_pci), and those of
// UIO (uio_pci_generic, igb_uio).
func userspace(driver string) bool {
	return strings.Contains(driver, "vfio") || strings.Contains(driver, "uio")
}

// networkClass is the prefix of the class of a PCI device that is a network controller.
const networkClass = "0x02"

// userspaceDevices returns the network controllers of the node with user-space drivers, by address, with their drivers.
func (inv *Inventory) userspaceDevices() []link.Device {
	dirs, _ := filepath.Glob(filepath.Join(inv.Sys, "bus/pci/devices/*")) // the pattern is valid
	var out []link.Device
	for _, dir := range dirs {
		class, err := os.ReadFile(filepath.Join(dir, "class"))
		if name := driver(dir); err == nil && strings.HasPrefix(string(class), networkClass) && userspace(name) {
			out = append(out, link.Device{Interface: link.Interface{Type: name}, Bus: filepath.Base(dir), Peer: -1})
		}
	}
	return out
}
