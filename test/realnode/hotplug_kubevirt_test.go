package realnode

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"multus/internal/engine/publish"
)

// virtController is how long KubeVirt waits for a network of a running machine. Then it migrates the machine
// (DynamicNetworkControllerGracePeriod of virt-controller).
const virtController = 15 * time.Second

// vmNetwork is an element of the annotation as virt-controller writes it.
type vmNetwork struct {
	Interface string `json:"interface"`
	MAC       string `json:"mac"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// vmNetworkOf returns the element of a network of the machine. The interface has 11 digits of the hash of its name.
func vmNetworkOf(name, definition, mac string) vmNetwork {
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
	return vmNetwork{Interface: "pod" + hash[:11], MAC: mac, Name: definition, Namespace: "default"}
}

var (
	vmBlue = vmNetworkOf("blue", "vm-blue", "02:00:00:00:00:01")
	vmRed  = vmNetworkOf("red", "vm-red", "02:00:00:00:00:02")
)

// kubevirt plays virt-controller for a machine without additional networks: a network is plugged, then another one,
// and both are unplugged.
func (w *plugWatch) kubevirt(t *testing.T) {
	w.applyVMNetworks(t)
	w.launcher(t, nil, [][]vmNetwork{{vmBlue}, {vmBlue, vmRed}, {vmRed}, {}})
}

// kubevirtFromStart plays virt-controller for a machine that has a network from its start.
func (w *plugWatch) kubevirtFromStart(t *testing.T) {
	w.launcher(t, []vmNetwork{vmBlue}, [][]vmNetwork{{vmBlue, vmRed}, {vmRed}, {}, {vmBlue}})
}

// changedElement changes the MAC address of an attached network, which has no effect, and then an element that cannot
// be read. The events of the pod say so, and it keeps what it has.
func (w *plugWatch) changedElement(t *testing.T) {
	pod := w.running(t, "vm", 1)[0]
	w.change(t, vmAnnotation(t, []vmNetwork{vmBlue}), []string{"eth0", vmBlue.Interface}, pod)
	other := vmBlue
	other.MAC = "02:00:00:00:00:09"
	w.annotate(t, pod, vmAnnotation(t, []vmNetwork{other}))
	events := map[string]int{publish.AddedInterface: 2, publish.InterfaceChangeIgnored: 1}
	w.hasPlugEvents(t, pod, events)
	w.annotate(t, pod, "[{]")
	events[publish.InterfaceAddRejected] = 1
	w.hasPlugEvents(t, pod, events)
	if err := w.asKubeVirtExpects(pod, []vmNetwork{vmBlue}); err != nil {
		t.Error(err)
	}
	w.change(t, "", noNetworks, pod)
	w.running(t, "vm", 0)
	w.untilHeld(t, 0)
}

func (w *plugWatch) applyVMNetworks(t *testing.T) {
	t.Helper()
	for _, name := range []string{"vm-blue", "vm-red"} {
		w.apply(t, fmt.Sprintf(`apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: %[1]s, namespace: default}
spec:
  config: '{"cniVersion":"1.0.0","name":"%[1]s","type":"bridge","bridge":"br-%[1]s","capabilities":{"mac":true}}'
`, name))
	}
}

// launcher runs a pod with networks, and changes them step by step.
func (w *plugWatch) launcher(t *testing.T, first []vmNetwork, steps [][]vmNetwork) {
	t.Helper()
	held := len(w.held(t))
	annotations := "{}"
	if len(first) > 0 {
		annotations = fmt.Sprintf("{%s: %q}", nadv1.NetworkAttachmentAnnot, vmAnnotation(t, first))
	}
	w.scale(t, controller("Deployment", "vm", 1, annotations, ""), "vm", 1)
	pod := w.pods(t, "vm")[0].Name
	before := w.identities(t, "vm")
	wait(t, "the first network status", func() error { return w.asKubeVirtExpects(pod, first) })
	var all []time.Duration
	for _, step := range steps {
		want := []string{"eth0"}
		for _, e := range step {
			want = append(want, e.Interface)
		}
		slices.Sort(want)
		took := w.change(t, vmAnnotation(t, step), want, pod)
		if took[0] > virtController {
			t.Errorf("%d networks: after %s, limit %s", len(step), took[0], virtController)
		}
		all = append(all, took...)
		if err := w.asKubeVirtExpects(pod, step); err != nil {
			t.Error(err)
		}
		w.has(t, want, pod)
	}
	report(t, "as KubeVirt", all)
	if after := w.identities(t, "vm"); !slices.Equal(before, after) {
		t.Errorf("containers were %q, are %q", before, after)
	}
	w.scale(t, controller("Deployment", "vm", 0, annotations, ""), "vm", 0)
	w.untilHeld(t, held)
}

// vmAnnotation returns the annotation as virt-controller writes it: empty for no networks.
func vmAnnotation(t *testing.T, networks []vmNetwork) string {
	t.Helper()
	if len(networks) == 0 {
		return ""
	}
	b, err := json.Marshal(networks)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// asKubeVirtExpects returns an error unless the network status of a pod has what KubeVirt reads: the primary network,
// an element for each interface that it requests, with the name of its definition and its MAC address, and no other.
func (w *plugWatch) asKubeVirtExpects(pod string, networks []vmNetwork) error {
	status := w.of(pod).status
	if len(status) != 1+len(networks) || !status[0].Default || status[0].Interface != "eth0" {
		return fmt.Errorf("network-status %+v, want the primary network and %d others", status, len(networks))
	}
	for _, e := range networks {
		want := e.Namespace + "/" + e.Name
		if !slices.ContainsFunc(status[1:], func(s nadv1.NetworkStatus) bool {
			return s.Interface == e.Interface && s.Name == want && s.Mac == e.MAC && !s.Default
		}) {
			return fmt.Errorf("network-status %+v has no %s (%s, %s)", status, e.Interface, want, e.MAC)
		}
	}
	return nil
}
