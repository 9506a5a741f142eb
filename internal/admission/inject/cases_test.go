package inject

import "multus/internal/netsel"

// injection is a case of the comparison with network-resources-injector.
type injection struct {
	name    string
	pod     string
	options Options
	// want is what is changed, and says a part of a warning or a denial.
	want, says string
	// upstream is what network-resources-injector (commit 61d01b9) changes, if that differs, and why it does.
	// "nothing" stands for no change.
	upstream, why string
}

const (
	one  = `, spec: {containers: [{name: a, image: x}]}}`
	pair = `, spec: {containers: [{name: a, image: x}, {name: b, image: x}]}}`
)

// on returns a pod with a networks annotation.
func on(networks, spec string) string {
	return `{metadata: {annotations: {` + netsel.Networks + `: '` + networks + `'}}` + spec
}

// with returns the spec of a pod whose containers a and b request devices of example.com/nic.
func with(a, b string) string {
	requests := func(n string) string {
		if n == "" {
			return ""
		}
		return `, resources: {requests: {example.com/nic: "` + n + `"}, limits: {example.com/nic: "` + n + `"}}`
	}
	return `, spec: {containers: [{name: a, image: x` + requests(a) + `}, {name: b, image: x` + requests(b) + `}]}}`
}

// Parts of what is wanted.
const (
	inA  = ", volume in a, of annotations"
	inAB = ", volume in a b, of annotations"
)

var honor = Options{HonorResources: true}

