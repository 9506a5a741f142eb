package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// newUplinkSite is a node whose only uplink eth0 has the default route. eth1 is spare.
func newUplinkSite(t *testing.T, kind node.Kind) *site {
	t.Helper()
	s := newBareSite(t, kind, node.Options{})
	testnet.Veth(t, s.NS, "eth0", s.outside, "up0")
	testnet.Veth(t, s.NS, "eth1", s.outside, "peer1")
	testnet.Addr(t, s.outside, "up0", "192.0.2.1/24")
	testnet.Addr(t, s.outside, "peer1", "198.51.100.1/24")
	testnet.Addr(t, s.NS, "eth0", "192.0.2.7/24")
	testnet.DefaultRoute(t, s.NS, "eth0", "192.0.2.1", 100)
	config := func(device, more string) string {
		return fmt.Sprintf(`{"cniVersion":"1.0.0","type":"host-device","device":%q%s,"ipam":{"type":"static","addresses":[{"address":"198.51.100.9/24"}]}}`, device, more)
	}
	s.api.CreateNetwork(t, s.ns, "uplink", config("eth0", ""), nil)
	s.api.CreateNetwork(t, s.ns, "spare", config("eth1", ""), nil)
	s.api.CreateNetwork(t, s.ns, "meant", config("eth0", `,"allowInUse":true`), nil)
	s.api.CreateNetwork(t, s.ns, "nothing", config("eth9", ""), nil)
	s.api.CreateNetwork(t, s.ns, "no-master", `{"cniVersion":"1.0.0","type":"macvlan","master":"eth9","ipam":{}}`, nil)
	s.api.CreateNetwork(t, s.ns, "master", `{"cniVersion":"1.0.0","type":"macvlan","master":"eth0","ipam":{}}`, nil)
	return s
}

// notAttached runs an ADD that must fail with this code and these words and must leave nothing. Then DEL must succeed.
func (s *site) notAttached(t *testing.T, p *node.Pod, code uint, words ...string) {
	t.Helper()
	_, err := s.Add(t, s.Conf(), p)
	var ce *types.Error
	if !errors.As(err, &ce) || ce.Code != code {
		t.Fatalf("ADD: %v, want code %d\n%s", err, code, s.DaemonLog())
	}
	t.Log(ce.Error())
	names(t, ce.Error(), words...)
	if strings.Contains(ce.Error(), "\n") {
		t.Error("the error is not one line")
	}
	if left := testnet.Interfaces(t, p.NS); len(left) > 0 {
		t.Errorf("attached: %v", left)
	}
	s.gone(t, s.Conf(), p)
}

// devices returns the names of the node's NICs, without the bridge and the veth interfaces of pods.
func (s *site) devices(t *testing.T) string {
	t.Helper()
	return strings.Join(slices.DeleteFunc(testnet.Interfaces(t, s.NS), func(name string) bool {
		return name == "cni0" || strings.HasPrefix(name, "veth")
	}), " ")
}

// kill removes a pod without DEL: its network namespace ends, and its NIC is on the node under the name that it had in
// the pod.
func (s *site) kill(t *testing.T, p *node.Pod) {
	t.Helper()
	testnet.Move(t, p.NS, "net1", s.NS)
	if err := testnet.Delete(p.Path); err != nil {
		t.Fatal(err)
	}
	if got := s.devices(t); got != "eth0 net1" {
		t.Fatalf("the node has %s, which this test does not expect", got)
	}
}

// back checks that the node has its NICs under their names.
func (s *site) back(t *testing.T, after string) {
	t.Helper()
	if got := s.devices(t); got != "eth0 eth1" {
		t.Errorf("after %s the node has %s, want eth0 eth1\n%s", after, got, s.DaemonLog())
	}
}

