package lint

// Rule is one rule.
type Rule struct {
	// ID identifies the rule in findings. It never changes.
	ID string `json:"id"`
	// Severity is that of its findings. A rule for errors can have warnings, too.
	Severity Severity `json:"severity"`
	// About describes what the rule finds.
	About string `json:"about"`
	runs  []func(*reporter)
}

// Rules returns all rules in the order of their IDs. Those whose function is made by onRefusal are rules of the
// planner.
func Rules() []Rule {
	return []Rule{
		rule("address", Error, "requested addresses that the network's IPAM refuses", each(attachments, checkAddresses)),
		rule("allowed", Error, "plugins and keys that the cluster does not allow in definitions", onRefusal(describeAllowed)),
		rule("ambiguous", Error, "keys of spec.config that differ only in case", onRefusal(describeAmbiguous)),
		rule("annotation", Error, "annotations that cannot be read",
			onRefusal(describeAnnotation), each(pods, checkAnnotationKinds)),
		rule("annotation-name", Warning, "annotations with a misspelt name", each(pods, checkAnnotationNames)),
		rule("annotation-place", Warning, "annotations of a workload that its pods do not get",
			each(pods, checkAnnotationPlace)),
		rule("api-version", Error, "objects without apiVersion, or with a wrong one", each(ours, checkAPIVersion)),
		rule("bandwidth", Error, "rates without a burst, and bursts without a rate", each(elements, checkBandwidth)),
		rule("capability", Warning, "requests that no plugin of the network supports", each(attachments, checkCapabilities)),
		rule("chain", Error, "plugins that need the result of an earlier plugin and come first", each(plugins, checkChain)),
		rule("cni-version", Error, "versions that do not exist or that a plugin does not support",
			each(networks, checkVersion), each(plugins, checkMinimumVersion)),
		rule("config", Error, "spec.config that cannot be read, or that is read in another way than it seems",
			onRefusal(describeConfig), each(definitions, checkConfig)),
		rule("default-route", Error, "more than one default route of a family", onRefusal(describeDefaultRoute)),
		rule("device", Error, "networks that need more devices than the containers request", onRefusal(describeDevice)),
		rule("device-twice", Warning, "networks with a device of a claim and of a resource", each(pods, checkDeviceTwice)),
		rule("duplicate-object", Error, "definitions that the files have more than once", each(definitions, checkUnique)),
		rule("host-network", Warning, "networks of a pod that uses the network of its node", each(pods, checkHostNetwork)),
		rule("interface-duplicate", Error, "interface names that a pod has twice", onRefusal(describeInterface)),
		rule("interface-name", Error, "interface names that the kernel does not accept",
			onRefusal(describeInterface), each(plugins, checkInterfaceNames)),
		rule("ipam", Error, "IPAM without a type, bad routes, and bad addresses", each(plugins, checkIPAM)),
		rule("ipam-claim", Warning, "addresses together with ipam-claim-reference", each(elements, checkClaim)),
		rule("ipam-range", Error, "ranges of host-local that are invalid or overlap", each(plugins, checkRanges)),
		rule("isolation", Error, "references that namespaceIsolation does not permit", onRefusal(describeIsolation)),
		rule("limit", Error, "pods with too many networks, and networks that are too large", onRefusal(describe)),
		rule("mac", Error, "MAC addresses that no interface can have",
			each(elements, checkRequestedMAC), each(plugins, checkMACs)),
		rule("missing-key", Error, "keys without which a reference plugin fails", each(plugins, checkNeeds)),
		rule("name", Error, "objects without a name, or with one that cannot be used", each(ours, checkName)),
		rule("network-name", Error, "network names that CNI does not allow", onRefusal(describeNetworkName)),
		rule("object", Error, "documents that are not Kubernetes objects", each(objects, checkObject)),
		rule("order", Error, "networks on an interface of the pod that a later network makes", each(elements, checkOrder)),
		rule("overlap", Error, "networks on one wire from which an address can be assigned twice",
			each(networks, checkOverlap)),
		rule("port", Error, "port mappings with a bad port or protocol", each(elements, checkPorts)),
		rule("recursion", Error, "networks that delegate to Multus itself", onRefusal(describeRecursion)),
		rule("type", Error, "values of a type that the plugin does not accept",
			each(schemas, checkTypes), each(plugins, checkCapabilityTypes)),
		rule("unknown-key", Warning, "keys that a reference plugin or an annotation does not support",
			each(schemas, checkKeys), each(elements, checkElementKeys)),
		rule("unknown-network", Error, "references to networks that no file defines", onRefusal(describeMissing)),
		rule("value", Error, "values that a reference plugin does not accept", each(plugins, checkValues)),
		rule("yaml", Error, "invalid YAML, and keys that an object has twice", each(objects, checkYAML)),
	}
}

func rule(id string, severity Severity, about string, runs ...func(*reporter)) Rule {
	return Rule{ID: id, Severity: severity, About: about, runs: runs}
}

// each returns a function that applies a check to each subject.
func each[T any](subjects func(*linter) []T, check func(*reporter, T)) func(*reporter) {
	return func(r *reporter) {
		for _, s := range subjects(r.linter) {
			check(r, s)
		}
	}
}

// onRefusal returns a function that describes what the planner refuses by the rule of the same ID.
func onRefusal(describe func(*reporter, *refused)) func(*reporter) {
	return func(r *reporter) {
		for _, x := range r.refused {
			if string(x.Rule) == r.rule.ID {
				describe(r, x)
			}
		}
	}
}

// The subjects of rules.

func objects(l *linter) []*object { return l.objects }

// ours returns the definitions and pods, without workloads and other objects.
func ours(l *linter) []*object {
	var out []*object
	for _, o := range l.objects {
		if o.kind == kindDefinition || o.kind == kindPod {
			out = append(out, o)
		}
	}
	return out
}

func definitions(l *linter) []*network { return l.defined }

// networks returns the definitions with a valid configuration.
func networks(l *linter) []*network {
	var out []*network
	for _, n := range l.defined {
		if n.list != nil {
			out = append(out, n)
		}
	}
	return out
}

func plugins(l *linter) []plugin { return flatten(networks(l), (*network).plugins) }

func schemas(l *linter) []schema { return flatten(networks(l), (*network).schemas) }

func pods(l *linter) []*pod { return l.pods }

func elements(l *linter) []*element { return flatten(l.pods, (*pod).used) }

// attachments returns the elements whose networks are in the files.
func attachments(l *linter) []attachment {
	var out []attachment
	for _, e := range elements(l) {
		if n := l.networks[e.ref]; n != nil && n.list != nil {
			out = append(out, attachment{e, n})
		}
	}
	return out
}

func flatten[T, U any](of []T, parts func(T) []U) []U {
	var out []U
	for _, x := range of {
		out = append(out, parts(x)...)
	}
	return out
}
