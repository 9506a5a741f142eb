package device

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/cniconf"
)

// Use is what a plugin does with a device.
type Use int

// The uses: it moves the device into the pod, or makes an interface on top of it and leaves it where it is.
const (
	Moves Use = iota
	Shares
)

// Reference is a device that a plugin of a network asks for.
type Reference struct {
	Network string
	Use     Use
	// Key of the plugin's configuration (device, hwaddr, kernelpath, pciBusID, deviceID, master), and its value.
	Key, Value string
	// AllowInUse is the key of this name: the device is not judged.
	AllowInUse bool
	// Given reports that the device was handed out by the kubelet, and is not written in the definition.
	Given bool
	// Later tells that other plugins of the network run first, and may make the device.
	Later bool
}

// definition is how the network's configuration is called to its author.
func (r *Reference) definition() string {
	if strings.Contains(r.Network, "/") {
		return "the network attachment definition " + r.Network
	}
	return "the configuration of network " + r.Network
}

// String names the reference and its network, for messages.
func (r *Reference) String() string {
	return fmt.Sprintf("%s %q of network %s", r.Key, r.Value, r.Network)
}

// Address is the device's on its bus, "" if the reference does not tell: a kernel path ends with it.
func (r *Reference) Address() string {
	switch r.Key {
	case "pciBusID", "deviceID":
		return r.Value
	case "kernelpath":
		return filepath.Base(filepath.Clean(r.Value))
	}
	return ""
}

// usesDevice tells the plugins that use devices of the node, by type.
func usesDevice(typ string) bool {
	switch typ {
	case "host-device", "sriov", "ib-sriov", "macvlan", "ipvlan", "vlan":
		return true
	}
	return false
}

// keys are the keys by which those plugins are told the device.
type keys struct {
	Device     string `json:"device"`
	HWAddr     string `json:"hwaddr"`
	KernelPath string `json:"kernelpath"`
	PCIBusID   string `json:"pciBusID"`
	DeviceID   string `json:"deviceID"`
	Master     string `json:"master"`
	// InContainer: the master is an interface of the pod.
	InContainer bool `json:"linkInContainer"`
	AllowInUse  bool `json:"allowInUse"`
}

// References lists the devices that the plugins of a network ask for. runtimeConfig is what the plugins are offered by
// capability: deviceID in it comes from the kubelet. A master that is left out is the plugin's to choose.
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
		// A device of the kubelet's is put into the configuration under both keys.
		r.Given = r.Key == "deviceID" && (k.DeviceID == "" || k.DeviceID == k.PCIBusID)
		if r.Value != "" {
			out = append(out, r)
		}
	}
	return out, nil
}

// device is what a plugin looks for: host-device takes the first of its keys that is set, and for it a device of the
// kubelet's takes the place of pciBusID only.
func (k *keys) device(p *libcni.PluginConfig, runtimeConfig map[string]json.RawMessage) (use Use, key, value string) {
	given := ""
	if p.Network.Capabilities["deviceID"] {
		_ = json.Unmarshal(runtimeConfig["deviceID"], &given) // what is no text is the plugin's to refuse
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
