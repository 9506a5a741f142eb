package realnode

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/netsel"
	"multus/internal/source/dra"
	"multus/internal/testutil/cluster"
)

// driver is the name of tools/dradriver. Its devices are interfaces of the node: the device ID is the name of one.
const driver = "nic.example.com"

// claimDevice is a CNI plugin: host-device for the interface whose name is the device ID.
const claimDevice = `#!/bin/sh
sed -E 's/"pciBusID":"[^"]*",?//; s/"deviceID":/"device":/' | exec "$(dirname "$0")/host-device"
`

// kinds are the kinds of devices, each with a DeviceClass: how many there are, and the attributes that they have.
var kinds = map[string]struct {
	devices      int
	resource, id bool
	// where is where the slices are for: the node of the driver, all nodes, or nodes by a selector.
	where string
}{
	"nic": {16, true, true, ""}, "odd": {4, true, true, ""}, "ext": {3, true, true, ""},
	"gpu": {6, false, false, ""}, "noid": {1, true, false, ""}, "noname": {2, false, true, ""},
	"all": {2, true, true, "all"}, "sel": {2, true, true, "selector"},
}

// claiming is a pod with ResourceClaims.
type claiming struct {
	name string
	// claims are those of the pod, separated by semicolons: "template KIND", "template KIND KIND" for two requests, or
	// "named NAME".
	claims string
	// limits are the resources of the container, which DRA serves as extended resources.
	limits string
	// networks are the network definitions, one for each kind of device: "nic" or "nic,nic".
	networks string
	// want are the kinds of the devices that the pod gets, or error words of an event that it gets.
	want string
	err  string
	// direct binds the pod to the node without the scheduler.
	direct bool
}

// noAttribute is the beginning of an error.
const noAttribute = "the device has no attribute "

// claimings is the table of TestClaims. The claims that are named are made before: own0, own1 and shared of the kind
// nic, unprepared-own of the kind odd, and empty, which is not allocated.
var claimings = []claiming{
	{name: "template-0", claims: "template nic", networks: "nic", want: "nic"},
	{name: "template-1", claims: "template nic", networks: "nic", want: "nic"},
	{name: "two-requests", claims: "template nic nic", networks: "nic,nic", want: "nic nic"},
	{name: "two-claims", claims: "template nic; template odd", networks: "odd,nic", want: "odd nic"},
	{name: "named-0", claims: "named own0", networks: "nic", want: "nic"},
	{name: "named-1", claims: "named own1", networks: "nic", want: "nic"},
	{name: "named-and-template", claims: "named own2; template nic", networks: "nic,nic", want: "nic nic"},
	{name: "shared-0", claims: "named shared", networks: "nic", want: "nic"},
	{name: "shared-1", claims: "named shared", networks: ""},
	{name: "extended-0", limits: `{example.com/ext: "1"}`, networks: "ext", want: "ext"},
	{name: "extended-1", limits: `{example.com/ext: "2"}`, networks: "ext,ext", want: "ext ext"},
	{name: "gpu-beside", claims: "template gpu; template nic", networks: "nic", want: "nic"},
	{name: "gpu-in-claim", claims: "template gpu nic", networks: "nic", want: "nic"},
	{name: "gpu-alone", claims: "template gpu", networks: ""},
	{name: "all-nodes-0", claims: "template all", networks: "all", want: "all"},
	{name: "all-nodes-1", claims: "template all", networks: "all", want: "all"},
	{name: "selector-0", claims: "template sel", networks: "sel", want: "sel"},
	{name: "selector-1", claims: "template sel", networks: "sel", want: "sel"},
	{
		name: "selected", claims: "template nic; template odd", want: "odd nic",
		networks: `[{"name":"plain","resourceClaim":{"name":"c1"}},{"name":"nic"}]`,
	},
	{
		name: "selected-without-name", claims: "template gpu noname", want: "noname",
		networks: `[{"name":"plain","resourceClaim":{"name":"c0","request":"r1"}}]`,
	},
	{name: "no-device-id", claims: "template noid", networks: "noid", err: noAttribute + dra.DeviceID},
	{name: "no-resource-name", claims: "template noname", networks: "noname", err: noAttribute + dra.ResourceName},
	{name: "too-few", claims: "template odd", networks: "odd,odd", err: "no device of example.com/odd is left"},
	{name: "no-claim", networks: "nic", err: "the kubelet gave the pod 0"},
	{name: "gpu-for-nic", claims: "template gpu", networks: "nic", err: noAttribute + dra.ResourceName},
	{name: "unprepared", claims: "named unprepared-own", networks: "odd", err: "the test wants it so"},
	{
		name: "without-results", claims: "named empty", networks: "nic", direct: true,
		err: "is not allowed to use ResourceClaim",
	},
}

