package config

import (
	"encoding/json"
	"slices"
	"strings"

	"multus/internal/rawjson"
)

// decode decodes a configuration in its usual form: every key in its own case, every value of the right kind, none
// null. For any other form it returns false, and encoding/json decodes the document or returns the error. The plugin
// process decodes one configuration and exits, and encoding/json takes longer to inspect the type than to decode the
// document.
func (p *Plugin) decode(b []byte) bool {
	return json.Valid(b) && rawjson.Object(b, func(key string, value []byte) error {
		if !p.member(key, value) {
			return rawjson.ErrKind
		}
		return nil
	}) == nil
}

// member sets the field of one key.
func (p *Plugin) member(key string, v []byte) bool { //nolint:gocyclo // one case per key
	switch key {
	case "cniVersion":
		return str(v, &p.CNIVersion)
	case "name":
		return str(v, &p.Name)
	case "type":
		return str(v, &p.Type)
	case "confDir":
		return str(v, &p.ConfDir)
	case "cniDir":
		return str(v, &p.CNIDir)
	case "binDir":
		return str(v, &p.BinDir)
	case "delegates":
		return list(v, &p.Delegates, func(item []byte) (json.RawMessage, bool) { return item, true })
	case "clusterNetwork":
		return str(v, &p.ClusterNetwork)
	case "defaultNetworks":
		return list(v, &p.DefaultNetworks, rawjson.String)
	case "systemNamespaces":
		return list(v, &p.SystemNamespaces, rawjson.String)
	case "multusNamespace":
		return str(v, &p.MultusNamespace)
	case "kubeconfig":
		return str(v, &p.Kubeconfig)
	case "namespaceIsolation":
		return boolean(v, &p.NamespaceIsolation)
	case "globalNamespaces":
		return str(v, &p.GlobalNamespaces)
	case "readinessindicatorfile":
		return str(v, &p.ReadinessIndicatorFile)
	case "auxiliaryCNIChainName":
		return str(v, &p.AuxiliaryChain)
	case "failureEvents":
		return boolean(v, &p.FailureEvents)
	case "logToStderr":
		p.LogToStderr = new(bool)
		return boolean(v, p.LogToStderr)
	case "prestart":
		p.Prestart = new(bool)
		return boolean(v, p.Prestart)
	case "logLevel":
		return str(v, &p.LogLevel)
	case "logFile":
		return str(v, &p.LogFile)
	case "daemonSocketDir":
		return str(v, &p.DaemonSocketDir)
	case "plainPods":
		return str(v, &p.PlainPods)
	case "networksDir":
		return str(v, &p.NetworksDir)
	case "nodeAddresses":
		return list(v, &p.NodeAddresses, rawjson.String)
	case "checkNetworks":
		return str(v, &p.CheckNetworks)
	case "runtimeConfig":
		return rawjson.Members(v, &p.RuntimeConfig) == nil
	}
	return !isKey(key)
}

// isKey reports whether key is a key of Plugin, in any case. Keys of Plugin that member does not handle are left to
// encoding/json: rare keys, and keys in another case.
func isKey(key string) bool {
	return slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(k, key) })
}

// keys has all keys of Plugin.
var keys = []string{
	"cniVersion", "name", "type", "confDir", "cniDir", "binDir", "delegates", "clusterNetwork", "defaultNetworks",
	"systemNamespaces", "multusNamespace", "kubeconfig",
	"namespaceIsolation", "globalNamespaces", "readinessindicatorfile", "auxiliaryCNIChainName", "retryDeleteOnError",
	"failureEvents", "events", "logToStderr", "logLevel", "logFile", "logOptions",
	"daemonSocketDir", "daemonTimeout", "plainPods", "networksDir", "kubeletRoot", "allowMissingDevices",
	"attachConcurrency", "prestart", "statusWait", "nodeAddresses", "runtimeConfig",
	"cni.dev/valid-attachments", "cni.dev/attachments", "checkNetworks", "maxNetworks", "allowedTypes",
	"allowInUseNamespaces",
}

func str(v []byte, to *string) bool {
	s, ok := rawjson.String(v)
	if ok {
		*to = s
	}
	return ok
}

func boolean(v []byte, to *bool) (ok bool) {
	*to, ok = rawjson.Bool(v)
	return ok
}

func list[T any](v []byte, to *[]T, item func([]byte) (T, bool)) bool {
	out := []T{}
	err := rawjson.Array(v, func(value []byte) error {
		t, ok := item(value)
		if !ok {
			return rawjson.ErrKind
		}
		out = append(out, t)
		return nil
	})
	*to = out
	return err == nil
}
