package ledger

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/cniconf"
	"multus/internal/device"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
)

// element is one attachment as today's Multus writes it (behaviour D81). The keys of this implementation follow at the
// end, and today's Multus ignores them. Bytes is authoritative (behaviour D82). A non-empty ConfList marks a list.
type element struct {
	Conf           json.RawMessage `json:"Conf"`
	ConfList       json.RawMessage `json:"ConfList"`
	Name           string          `json:"Name"`
	IfName         string          `json:"ifnameRequest,omitempty"`
	MAC            string          `json:"macRequest,omitempty"`
	InfinibandGUID string          `json:"infinibandGUIDRequest,omitempty"`
	IPs            []string        `json:"ipRequest,omitempty"`
	DefaultRoute   *[]netip.Addr   `json:"default-route,omitempty"`
	DeviceID       string          `json:"deviceID,omitempty"`
	ResourceName   string          `json:"resourceName,omitempty"`
	DropIPv4       bool            `json:"IsFilterV4Gateway"`
	DropIPv6       bool            `json:"IsFilterV6Gateway"`
	Bytes          []byte          `json:"Bytes"`

	// Netns is the network namespace of the attachment. GC needs it because the runtime passes no path.
	Netns string `json:"netnsPath,omitempty"`
	// Args are the CNI_ARGS of ADD. They are used by GC, and to add what a runtime omits at DEL.
	Args request.Args `json:"cniArgs,omitempty"`
	// BinDir is set if the daemon's configuration has another binDir than the runtime's.
	BinDir string `json:"binDir,omitempty"`
	// Boot is the boot of the node at which the attachment was made.
	Boot string `json:"bootID,omitempty"`
	// Stage is the attachment's stage, if some attachments were made at the same time.
	Stage int `json:"stage,omitempty"`
	// Undone and Begun are the record's Progress, the same in all elements. DelTries counts the failed DELs of this
	// attachment after which tolerate may ignore the failure or give up the attachment.
	Undone   bool `json:"undone,omitempty"`
	DelTries int  `json:"delTries,omitempty"`
	Begun    int  `json:"begun,omitempty"`
	// Deleted marks an attachment that was deleted by a DEL that failed elsewhere.
	Deleted bool `json:"deleted,omitempty"`
	// RuntimeConfig is set if the keys above do not determine all of it: port mappings, bandwidth, and what the runtime
	// itself passed (behaviour D67).
	RuntimeConfig map[string]json.RawMessage `json:"capabilityArgs,omitempty"`
	// HostDevice identifies the device of the node that the pod holds, so that it can be found after the pod has vanished.
	HostDevice *device.Identity `json:"hostDevice,omitempty"`
	// Claim is that of the attachment.
	Claim *device.Claim `json:"claim,omitempty"`
	// Owner and Pending are those of the attachment.
	Owner   plan.Owner `json:"owner,omitempty"`
	Pending bool       `json:"pending,omitempty"`
	// Reattaching is that of the attachment.
	Reattaching bool `json:"reattaching,omitempty"`
}

// encode returns the element of an attachment. It omits an interface name that today's Multus derives from the index.
func encode(a *Attachment, index int, of *Record) (*element, error) {
	e := &element{
		Name: a.Name, ResourceName: a.Resource, DeviceID: a.DeviceID,
		DropIPv4: a.Routes.DropIPv4, DropIPv6: a.Routes.DropIPv6,
		Bytes: a.Config.Bytes(), Netns: of.Netns, Args: a.Args, HostDevice: a.HostDevice, Claim: a.Claim, Stage: a.Stage,
		Owner: a.Owner, Pending: a.Pending, Reattaching: a.Reattaching,
	}
	if r := a.Requested; r != nil {
		e.MAC, e.InfinibandGUID, e.IPs, e.DefaultRoute = r.MAC, r.InfinibandGUID, r.IPs, r.DefaultRoute
		if e.DeviceID == "" {
			e.DeviceID = r.DeviceID
		}
	}
	if a.Primary && a.IfName != DefaultIfName {
		e.IfName = a.IfName
	}
	if !a.Primary && (a.IfName != generatedName(index) || a.Requested != nil && a.Requested.Interface != "") {
		e.IfName = a.IfName
	}
	if derived := e.derived(of.ContainerID, a.IfName); !reflect.DeepEqual(derived, a.RuntimeConfig) {
		e.RuntimeConfig = a.RuntimeConfig
	}
	return e, e.summarise(a.Config)
}