var cases = []injection{
	{name: "no annotation", pod: `{metadata: {}` + one},
	{name: "a network without a resource", pod: on("plain", one)},
	{name: "one network", pod: on("nic", one), want: "a example.com/nic=1" + inA},
	{name: "one network, JSON form", pod: on(`[{"name":"nic","namespace":"team-b"}]`, one), want: "a example.com/nic=1" + inA},
	{name: "a network of another namespace", pod: on("team-b/nic@eth1", one), want: "a example.com/nic=1" + inA},
	{name: "one network three times", pod: on("nic,nic,nic", one), want: "a example.com/nic=3" + inA},
	{
		name: "two networks with one resource", pod: on("nic, team-b/nic", one), want: "a example.com/nic=2" + inA,
	},
	{
		name: "two resources", pod: on("nic,fast,plain,nic", one),
		want: "a example.com/fast=1, a example.com/nic=2" + inA,
	},
	{name: "two containers: the first one requests", pod: on("nic", pair), want: "a example.com/nic=1" + inAB},
	{
		name: "other resources of the container stay",
		pod:  on("nic", `, spec: {containers: [{name: a, image: x, resources: {requests: {cpu: 1}, limits: {memory: 1Gi}}}]}}`),
		want: "a example.com/nic=1" + inA,
	},
	{
		name: "labels are in the volume, too",
		pod:  `{metadata: {labels: {app: x}, annotations: {` + netsel.Networks + `: nic}}` + one,
		want: "a example.com/nic=1, volume in a, of labels and annotations",
	},
	{
		name: "without the volume", pod: on("nic", one), options: Options{NoPodInfo: true}, want: "a example.com/nic=1",
		upstream: "a example.com/nic=1" + inA, why: "it has no such option",
	},
	{
		name: "the path of the volume is taken",
		pod: on("nic", `, spec: {volumes: [{name: v, emptyDir: {}}], containers: [{name: a, image: x, `+
			`volumeMounts: [{name: v, mountPath: /etc/podnetinfo/}]}]}}`),
		want: "a example.com/nic=1", upstream: "a example.com/nic=1" + inA,
		why: "two mounts at one path hide each other; the API server refuses two equal paths",
	},
	{
		name: "the name of the volume is taken",
		pod:  on("nic", `, spec: {volumes: [{name: podnetinfo, emptyDir: {}}], containers: [{name: a, image: x}]}}`),
		want: "a example.com/nic=1", says: "is not a downward API volume", upstream: "a example.com/nic=1, volume in a",
		why: "it mounts a volume that has something else",
	},
	{
		name: "the default network",
		pod: `{metadata: {annotations: {` + netsel.DefaultNetwork + `: kube-system/base, ` + netsel.Networks +
			`: nic}}` + one,
		want: "a example.com/base=1, a example.com/nic=1" + inA,
	},
	{
		name: "the default network without a namespace",
		pod:  `{metadata: {annotations: {` + netsel.DefaultNetwork + `: base}}` + one,
		want: "a example.com/base=1" + inA, upstream: "a example.com/nic=1" + inA,
		why: "Multus looks it up in `multusNamespace`, not in the namespace of the pod (C50)",
	},
	{
		name: "two default networks",
		pod:  `{metadata: {annotations: {` + netsel.DefaultNetwork + `: "kube-system/base,plain"}}` + one,
		says: "it has 2 elements",
	},
	{
		name: "the devices are requested already", pod: on("nic,nic", with("2", "")), want: "volume in a b, of annotations",
	},
	{
		name: "another container requests the devices", pod: on("nic", with("", "1")),
		want: "volume in a b, of annotations",
	},
	{
		name: "the containers together request enough", pod: on("nic,nic", with("1", "1")),
		want: "volume in a b, of annotations",
	},
	{
		name: "too few are requested", pod: on("nic,nic,nic", with("1", "1")), want: "a example.com/nic=2" + inAB,
		says:     "the containers request 2 of example.com/nic and the networks need 3: 1 added",
		upstream: "volume in a b, of annotations",
		why:      "one network would get no device, and the pod would not start (H21)",
	},
	{
		name: "an init container requests devices",
		pod: on("nic", `, spec: {initContainers: [{name: i, image: x, resources: {requests: {example.com/nic: 1}, `+
			`limits: {example.com/nic: 1}}}], containers: [{name: a, image: x}]}}`),
		want: "a example.com/nic=1" + inA,
	},
	{
		name: "a sidecar requests the devices",
		pod: on("nic", `, spec: {initContainers: [{name: i, image: x, restartPolicy: Always, resources: {requests: `+
			`{example.com/nic: 1}, limits: {example.com/nic: 1}}}], containers: [{name: a, image: x}]}}`),
		want: "volume in a, of annotations", upstream: "a example.com/nic=1" + inA,
		why: "the kubelet reports the devices of sidecars, so the pod would have one too many",
	},
	{
		name: "existing requests are honoured", pod: on("nic,nic", with("1", "")), options: honor,
		want:     `a example.com/nic=3, annotation v1.multus-cni.io/injected={"example.com/nic":2}` + inAB,
		upstream: "a example.com/nic=3" + inAB,
		why:      "the annotation makes a second call of the webhook harmless",
	},
	{
		name: "existing requests of another container are honoured", pod: on("nic", with("", "1")), options: honor,
		want:     `a example.com/nic=1, annotation v1.multus-cni.io/injected={"example.com/nic":1}` + inAB,
		upstream: "a example.com/nic=1" + inAB, why: "as before",
	},
	{
		name: "a container is named", pod: `{metadata: {annotations: {` + netsel.Networks + `: nic, ` + ResourceContainer +
			`: b}}` + pair,
		want: "b example.com/nic=1" + inAB, upstream: "a example.com/nic=1" + inAB, why: "it has no such annotation",
	},
	{
		name: "a container is named that does not exist", pod: `{metadata: {annotations: {` + netsel.Networks + `: nic, ` +
			ResourceContainer + `: c}}` + pair,
		want: "a example.com/nic=1" + inAB, says: `no container "c"`,
	},
	{
		name: "the pod opts out", pod: `{metadata: {annotations: {` + netsel.Networks + `: "nic,rack", ` + Inject +
			`: "false"}}` + one,
		upstream: "a example.com/nic=1, node rack=r1" + inA, why: "it has no such annotation",
	},
	{
		name: "an element selects a ResourceClaim", pod: on(`[{"name":"nic","resourceClaim":{"name":"c"}}]`, one),
		upstream: "a example.com/nic=1" + inA, why: "the network has the device of the claim (H14)",
	},
	{
		name: "a ResourceClaim for the same extended resource",
		pod: on("nic", `, spec: {resourceClaims: [{name: c, resourceClaimTemplateName: nic-template}], containers: `+
			`[{name: a, image: x}]}}`),
		want: "volume in a, of annotations", says: "which a ResourceClaim of the pod requests",
		upstream: "a example.com/nic=1" + inA, why: "the pod would get two devices",
	},
	{
		name: "another ResourceClaim",
		pod: on("nic", `, spec: {resourceClaims: [{name: c, resourceClaimTemplateName: gpu-template}], containers: `+
			`[{name: a, image: x}]}}`),
		want: "a example.com/nic=1" + inA, says: "although the pod has ResourceClaims",
	},
	{name: "nodeSelector of the definition", pod: on("rack", one), want: "node rack=r1"},
	{name: "nodeSelector and resource", pod: on("both", one), want: "a example.com/nic=1, node rack=r1" + inA},
	{name: "nodeSelector without a value", pod: on("key", one), want: "node nic="},
	{
		name: "nodeSelector with several pairs", pod: on("pairs", one), want: "node rack=r1, node zone=z1",
		upstream: "denied", why: "a network may need several labels",
	},
	{
		name: "empty nodeSelector", pod: on("nopairs", one), upstream: "node =",
		why: "the API server refuses the pod because of an empty label",
	},
	{name: "nodeSelector with two equals signs", pod: on("badpairs", one), want: "denied", says: `"rack=r1=r2" is not a label`},
	{
		name: "invalid nodeSelector", pod: on("badvalue", one), want: "denied", says: "network team-a/badvalue: annotation",
		upstream: "node rack=r 1", why: "the API server refuses that pod without naming the network",
	},
	{
		name: "nodeSelector of the pod stays", pod: on("rack", `, spec: {nodeSelector: {disk: ssd, rack: r1}, containers: [{name: a, image: x}]}}`),
	},
	{
		name: "nodeSelector of the pod has another value",
		pod:  on("rack", `, spec: {nodeSelector: {rack: r9}, containers: [{name: a, image: x}]}}`),
		want: "node rack=r1", says: "rack=r9 is replaced by rack=r1",
	},
	{
		name: "networks on different nodes", pod: on("rack,rack2", one), want: "node rack=r2",
		says: "another network of the pod",
	},
	{
		name: "a network that does not exist", pod: on("nic,none", one), want: "a example.com/nic=1" + inA,
		says: "network team-a/none does not exist", upstream: "denied",
		why: "definition and pod may be created together; `unknownNetwork: deny` does as it does",
	},
	{
		name: "a network that does not exist, denied", pod: on("nic,none", one), options: Options{UnknownNetwork: Deny},
		want: "denied", says: "network team-a/none does not exist",
	},
	{
		name: "a network that does not exist, ignored", pod: on("none", one), options: Options{UnknownNetwork: Ignore},
		upstream: "denied", why: "as above",
	},
	{
		name: "an annotation that cannot be read", pod: on("a/b/c", one), says: `more than one "/"`, upstream: "error 400",
		why: "an answer without a review makes a failed webhook of a mistake in a pod; the pod is refused by validation",
	},
	{
		name: "a null element", pod: on("[null]", one), says: "element 1 is null", upstream: "crash",
		why: "it dereferences null",
	},
	{
		name: "a pod without containers", pod: on("nic", `, spec: {containers: []}}`), upstream: "crash",
		why: "it changes the first container of none; the API server refuses the pod",
	},
	{
		name: "resource name without a domain", pod: on("badname", one), want: "denied", says: "not the name of a resource",
		upstream: "a nic=1" + inA, why: "the API server refuses that pod without naming the network",
	},
	{
		name: "empty resource name", pod: on("empty", one), upstream: "a =1" + inA,
		why: "Multus takes an empty annotation for none (H1); the API server refuses the pod",
	},
	{
		name: "other keys for the resource name", pod: on("two,other", one),
		options: Options{ResourceNameKeys: []string{"example.com/resource"}}, want: "a example.com/other=2" + inA,
	},
	{
		name: "several keys for the resource name", pod: on("two,nic", one),
		options: Options{ResourceNameKeys: []string{netsel.ResourceName, "example.com/resource"}},
		want:    "a example.com/nic=2, a example.com/other=1" + inA,
	},
	{
		name: "user-defined networks", pod: `{metadata: {labels: {nic: "True"}}` + one, options: Options{Injections: userDefined},
		want:     "a example.com/nic=1, annotation " + netsel.Networks + "=nic, volume in a, of labels and annotations",
		upstream: "a example.com/nic=1, annotation " + netsel.Networks + "=nic, volume in a, of labels",
		why:      "the annotation that is added belongs into the volume",
	},
	{
		name: "user-defined networks of another label value", pod: `{metadata: {labels: {nic: "yes"}}` + one,
		options: Options{Injections: userDefined},
	},
	{
		name: "user-defined annotations without a resource", pod: `{metadata: {labels: {plain: "true"}}` + one,
		options:  Options{Injections: userDefined},
		want:     "annotation example.com/a=b, annotation " + netsel.Networks + "=plain",
		upstream: "nothing", why: "it adds annotations only to pods that need a device",
	},
	{
		name:    "user-defined networks and an annotation",
		pod:     `{metadata: {labels: {nic: "true"}, annotations: {` + netsel.Networks + `: fast}}` + one,
		options: Options{Injections: userDefined}, want: "a example.com/fast=1, volume in a, of labels and annotations",
		says: "has another value, which is kept",
		upstream: "a example.com/fast=1, annotation " + netsel.Networks +
			"=nic, volume in a, of labels and annotations",
		why: "it requests the devices of one value and writes the other",
	},
	{
		name: "hostNetwork", pod: on("nic,rack", `, spec: {hostNetwork: true, containers: [{name: a, image: x}]}}`),
		says: "the pod has hostNetwork", upstream: "a example.com/nic=1, node rack=r1" + inA,
		why: "the networks are not attached, so the device would be lost to others",
	},
	{
		name: "a static pod", pod: `{metadata: {annotations: {` + netsel.Networks + `: nic, kubernetes.io/config.mirror: x}}` + one,
		upstream: "a example.com/nic=1" + inA, why: "the pod is already running as the kubelet's file says",
	},
}

var userDefined = map[string]map[string]string{
	"nic":   {netsel.Networks: "nic"},
	"plain": {netsel.Networks: "plain", "example.com/a": "b"},
}
