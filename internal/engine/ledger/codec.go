package ledger

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"

	"multus/internal/engine/plan"
	"multus/internal/rawjson"
)

// appendJSON appends the JSON of an element, byte for byte as encoding/json writes it. It is hand-written for speed,
// because it runs for every pod.
func (e *element) appendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.Raw("Conf", e.Conf)
	w.Raw("ConfList", e.ConfList)
	w.String("Name", e.Name)
	w.StringIf("ifnameRequest", e.IfName)
	w.StringIf("macRequest", e.MAC)
	w.StringIf("infinibandGUIDRequest", e.InfinibandGUID)
	w.Other("ipRequest", e.IPs, len(e.IPs) > 0)
	w.Other("default-route", e.DefaultRoute, e.DefaultRoute != nil)
	w.StringIf("deviceID", e.DeviceID)
	w.StringIf("resourceName", e.ResourceName)
	w.Bool("IsFilterV4Gateway", e.DropIPv4)
	w.Bool("IsFilterV6Gateway", e.DropIPv6)
	w.String("Bytes", base64.StdEncoding.EncodeToString(e.Bytes))
	w.StringIf("netnsPath", e.Netns)
	if len(e.Args) > 0 {
		w.Append("cniArgs", e.Args.AppendJSON)
	}
	w.StringIf("binDir", e.BinDir)
	w.StringIf("bootID", e.Boot)
	w.Other("stage", e.Stage, e.Stage != 0)
	w.TrueIf("undone", e.Undone)
	w.Other("delTries", e.DelTries, e.DelTries != 0)
	w.Other("begun", e.Begun, e.Begun != 0)
	w.TrueIf("deleted", e.Deleted)
	if len(e.RuntimeConfig) > 0 {
		w.Append("capabilityArgs", func(b []byte) []byte { return appendMembers(b, e.RuntimeConfig) })
	}
	w.Other("hostDevice", e.HostDevice, e.HostDevice != nil)
	w.Other("claim", e.Claim, e.Claim != nil)
	w.StringIf("owner", string(e.Owner))
	w.TrueIf("pending", e.Pending)
	w.TrueIf("reattaching", e.Reattaching)
	return w.End()
}

// appendMembers appends an object with sorted keys.
func appendMembers(b []byte, members map[string]json.RawMessage) []byte {
	w := rawjson.Begin(b)
	for _, key := range slices.Sorted(maps.Keys(members)) {
		w.Raw(key, members[key])
	}
	return w.End()
}

// parse decodes an element. It handles the usual form itself and leaves everything else to encoding/json.
func (e *element) parse(b []byte) error {
	if err := rawjson.Object(b, e.member); err == nil {
		return nil
	}
	*e = element{}
	return json.Unmarshal(b, e)
}

func (e *element) member(key string, v []byte) error { //nolint:gocyclo // one case per key
	ok := true
	switch key {
	case "Conf":
		e.Conf = v
	case "ConfList":
		e.ConfList = v
	case "Name":
		e.Name, ok = rawjson.String(v)
	case "ifnameRequest":
		e.IfName, ok = rawjson.String(v)
	case "IsFilterV4Gateway":
		e.DropIPv4, ok = rawjson.Bool(v)
	case "IsFilterV6Gateway":
		e.DropIPv6, ok = rawjson.Bool(v)
	case "Bytes":
		var s string
		var err error
		if s, ok = rawjson.String(v); ok {
			e.Bytes, err = base64.StdEncoding.DecodeString(s)
			ok = err == nil
		}
	case "netnsPath":
		e.Netns, ok = rawjson.String(v)
	case "cniArgs":
		ok = len(e.Args) == 0 && e.Args.ParseJSON(v)
	case "binDir":
		e.BinDir, ok = rawjson.String(v)
	case "bootID":
		e.Boot, ok = rawjson.String(v)
	case "undone":
		e.Undone, ok = rawjson.Bool(v)
	case "deleted":
		e.Deleted, ok = rawjson.Bool(v)
	case "owner":
		var owner string
		owner, ok = rawjson.String(v)
		e.Owner = plan.Owner(owner)
	case "pending":
		e.Pending, ok = rawjson.Bool(v)
	case "capabilityArgs":
		return rawjson.Members(v, &e.RuntimeConfig)
	default:
		ok = false // rare keys, unknown keys, and keys in another case
	}
	if !ok {
		return rawjson.ErrKind
	}
	return nil
}