// DefaultIfName is the name that runtimes give to a pod's first interface. Only a different name is recorded.
const DefaultIfName = "eth0"

func generatedName(index int) string { return fmt.Sprintf("net%d", index) }

// summarise sets Conf and ConfList, the parsed forms that today's Multus reads in addition to Bytes.
func (e *element) summarise(l *cniconf.List) error {
	conf, err := l.Libcni()
	if err != nil {
		return fmt.Errorf("network %s: %w", e.Name, err)
	}
	empty := json.RawMessage(`{}`)
	if l.Single() {
		e.ConfList = empty
		e.Conf, err = json.Marshal(conf.Plugins[0].Network)
		return err
	}
	plugins := make([]*types.PluginConf, len(conf.Plugins))
	for i, p := range conf.Plugins {
		plugins[i] = p.Network
	}
	e.Conf = json.RawMessage(`{"ipam":{}}`)
	e.ConfList, err = json.Marshal(struct {
		CNIVersion   string              `json:"cniVersion,omitempty"`
		Name         string              `json:"name,omitempty"`
		DisableCheck bool                `json:"disableCheck,omitempty"`
		DisableGC    bool                `json:"disableGC,omitempty"`
		Plugins      []*types.PluginConf `json:"plugins"`
	}{conf.CNIVersion, conf.Name, conf.DisableCheck, conf.DisableGC, plugins})
	return err
}

// derived returns the runtimeConfig that follows from the keys of the format of today's Multus (behaviour D67).
func (e *element) derived(containerID, ifName string) map[string]json.RawMessage {
	rc := map[string]json.RawMessage{}
	set := func(key string, present bool, v any) {
		if !present {
			return
		}
		if b, err := json.Marshal(v); err == nil {
			rc[key] = b
		}
	}
	set("ips", len(e.IPs) > 0, e.IPs)
	set("mac", e.MAC != "", e.MAC)
	set("infinibandGUID", e.InfinibandGUID != "", e.InfinibandGUID)
	set("deviceID", e.DeviceID != "", e.DeviceID)
	set("CNIDeviceInfoFile", e.DeviceID != "", plan.DeviceInfoFile(e.Name, containerID, ifName))
	if len(rc) == 0 {
		return nil
	}
	return rc
}

// decode returns the attachment that an element records. index is the element's position in the file. ifName is the
// runtime's name for the interface of the cluster network (behaviour D68, C80).
func (e *element) decode(index int, containerID, ifName string) (*Attachment, error) {
	l, err := cniconf.Parse(e.Bytes)
	if err != nil {
		return nil, fmt.Errorf("attachment %d (%q): %w", index, e.Name, err)
	}
	a := &Attachment{
		Name: e.Name, IfName: e.IfName, Config: l, Args: e.Args,
		Primary:  index == 0 && (e.IfName == "" || e.IfName == ifName),
		Resource: e.ResourceName, DeviceID: e.DeviceID, RuntimeConfig: e.RuntimeConfig,
		Routes: plan.Routes{DropIPv4: e.DropIPv4, DropIPv6: e.DropIPv6}, HostDevice: e.HostDevice,
		Claim: e.Claim, Stage: min(max(e.Stage, 0), index), Deletion: Deletion{Deleted: e.Deleted, Tries: e.DelTries},
		element: index,
		Owner:   e.Owner, Pending: e.Pending, Reattaching: e.Reattaching,
		Requested: &netsel.Element{
			Interface: e.IfName, MAC: e.MAC, InfinibandGUID: e.InfinibandGUID, IPs: e.IPs, DefaultRoute: e.DefaultRoute,
		},
	}
	switch {
	case a.Primary:
		a.IfName = ifName
	case a.IfName == "":
		a.IfName = generatedName(index)
	}
	if a.RuntimeConfig == nil {
		a.RuntimeConfig = e.derived(containerID, a.IfName)
	}
	if raw, ok := a.RuntimeConfig["CNIDeviceInfoFile"]; ok {
		if err := json.Unmarshal(raw, &a.DeviceInfo); err != nil {
			return nil, fmt.Errorf("attachment %d (%q): %w", index, e.Name, err)
		}
		if !plan.IsDeviceInfo(a.DeviceInfo) {
			a.DeviceInfo = "" // not a device-info file: must not be removed
		}
	}
	if e.DefaultRoute != nil {
		a.Routes.Gateways = *e.DefaultRoute
	}
	if err := checkNames(a); err != nil {
		return nil, fmt.Errorf("attachment %d (%.253q): %w", index, e.Name, err)
	}
	return a, nil
}
