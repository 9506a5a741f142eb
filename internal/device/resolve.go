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

// errAbsent says that the node has no such device.
var errAbsent = errors.New("not on this node")

// errDriverless says that the device is there and has no interface in the node's namespace: a driver in user space has
// it, or the interface is in another namespace.
var errDriverless = errors.New("no interface on this node")

// resolve finds the device that a plugin would take for r. Where a plugin takes the first of several, so does this.
func (inv *Inventory) resolve(r *Reference) (*link.Device, error) {
	switch r.Key {
	case "hwaddr":
		mac, err := net.ParseMAC(r.Value)
		if err != nil {
			return nil, fmt.Errorf("%w: it is no MAC address", errAbsent)
		}
		i := slices.IndexFunc(inv.Devices, func(d link.Device) bool { return d.MAC == mac.String() })
		if i < 0 {
			return nil, errAbsent
		}
		return &inv.Devices[i], nil
	case "kernelpath":
		path, ok := strings.CutPrefix(filepath.Clean(r.Value), "/sys/")
		if !ok {
			return nil, fmt.Errorf("%w: it is no path below /sys/devices", errAbsent)
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

// onBus finds the interface of a PCI or, for a device of the kubelet's, of an auxiliary device.
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

// first finds the first interface that sysfs lists for a device, below one of the patterns. What sysfs shows are the
// interfaces of the namespace in which it was mounted, which is the node's wherever a runtime runs.
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
	return nil, errDriverless
}
