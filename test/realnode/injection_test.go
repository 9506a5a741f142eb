package realnode

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/admission/inject"
	"multus/internal/netsel"
	"multus/internal/testutil/cluster"
	"multus/internal/testutil/deviceplugin"
)

// injected is a node with devices that a device plugin has.
type injected struct{ *node }

// TestInjection creates pods that have only annotations: what the webhook injects gives them the devices of a real
// device plugin, and nodes with their networks (behaviour T6-T8, T13, T15).
func TestInjection(t *testing.T) {
	n := &injected{start(t, cluster.Options{})}
	const resource = "example.com/nic"
	devices := n.makeDevices(t, "nic", 3)
	n.installClaimDevice(t)
	plugin, err := deviceplugin.Start(t.Context(), n.Path(n.paths.Kubelet), resource, devices)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plugin.Stop(); err != nil {
			t.Error(err)
		}
	})
	n.installWith(t, "admission")
	n.untilAdmission(t)
	n.apply(t, claimNetwork("nic"))
	n.apply(t, claimNetwork(plainKind))
	for name, rack := range map[string]string{"here": "r1", "elsewhere": "r2"} {
		n.apply(t, strings.Replace(network(name, 3), "metadata: {", "metadata: {annotations: {"+inject.NodeSelector+
			": rack="+rack+"}, ", 1))
	}
	n.apply(t, "{apiVersion: v1, kind: Node, metadata: {name: "+cluster.NodeName+", labels: {rack: r1}}}")
	until(t, "the node has the devices", func() error {
		node, err := n.Client.CoreV1().Nodes().Get(t.Context(), cluster.NodeName, metav1.GetOptions{})
		if err == nil && node.Status.Allocatable.Name(resource, "").Value() != int64(len(devices)) {
			err = fmt.Errorf("%v", node.Status.Allocatable)
		}
		return err
	})

	err = n.once(t, pod("without", "{"+netsel.Networks+": nic, "+inject.Inject+": 'false'}"))
	if err == nil || !strings.Contains(err.Error(), "the containers request 0 [device]") {
		t.Errorf("a pod that opts out: %v", err)
	}
	n.create(t, "two", "nic,here,nic")
	n.untilDevices(t, "two", "default/nic", "default/here", "default/nic")
	n.create(t, "three", "nic,nic")
	n.untilMessage(t, "three", "Insufficient "+resource)
	n.create(t, "far", "elsewhere")
	n.untilMessage(t, "far", "didn't match Pod's node affinity/selector")
	n.remove(t, "two")
	n.untilDevices(t, "three", "default/nic", "default/nic")
	for _, name := range []string{"three", "far"} {
		n.remove(t, name)
	}
	n.untilHeld(t, 2) // the addresses of the replicas of the webhook
	n.untilBack(t, devices)
}

// create creates a pod that has only an annotation. The webhook adds the rest.
func (n *injected) create(t *testing.T, name, networks string) {
	t.Helper()
	n.apply(t, pod(name, "{"+netsel.Networks+": '"+networks+"'}"))
}

// untilMessage waits for an event of a pod.
func (n *injected) untilMessage(t *testing.T, pod, want string) {
	t.Helper()
	until(t, pod+": "+want, func() error {
		if got := n.messages(t, pod); !strings.Contains(got, want) {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}

// untilDevices waits until a pod has networks, each an interface, and the file of its annotations.
func (n *injected) untilDevices(t *testing.T, name string, networks ...string) {
	t.Helper()
	var p *corev1.Pod
	until(t, name+" has its networks", func() (err error) {
		if p, err = n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		status, err := networkStatus(p)
		if err != nil || !ready(p) {
			return fmt.Errorf("%s, %w\n%s", p.Status.Phase, err, n.messages(t, name))
		}
		var got []string
		for _, s := range status[1:] {
			got = append(got, s.Name)
		}
		has, err := n.interfaces(t, p)
		if err == nil && (!slices.Equal(got, networks) || len(has) != 2+len(networks)) { // with lo and eth0
			err = fmt.Errorf("%q, interfaces %v", got, has)
		}
		return err
	})
	file := n.Path(n.paths.Kubelet + "/pods/" + string(p.UID) +
		"/volumes/kubernetes.io~downward-api/podnetinfo/annotations")
	b, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(b), netsel.Networks+`="`) {
		t.Errorf("%s, %v", b, err)
	}
}