// TestHostDevice checks the use of the node's NICs by pods. The uplink is refused with the reason. The error names the
// spare NIC, which can be attached. After its pod ends, in any way, the NIC is on the node under its name again
// (multus-cni#1134).
func TestHostDevice(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newUplinkSite(t, kind)
			t.Run("the uplink", func(t *testing.T) { s.refusesUplink(t) })
			t.Run("the spare NIC", func(t *testing.T) { s.givesSpare(t) })
			t.Run("pod killed, then DEL", func(t *testing.T) {
				p := s.attachedPod(t, "killed-del", "spare")
				s.kill(t, p)
				p.Path = "" // as the runtime passes it
				if err := s.Del(t, s.Conf(), p); err != nil {
					t.Errorf("DEL: %v", err)
				}
				s.back(t, "DEL")
			})
			t.Run("pod killed, then GC", func(t *testing.T) {
				p := s.attachedPod(t, "killed-gc", "spare")
				s.kill(t, p)
				if err := s.GC(t, edited(t, s.Conf(), map[string]any{"cniVersion": "1.1.0"})); err != nil {
					t.Errorf("GC: %v", err)
				}
				s.back(t, "GC")
			})
			t.Run("pod killed, then GC that keeps it", func(t *testing.T) {
				p := s.attachedPod(t, "killed-listed", "spare")
				s.kill(t, p)
				if err := s.GC(t, edited(t, s.Conf(), map[string]any{"cniVersion": "1.1.0"}), p); err != nil {
					t.Errorf("GC: %v", err)
				}
				s.back(t, "GC")
				p.Path = ""
				if err := s.Del(t, s.Conf(), p); err != nil {
					t.Errorf("DEL: %v", err)
				}
			})
			t.Run("pod killed, then the next ADD", func(t *testing.T) { s.givesAgain(t) })
			t.Run("pod killed, and its name is taken", func(t *testing.T) { s.losesName(t) })
			t.Run("records of today's Multus", func(t *testing.T) { s.readsOldRecords(t) })
			t.Run("names in the pod", func(t *testing.T) { s.refusesClashes(t) })
			conf := edited(t, s.Conf(), map[string]any{"nodeAddresses": []string{"198.51.100.7"}})
			if kind == node.Thick {
				conf = s.withNodeAddress(t, "198.51.100.7")
			}
			t.Run("the node's address", func(t *testing.T) { s.refusesNodeAddress(t, conf) })
			t.Run("masters", func(t *testing.T) { s.judgesMasters(t) })
			t.Run("allowInUse", func(t *testing.T) {
				p := s.attachedPod(t, "meant", "meant")
				if got := s.devices(t); got != "eth1" {
					t.Errorf("the node has %s", got)
				}
				s.gone(t, s.Conf(), p)
				s.back(t, "DEL")
			})
		})
	}
}

func (s *site) attachedPod(t *testing.T, name, network string) *node.Pod {
	t.Helper()
	p := s.pod(t, name, map[string]string{networks: network}, true)
	if _, err := s.Add(t, s.Conf(), p); err != nil {
		t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
	}
	return p
}

func (s *site) refusesUplink(t *testing.T) {
	t.Helper()
	p := s.pod(t, "greedy", map[string]string{networks: "uplink"}, true)
	s.notAttached(t, p, types.ErrInvalidNetworkConfig,
		fmt.Sprintf(`device "eth0" of network %s/uplink is not free: it carries the node's default route (192.0.2.1, metric 100); free devices of this node: eth1; `, s.ns),
		fmt.Sprintf(`change "device" in the network attachment definition %s/uplink, or set "allowInUse": true in its config if you mean it`, s.ns),
		s.ns+"/greedy")
	if err := testnet.Ping(s.NS, "192.0.2.1"); err != nil {
		t.Errorf("the node has lost its uplink: %v", err)
	}
	p = s.pod(t, "hopeful", map[string]string{networks: "nothing"}, true)
	s.notAttached(t, p, types.ErrInvalidNetworkConfig,
		fmt.Sprintf(`device "eth9" of network %s/nothing is not on this node; free devices of this node: eth1; `, s.ns))
}

