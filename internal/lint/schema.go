package lint

import (
	"slices"
	"strings"
)

// keys are the members that an object may have, and their types.
type keys map[string]kind

// common are the keys of every plugin configuration (CNI SPEC 1.1 §1), and those of Multus: the two keys for a device,
// and allowInUse.
var common = keys{
	"cniVersion": isString, "cniVersions": isList, "name": isString, "type": isString, "ipam": isObject, "dns": isObject,
	"capabilities": isAny,
	"args":         isObject, "runtimeConfig": isObject, "prevResult": isObject, "disableCheck": isBool,
	"disableGC":              isBool,
	"loadOnlyInlinedPlugins": isBool, "deviceID": isString, "pciBusID": isString, "allowInUse": isBool,
}

// ofList are the keys of a list, except those of its plugins.
var ofList = keys{
	"cniVersion": isString, "cniVersions": isList, "name": isString, "disableCheck": isBool, "disableGC": isBool,
	"loadOnlyInlinedPlugins": isBool, "plugins": isList,
}

// references are the reference plugins of release 1.10 and the keys that each reads. The keys of other plugins are
// unknown.
var references = map[string]keys{
	"bridge": {
		"bridge": isString, "isGateway": isBool, "isDefaultGateway": isBool, "forceAddress": isBool, "ipMasq": isBool,
		"ipMasqBackend": isString,
		"mtu":           isNumber, "hairpinMode": isBool, "promiscMode": isBool, "vlan": isNumber, "vlanTrunk": isList,
		"preserveDefaultVlan": isBool,
		"macspoofchk":         isBool, "enabledad": isBool, "disableContainerInterface": isBool, "portIsolation": isBool,
	},
	"macvlan": {
		"master": isString, "mode": isString, "mtu": isNumber, "mac": isString, "linkInContainer": isBool,
		"bcqueuelen": isNumber,
	},
	"ipvlan":      {"master": isString, "mode": isString, "mtu": isNumber, "linkInContainer": isBool},
	"vlan":        {"master": isString, "vlanId": isNumber, "mtu": isNumber, "linkInContainer": isBool},
	"host-device": {"device": isString, "hwaddr": isString, "kernelpath": isString, "useInterfaceNetwork": isBool},
	"ptp":         {"ipMasq": isBool, "ipMasqBackend": isString, "mtu": isNumber},
	"dummy":       {},
	"loopback":    {},
	"tap": {
		"multiQueue": isBool, "mtu": isNumber, "mac": isString, "owner": isNumber, "group": isNumber, "selinuxContext": isString,
		"bridge": isString,
	},
	"bandwidth": {
		"ingressRate": isNumber, "ingressBurst": isNumber, "egressRate": isNumber, "egressBurst": isNumber,
	},
	"portmap": {
		"backend": isString, "snat": isBool, "conditionsV4": isList, "conditionsV6": isList, "masqAll": isBool,
		"markMasqBit":          isNumber,
		"externalSetMarkChain": isString,
	},
	"tuning": {
		"dataDir": isString, "sysctl": isObject, "mac": isString, "promisc": isBool, "mtu": isNumber, "txQLen": isNumber,
		"allmulti": isBool,
	},
	"vrf":      {"vrfname": isString, "table": isNumber},
	"sbr":      {"table": isNumber, "addSourceHints": isBool, "gateways": isList},
	"firewall": {"backend": isString, "iptablesAdminChainName": isString, "firewalldZone": isString, "ingressPolicy": isString},
}

// since has the first cniVersion that a reference plugin supports, if it does not support all.
var since = map[string]string{"firewall": "0.4.0"}

// chainedOnly are the reference plugins that need the result of an earlier plugin.
var chainedOnly = []string{"bandwidth", "portmap", "tuning", "vrf", "sbr", "firewall"}

// ipams are the reference IPAM plugins and the keys of their "ipam" object.
var ipams = map[string]keys{
	"host-local": {
		"type": isString, "routes": isList, "dataDir": isString, "resolvConf": isString, "ranges": isList,
		"subnet": isString, "rangeStart": isString, "rangeEnd": isString, "gateway": isString,
	},
	"static": {"type": isString, "routes": isList, "addresses": isList, "dns": isObject},
	"dhcp":   {"type": isString, "daemonSocketPath": isString, "provide": isList, "request": isList, "priority": isNumber},
}

// ofRange are the keys of a range of host-local.
var ofRange = keys{"subnet": isString, "rangeStart": isString, "rangeEnd": isString, "gateway": isString}

// values has the valid values of keys of reference plugins. The empty string stands for the default.
var values = map[string]map[string][]string{
	"macvlan":  {"mode": {"", "bridge", "private", "vepa", "passthru"}},
	"ipvlan":   {"mode": {"", "l2", "l3", "l3s"}},
	"firewall": {"backend": {"", "iptables", "firewalld"}, "ingressPolicy": {"", "open", "same-bridge", "isolated"}},
	"portmap":  {"backend": {"", "iptables", "nftables"}},
}

// elementKeys are the keys of a selection element (NPWG v1.3 §4.1.2; behaviour C20-C32). ipRequest and macRequest
// are not among them, because no version of Multus reads them.
var elementKeys = []string{
	"name", "namespace", "interface", "interfaceRequest", "ips", "mac", "infiniband-guid", "portMappings", "bandwidth",
	"deviceID",
	"cni-args", "default-route", "ipam-claim-reference", "resourceClaim",
}

// nearest returns the candidate that was probably meant, or "".
func nearest(word string, candidates []string) string {
	best, least := "", 3
	for _, c := range candidates {
		if strings.EqualFold(c, word) {
			return c
		}
		if len(word) >= len(c)+least || len(c) >= len(word)+least {
			continue // the distance is at least the difference of the lengths
		}
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < least && d < len(word) {
			best, least = c, d
		}
	}
	if best == "" {
		i := slices.IndexFunc(candidates, func(c string) bool {
			return len(c) > 2 && strings.HasPrefix(strings.ToLower(word), strings.ToLower(c))
		})
		if i >= 0 {
			best = candidates[i]
		}
	}
	return best
}

// distance returns the number of insertions, deletions and replacements between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
