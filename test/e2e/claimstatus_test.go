package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/node"
)

// allocated creates the claim of pods as the scheduler leaves it: with devices of the driver, reserved for the pods.
func (s *site) allocated(t *testing.T, name string, devices []string, pods ...*node.Pod) {
	t.Helper()
	claims := s.api.Client().ResourceV1().ResourceClaims(s.ns)
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{
		Name: "nic", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "nic", Count: int64(len(devices))},
	}}
	c, err := claims.Create(t.Context(), c, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Status.Allocation = &resourcev1.AllocationResult{}
	for _, d := range devices {
		pool, dev, _ := strings.Cut(d, "/")
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results,
			resourcev1.DeviceRequestAllocationResult{Request: "nic", Driver: "nic.example.com", Pool: pool, Device: dev})
	}
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor,
			resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: types.UID(p.UID)})
	}
	if _, err := claims.UpdateStatus(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// deviceStatuses returns status.devices of a claim in short, sorted.
func (s *site) deviceStatuses(t *testing.T, claim string) (out []string) {
	t.Helper()
	c, err := s.api.Client().ResourceV1().ResourceClaims(s.ns).Get(t.Context(), claim, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range c.Status.Devices {
		text := d.Driver + " " + d.Pool + "/" + d.Device
		if n := d.NetworkData; n != nil {
			text += fmt.Sprintf(" %s %s %s", n.InterfaceName, n.HardwareAddress, strings.Join(n.IPs, ","))
		}
		for _, condition := range d.Conditions {
			text += fmt.Sprintf(" %s=%s: %s", condition.Type, condition.Status, condition.Message)
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

func (s *site) untilStatuses(t *testing.T, claim string, want ...string) {
	t.Helper()
	var got []string
	if !eventually.Is(waitTimeout, func() bool {
		got = s.deviceStatuses(t, claim)
		return slices.Equal(got, want)
	}) {
		t.Fatalf("claim %s: %q, want %q", claim, got, want)
	}
}

// claimAgent starts a daemon that writes the status of claims.
func (s *site) claimAgent(t *testing.T, k *kubelet) *agent {
	t.Helper()
	a := startAgent(t, s.Node, []string{"MULTUS_NODE_NAME=node-a"}, "--config", agentConf(t, s.Node, map[string]any{
		"networksDir": nil, "kubeletRoot": k.root, "multusAutoconfigDir": nil, "claimStatus": true,
		"claimStatusDrivers": []string{"nic.example.com"},
	}), "--kubeconfig", s.api.Kubeconfig(t))
	a.serves(t, filepath.Join(s.SocketDir(), "multus.sock"))
	return a
}

// claimNetworks creates two networks that need a device, fast and slow, each of which has an interface of its own.
func (s *site) claimNetworks(t *testing.T) {
	t.Helper()
	for i, name := range []string{"fast", "slow"} {
		m := s.Fake(t, "fake-"+name)
		m["result"] = json.RawMessage(fmt.Sprintf(`{"cniVersion":"1.0.0","interfaces":[{"name":"{ifname}","sandbox":"{netns}",`+
			`"mac":"02:00:00:00:00:0%[1]d"}],"ips":[{"address":"10.%[1]d.0.2/24","interface":0}]}`, i+1))
		b, err := json.Marshal(map[string]any{
			"cniVersion": "1.0.0", "name": "conf-of-" + name, "type": "fake-" + name, "fake": m,
			"capabilities": map[string]bool{"deviceID": true},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.api.CreateNetwork(t, s.ns, name, string(b), map[string]string{"k8s.v1.cni.cncf.io/resourceName": nic})
	}
}

// TestClaimStatus checks that the status of a claim has the interface, the addresses and the MAC address of each device
// from the ADD of the sandbox until its DEL, also if the daemon is killed right after the ADD, if no daemon runs at the
// DEL, and if what the daemon has stored is lost; and that an ADD does not wait for it (behaviour H16-H18).
func TestClaimStatus(t *testing.T) {
	k := newKubelet(t)
	s := newSite(t, node.Thick, node.Options{Conf: map[string]any{"kubeletRoot": k.root}})
	s.StopDaemon(t)
	s.publish(t)
	s.claimNetworks(t)
	devices := []string{"own/own1", "any/any0"}
	for i := range 4 {
		k.claim(s.ns, fmt.Sprint("web-", i), devices...)
	}
	k.serve(t)
	a := s.claimAgent(t, k)
	add := func(name string) (*node.Pod, string) {
		p := s.pod(t, name, map[string]string{networks: "fast,slow"}, true)
		claim := name + "-claim"
		s.allocated(t, claim, devices, p)
		if _, err := s.Add(t, s.Conf(), p); err != nil {
			t.Fatalf("ADD: %v\n%s", err, a.output(t))
		}
		return p, claim
	}
	want := func(pod string) []string {
		const entry = "nic.example.com %[1]s %[2]s 02:00:00:00:00:0%[3]d 10.%[3]d.0.2/24 " +
			"NetworkReady=True: network %[4]s/%[5]s of pod %[4]s/%[6]s is attached"
		return []string{
			fmt.Sprintf(entry, "any/any0", "net1", 1, s.ns, "fast", pod),
			fmt.Sprintf(entry, "own/own1", "net2", 2, s.ns, "slow", pod),
		}
	}
	kill := func() {
		a.signal(t, syscall.SIGKILL)
		a.code(t)
	}

	first, firstClaim := add("web-0")
	s.untilStatuses(t, firstClaim, want("web-0")...)
	s.delete(t, first)
	s.untilStatuses(t, firstClaim)

	second, secondClaim := add("web-1")
	kill()
	a = s.claimAgent(t, k)
	s.untilStatuses(t, secondClaim, want("web-1")...)
	kill()
	s.delete(t, second) // no daemon sees it
	a = s.claimAgent(t, k)
	s.untilStatuses(t, secondClaim)

	third, thirdClaim := add("web-2")
	s.untilStatuses(t, thirdClaim, want("web-2")...)
	kill()
	if err := os.RemoveAll(filepath.Join(s.SocketDir(), "claims")); err != nil {
		t.Fatal(err)
	}
	a = s.claimAgent(t, k)
	s.delete(t, third)
	s.untilStatuses(t, thirdClaim)

	last, lastClaim := add("web-3")
	s.untilStatuses(t, lastClaim, want("web-3")...)
	s.delete(t, last)
	s.untilStatuses(t, lastClaim)
	eventually.True(t, "no notes of pods that are gone", func() bool { // they are removed after the entries
		left, err := filepath.Glob(filepath.Join(s.SocketDir(), "claims", "*"))
		return err == nil && len(left) == 0
	})
}