func (s *site) givesSpare(t *testing.T) {
	t.Helper()
	first := s.attachedPod(t, "first", "spare")
	if err := testnet.Ping(first.NS, "198.51.100.1"); err != nil {
		t.Error(err)
	}
	if err := s.Check(t, s.Conf(), first); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	second := s.pod(t, "second", map[string]string{networks: "spare"}, true)
	s.notAttached(t, second, types.ErrTryAgainLater,
		fmt.Sprintf(`device "eth1" of network %s/spare is not free: pod %s/first (sandbox %s, interface net1) has it; no device of this node is free; wait until that pod is gone`, s.ns, s.ns, first.ContainerID))
	s.gone(t, s.Conf(), first)
	s.back(t, "DEL")
}

// givesAgain deletes a pod that vanished after its successor was added, as happens with a StatefulSet.
func (s *site) givesAgain(t *testing.T) {
	t.Helper()
	old := s.attachedPod(t, "old", "spare")
	s.kill(t, old)
	again := s.attachedPod(t, "again", "spare")
	if err := testnet.Ping(again.NS, "198.51.100.1"); err != nil {
		t.Error(err)
	}
	old.Path = ""
	if err := s.Del(t, s.Conf(), old); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if err := testnet.Ping(again.NS, "198.51.100.1"); err != nil {
		t.Errorf("after the DEL of its predecessor: %v", err)
	}
	s.gone(t, s.Conf(), again)
	s.back(t, "DEL")
}

// losesName checks a NIC whose name on the node is taken by another NIC when its pod is deleted. DEL succeeds, and the
// NIC keeps the name that it had in the pod.
func (s *site) losesName(t *testing.T) {
	t.Helper()
	p := s.attachedPod(t, "nameless", "spare")
	s.kill(t, p)
	testnet.Veth(t, s.NS, "eth1", s.outside, "impostor")
	p.Path = ""
	if err := s.Del(t, s.Conf(), p); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if got := s.devices(t); got != "eth0 eth1 net1" {
		t.Errorf("the node has %s", got)
	}
	b, err := os.ReadFile(filepath.Join(s.Dir, "plugin.log"))
	if err != nil {
		t.Fatal(err)
	}
	names(t, string(b), "that came back from a deleted pod: another interface has it", "nameless")
	testnet.Remove(t, s.NS, "eth1")
	testnet.Rename(t, s.NS, "net1", "eth1")
}

// readsOldRecords checks records without the identity of the device, as after an upgrade. The pod that holds the device
// is then identified by the configuration of its network.
func (s *site) readsOldRecords(t *testing.T) {
	t.Helper()
	first := s.attachedPod(t, "upgraded", "spare")
	file := filepath.Join(s.State(), first.ContainerID)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var record []map[string]any
	if err := json.Unmarshal(b, &record); err != nil {
		t.Fatal(err)
	}
	identity, _ := record[1]["hostDevice"].(map[string]any)
	if identity["name"] != "eth1" || identity["ifindex"] == nil || identity["mac"] == nil {
		t.Errorf("hostDevice in the ledger: %v", record[1]["hostDevice"])
	}
	delete(record[1], "hostDevice")
	if b, err = json.Marshal(record); err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	second := s.pod(t, "later", map[string]string{networks: "spare"}, true)
	s.notAttached(t, second, types.ErrTryAgainLater, "is not free: pod "+s.ns+"/upgraded")
	s.gone(t, s.Conf(), first)
	s.back(t, "DEL")
}

// refusesClashes checks two conflicts: the pod already has an interface of the requested name, and the pod requests one
// device twice.
func (s *site) refusesClashes(t *testing.T) {
	t.Helper()
	p := s.pod(t, "occupied", map[string]string{networks: "spare"}, true)
	testnet.Veth(t, p.NS, "net1", s.outside, "clash")
	_, err := s.Add(t, s.Conf(), p)
	if err == nil {
		t.Fatal("attached over an interface of the pod")
	}
	names(t, err.Error(), "interface name net1 already exists", s.ns+"/spare")
	s.back(t, "the refusal")
	p = s.pod(t, "twice", map[string]string{networks: "spare,spare"}, true)
	s.notAttached(t, p, types.ErrInvalidNetworkConfig,
		fmt.Sprintf(`device "eth1" of network %s/spare is not free: network %s/spare of the same pod takes it`, s.ns, s.ns))
	s.back(t, "the refusal")
}