// TestClaims attaches interfaces of the node that pods were given by dynamic resource allocation, with a real driver:
// each pod gets the right device, or an error that says why not. The role does not permit the status of claims at
// first, so that the pods run without it; then each claim has the interfaces of the pod while it runs (behaviour H16,
// H18).
func TestClaims(t *testing.T) {
	n := start(t, cluster.Options{})
	c := &claims{n}
	c.devices(t)
	c.driver(t)
	n.installWith(t, "claim-status")
	n.configure(t, "sriovnetwork.k8snetworkplumbingwg.io", driver) // the role does not name the driver yet
	for kind := range kinds {
		n.apply(t, claimNetwork(kind))
		n.apply(t, claimClass(kind))
	}
	n.apply(t, claimNetwork(plainKind))
	for name, kind := range map[string]string{
		"own0": "nic", "own1": "nic", "own2": "nic", "shared": "nic", "unprepared-own": "odd", "empty": "nic",
	} {
		n.apply(t, claimSpec("ResourceClaim", name, "spec: ", []string{kind}))
	}
	c.published(t)
	for i := range claimings {
		c.start(t, &claimings[i])
	}
	for i := range claimings {
		t.Run(claimings[i].name, func(t *testing.T) { c.check(t, &claimings[i]) })
	}
	c.statuses(t)
	c.end(t)
}

// claims is a node with devices.
type claims struct{ *node }

// devices makes the interfaces.
func (c *claims) devices(t *testing.T) {
	t.Helper()
	for kind, k := range kinds {
		c.makeDevices(t, kind, k.devices)
	}
}

// makeDevices makes interfaces of the node whose names are a kind and a number, and returns their names.
func (n *node) makeDevices(t *testing.T, kind string, count int) []string {
	t.Helper()
	ns, err := netns.GetFromPath(fmt.Sprintf("/proc/%d/ns/net", n.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var out []string
	for i := range count {
		name := fmt.Sprint(kind, i)
		err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-far"})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, name)
	}
	return out
}

// device returns a device of a slice.
func device(kind string, i int) resourcev1.Device {
	text := func(s string) resourcev1.DeviceAttribute { return resourcev1.DeviceAttribute{StringValue: &s} }
	d := resourcev1.Device{Name: fmt.Sprint(kind, i), Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
		"kind": text(kind),
	}}
	if kinds[kind].resource {
		d.Attributes[dra.ResourceName] = text("example.com/" + kind)
	}
	if kinds[kind].id {
		d.Attributes[dra.DeviceID] = text(d.Name)
	}
	return d
}

// driver starts the driver with the devices of the node, and publishes the others.
func (c *claims) driver(t *testing.T) {
	t.Helper()
	var own []resourcev1.Device
	for kind, k := range kinds {
		slice := &resourcev1.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: kind},
			Spec: resourcev1.ResourceSliceSpec{
				Driver: driver, Pool: resourcev1.ResourcePool{Name: "pool-" + kind, ResourceSliceCount: 1},
			},
		}
		for i := range k.devices {
			slice.Spec.Devices = append(slice.Spec.Devices, device(kind, i))
		}
		switch yes := true; k.where {
		case "all":
			slice.Spec.AllNodes = &yes
		case "selector":
			slice.Spec.NodeSelector = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchFields: []corev1.NodeSelectorRequirement{{
					Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{cluster.NodeName},
				}},
			}}}
		default:
			own = append(own, slice.Spec.Devices...)
			continue
		}
		if _, err := c.Client.ResourceV1().ResourceSlices().Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(own)
	if err != nil {
		t.Fatal(err)
	}
	const file = "/var/lib/dradriver.json"
	if err := os.WriteFile(c.Path(file), b, 0o600); err != nil {
		t.Fatal(err)
	}
	c.installClaimDevice(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		out, err := c.Run(ctx, "dradriver", "-kubeconfig=/var/lib/cluster/node.kubeconfig", "-node="+cluster.NodeName,
			"-kubelet="+c.paths.Kubelet, "-devices="+file)
		if ctx.Err() == nil {
			err = fmt.Errorf("the driver has ended: %w\n%s", err, out)
		}
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
}

