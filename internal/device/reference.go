package device

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/cniconf"
)

// Use is what a plugin does with a device.
type Use int

// The uses: a plugin moves the device into the pod, or creates an interface on top of it and leaves it where it is.
const (
	Moves Use = iota
	Shares
)

// Reference is a device that a plugin of a network requests.
type Reference struct {
	Network string
	Use     Use
	// Key is the key in the plugin's configuration (device, hwaddr, kernelpath, pciBusID, deviceID, master). Value is its
	// value.
	Key, Value string
	// AllowInUse is the value of the key allowInUse: the device is not judged.
	AllowInUse bool
	// Given reports whether the kubelet assigned the device, so that it is not in the network definition.
	Given bool
	// Later reports whether other plugins of the network run first and may create the device.
	Later bool
}

// definition returns how a message names the network's configuration.
func (r *Reference) definition() string {
	if strings.Contains(r.Network, "/") {
		return "the network attachment definition " + r.Network
	}
	return "the configuration of network " + r.Network
}

// String returns the reference and its network, for messages.
func (r *Reference) String() string {
	return fmt.Sprintf("%s %q of network %s", r.Key, r.Value, r.Network)
}

// Address returns the device's bus address, which is the last element of a kernel path, or "" if the reference has
// none.
func (r *Reference) Address() string {
	switch r.Key {
	case "pciBusID", "deviceID":
		return r.Value
	case "kernelpath":
		return path.Base(path.Clean(r.Value))
	}
	return ""
}

// usesDevice reports whether plugins of a type use devices of the node.
func usesDevice(typ string) bool {
	switch typ {
	case "host-device", "sriov", "ib-sriov", "macvlan", "ipvlan", "vlan":
		return true
	}
	return false
}

// keys has the keys with which those plugins are configured for a device.
type keys struct {
	Device     string `json:"device"`
	HWAddr     string `json:"hwaddr"`
	KernelPath string `json:"kernelpath"`
	PCIBusID   string `json:"pciBusID"`
	DeviceID   string `json:"deviceID"`
	Master     string `json:"master"`
	// InContainer reports whether the master is an interface of the pod.
	InContainer bool `json:"linkInContainer"`
	AllowInUse  bool `json:"allowInUse"`
}

// References returns the devices that the plugins of a network request. runtimeConfig is what the plugins get by
// capability: its deviceID comes from the kubelet. A master that is omitted is selected by the plugin.
func References(network string, l *cniconf.List, runtimeConfig map[string]json.RawMessage) ([]Reference, error) {
	if !slices.ContainsFunc(l.Types(), usesDevice) {
		return nil, nil
	}
	conf, err := l.Libcni()
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", network, err)
	}
	var out []Reference
	for i, p := range conf.Plugins {
		if !usesDevice(p.Network.Type) {
			continue
		}
		var k keys
		if err := json.Unmarshal(p.Bytes, &k); err != nil {
			return nil, fmt.Errorf("network %s: configuration of plugin %q: %w", network, p.Network.Type, err)
		}
		r := Reference{Network: network, AllowInUse: k.AllowInUse, Later: i > 0}
		r.Use, r.Key, r.Value = k.device(p, runtimeConfig)
		// A device of the kubelet is in the configuration under both keys.
		r.Given = r.Key == "deviceID" && (k.DeviceID == "" || k.DeviceID == k.PCIBusID)
		if r.Value != "" {
			out = append(out, r)
		}
	}
	return out, nil
}

// device returns the key with which a plugin looks up its device. host-device uses the first of its keys that is set. A
// device of the kubelet replaces only pciBusID.
func (k *keys) device(p *libcni.PluginConfig, runtimeConfig map[string]json.RawMessage) (use Use, key, value string) {
	given := ""
	if p.Network.Capabilities["deviceID"] {
		_ = json.Unmarshal(runtimeConfig["deviceID"], &given) // a value that is not a string is left to the plugin to refuse
	}
	switch p.Network.Type {
	case "macvlan", "ipvlan", "vlan":
		if k.InContainer {
			return Shares, "master", ""
		}
		return Shares, "master", k.Master
	case "sriov", "ib-sriov":
		if k.DeviceID == "" {
			k.DeviceID = given
		}
		return Moves, "deviceID", k.DeviceID
	}
	for _, pair := range [][2]string{
		{"device", k.Device},
		{"hwaddr", k.HWAddr},
		{"kernelpath", k.KernelPath},
		{"deviceID", given},
		{"pciBusID", k.PCIBusID},
	} {
		if pair[1] != "" {
			return Moves, pair[0], pair[1]
		}
	}
	return Moves, "device", ""
}