// withNodeAddress starts a daemon with the node's address in its environment, as in its manifest, and returns the
// configuration that it generates.
func (s *site) withNodeAddress(t *testing.T, address string) []byte {
	t.Helper()
	s.StopDaemon(t)
	s.DaemonEnv = []string{"MULTUS_NODE_ADDRESS=" + address}
	s.StartDaemon(t)
	s.eventually(t, "nodeAddresses in the generated configuration",
		func() bool { return strings.Contains(string(s.Generated(t)), address) })
	return s.Generated(t)
}

// refusesNodeAddress checks a node whose address in the cluster is not on the uplink, as on many virtual machines.
func (s *site) refusesNodeAddress(t *testing.T, conf []byte) {
	t.Helper()
	testnet.Addr(t, s.NS, "eth1", "198.51.100.7/24")
	p := s.pod(t, "addressed", map[string]string{networks: "spare"}, true)
	_, err := s.Add(t, conf, p)
	if err == nil {
		t.Fatal("attached")
	}
	names(t, err.Error(), `device "eth1" of network `+s.ns+`/spare is not free: it has the node's address 198.51.100.7; no device of this node is free`)
	// Without the node's address in the configuration, an address is no reason to refuse a NIC: today's users attach NICs
	// that the node has configured.
	p = s.attachedPod(t, "unaddressed", "spare")
	s.gone(t, s.Conf(), p)
	s.back(t, "DEL")
}

// judgesMasters checks that a master that does not exist is reported, and that an uplink with macvlan interfaces on it
// is refused as a device.
func (s *site) judgesMasters(t *testing.T) {
	t.Helper()
	p := s.pod(t, "no-master", map[string]string{networks: "no-master"}, true)
	s.notAttached(t, p, types.ErrInvalidNetworkConfig,
		fmt.Sprintf(`master "eth9" of network %s/no-master is not on this node; interfaces of this node: eth0, eth1, cni0; change "master" in the network attachment definition %s/no-master`, s.ns, s.ns))
	user := s.attachedPod(t, "user", "master")
	p = s.pod(t, "third", map[string]string{networks: "uplink"}, true)
	s.notAttached(t, p, types.ErrInvalidNetworkConfig,
		fmt.Sprintf("other interfaces are on it: that of pod %s/user", s.ns))
	s.gone(t, s.Conf(), user)
}

// TestHostDeviceRace checks that only one of two pods that request one NIC at the same moment gets it. The error of the
// other pod names the pod that has it.
func TestHostDeviceRace(t *testing.T) {
	const tries = 20
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newUplinkSite(t, kind)
			pods := []*node.Pod{
				s.pod(t, "alice", map[string]string{networks: "spare"}, true),
				s.pod(t, "bob", map[string]string{networks: "spare"}, true),
			}
			won := map[string]int{}
			for range tries {
				errs := make([]error, len(pods))
				var wg sync.WaitGroup
				for i, p := range pods {
					wg.Go(func() { _, errs[i] = s.Add(t, s.Conf(), p) })
				}
				wg.Wait()
				winner := slices.Index(errs, nil)
				if winner < 0 || errs[1-winner] == nil {
					t.Fatalf("ADD: %v, want one success\n%s", errs, s.DaemonLog())
				}
				won[pods[winner].Name]++
				var ce *types.Error
				if !errors.As(errs[1-winner], &ce) || ce.Code != types.ErrTryAgainLater {
					t.Errorf("ADD: %v, want code %d", errs[1-winner], types.ErrTryAgainLater)
				}
				names(t, errs[1-winner].Error(), `device "eth1"`, "is not free: pod "+s.ns+"/"+pods[winner].Name)
				for _, p := range pods {
					s.gone(t, s.Conf(), p)
				}
				s.back(t, "both DELs")
			}
			t.Logf("won: %v", won)
		})
	}
}