// installClaimDevice installs the plugin claim-device, and host-device that it calls.
func (n *node) installClaimDevice(t *testing.T) {
	t.Helper()
	hostDevice, err := os.ReadFile(filepath.Join(root, "bin/cni/host-device"))
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string][]byte{"claim-device": []byte(claimDevice), "host-device": hostDevice} {
		if err := os.WriteFile(n.Path(n.paths.Bin+"/"+name), program, 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
}

// published waits until the slices of the node are there.
func (c *claims) published(t *testing.T) {
	t.Helper()
	until(t, "ResourceSlices of the driver", func() error {
		l, err := c.Client.ResourceV1().ResourceSlices().List(t.Context(), metav1.ListOptions{})
		if err == nil && len(l.Items) < 3 {
			err = fmt.Errorf("%d", len(l.Items))
		}
		return err
	})
}

// plainKind is the name of a network definition without a resource.
const plainKind = "plain"

// claimNetwork returns the definition of the network of a kind.
func claimNetwork(kind string) string {
	annotations := ""
	if kind != plainKind {
		annotations = fmt.Sprintf(", annotations: {%s: example.com/%s}", netsel.ResourceName, kind)
	}
	return fmt.Sprintf(`apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: %[1]s, namespace: default%[2]s}
spec:
  config: '{"cniVersion":"1.0.0","name":"%[1]s","type":"claim-device","ipam":{"type":"host-local","subnet":"198.18.3.0/24"}}'
`, kind, annotations)
}

// claimClass returns the DeviceClass of a kind.
func claimClass(kind string) string {
	extended := ""
	if kind == "ext" {
		extended = "\n  extendedResourceName: example.com/ext"
	}
	return fmt.Sprintf(`apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: %[1]s}
spec:%[3]s
  selectors:
    - cel: {expression: 'device.driver == "%[2]s" && device.attributes["%[2]s"].kind == "%[1]s"'}
`, kind, driver, extended)
}

// claimSpec returns a ResourceClaim or a ResourceClaimTemplate with one request for each kind.
func claimSpec(object, name, spec string, kinds []string) string {
	var requests []string
	for i, kind := range kinds {
		requests = append(requests, fmt.Sprintf(`{name: r%d, exactly: {deviceClassName: %s}}`, i, kind))
	}
	return fmt.Sprintf(`apiVersion: resource.k8s.io/v1
kind: %s
metadata: {name: %s, namespace: default}
%s{devices: {requests: [%s]}}`, object, name, spec, strings.Join(requests, ", "))
}

// start creates a pod and its templates.
func (c *claims) start(t *testing.T, p *claiming) {
	t.Helper()
	var claims, used []string
	for i, claim := range strings.FieldsFunc(p.claims, func(r rune) bool { return r == ';' }) {
		words := strings.Fields(claim)
		name := fmt.Sprintf("c%d", i)
		used = append(used, fmt.Sprintf("{name: %s}", name))
		if words[0] == "named" {
			claims = append(claims, fmt.Sprintf("{name: %s, resourceClaimName: %s}", name, words[1]))
			continue
		}
		template := fmt.Sprintf("%s-%d", p.name, i)
		c.apply(t, claimSpec("ResourceClaimTemplate", template, "spec: {spec: ", words[1:])+"}")
		claims = append(claims, fmt.Sprintf("{name: %s, resourceClaimTemplateName: %s}", name, template))
	}
	limits, node := p.limits, ""
	if limits == "" {
		limits = "{}"
	}
	if p.direct {
		node = "nodeName: " + cluster.NodeName
	}
	c.apply(t, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default, labels: {app: claims}, annotations: {%s: '%s'}}
spec:
  terminationGracePeriodSeconds: 1
  %s
  resourceClaims: [%s]
  containers:
    - {name: main, image: "%s", imagePullPolicy: Never, resources: {limits: %s, claims: [%s]}}
`, p.name, netsel.Networks, p.networks, node, strings.Join(claims, ", "), cluster.WorkloadImage, limits,
		strings.Join(used, ", ")))
}

// messages returns those of the events of a pod.
func (n *node) messages(t *testing.T, pod string) string {
	t.Helper()
	l, err := n.Client.CoreV1().Events("default").List(t.Context(),
		metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		t.Fatal(err)
	}
	var messages []string
	for i := range l.Items {
		messages = append(messages, l.Items[i].Message)
	}
	return strings.Join(messages, "\n")
}

// check waits until a pod has its devices or its error.
func (c *claims) check(t *testing.T, p *claiming) {
	if p.err != "" {
		until(t, "the error", func() error {
			if messages := c.messages(t, p.name); !strings.Contains(messages, p.err) {
				return fmt.Errorf("%s, want %q", messages, p.err)
			}
			return nil
		})
		return
	}
	want := strings.Fields(p.want)
	var found *corev1.Pod
	until(t, "Ready", func() (err error) {
		found, err = c.Client.CoreV1().Pods("default").Get(t.Context(), p.name, metav1.GetOptions{})
		if err == nil && !ready(found) {
			err = fmt.Errorf("%s\n%s", found.Status.Phase, c.messages(t, p.name))
		}
		return err
	})
	wait(t, "the network status", func() error {
		var err error
		if found, err = c.Client.CoreV1().Pods("default").Get(t.Context(), p.name, metav1.GetOptions{}); err != nil {
			return err
		}
		status, err := networkStatus(found)
		if err == nil && len(status) != 1+len(want) {
			err = fmt.Errorf("%+v", status)
		}
		return err
	})
	status, err := networkStatus(found)
	if err != nil {
		t.Fatal(err)
	}
	for i, kind := range want {
		s := status[1+i]
		if k := kinds[kind]; k.where != "" || !k.resource {
			continue // the driver has no device information about it
		}
		if s.DeviceInfo == nil || s.DeviceInfo.Pci == nil || !strings.HasPrefix(s.DeviceInfo.Pci.PciAddress, kind) {
			t.Errorf("%s: device information %+v, want that of a device of the kind %s", s.Interface, s.DeviceInfo, kind)
		}
	}
	wait(t, "the interfaces", func() error { // the program in the pod may not listen yet
		has, err := c.interfaces(t, found)
		if err == nil && len(has) != 2+len(want) { // with lo and eth0
			err = fmt.Errorf("interfaces %v, want %d of claims", has, len(want))
		}
		return err
	})
}

// end deletes the pods. The interfaces are back on the node, and nothing else is left.
func (c *claims) end(t *testing.T) {
	t.Helper()
	none := int64(1)
	err := c.Client.CoreV1().Pods("default").DeleteCollection(t.Context(),
		metav1.DeleteOptions{GracePeriodSeconds: &none}, metav1.ListOptions{LabelSelector: "app=claims"})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the pods are gone", func() error {
		if left := c.pods(t, "claims"); len(left) > 0 {
			return fmt.Errorf("%d", len(left))
		}
		return nil
	})
	c.untilHeld(t, 0)
	var all []string
	for kind, k := range kinds {
		for i := range k.devices {
			all = append(all, fmt.Sprint(kind, i))
		}
	}
	c.untilBack(t, all)
	files, err := filepath.Glob(c.Path("/var/run/k8s.cni.cncf.io/devinfo/*/*"))
	if err != nil || len(files) > 0 {
		t.Errorf("device information is left: %q, %v", files, err)
	}
}

// untilBack waits until interfaces are on the node.
func (n *node) untilBack(t *testing.T, names []string) {
	t.Helper()
	until(t, "the devices are back", func() error {
		after, err := n.links(t)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(after, name) })
		if len(missing) > 0 {
			err = fmt.Errorf("missing %q of %q", missing, after)
		}
		return err
	})
}
