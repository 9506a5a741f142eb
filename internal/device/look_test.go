package device_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"multus/internal/device"
	"multus/internal/link"
	"multus/internal/testutil/testnet"
)

// TestInspect refuses, on a real node, a device for each reason that can be set up on this kernel, and returns the free
// devices.
func TestInspect(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"bridge", "macvlan", "vxlan"} {
		testnet.RequireKernel(t, kind)
	}
	node, world, pod, user, dead := testnet.New(t), testnet.New(t), testnet.New(t), testnet.New(t), testnet.New(t)
	for i, name := range []string{"up4", "up6", "port", "lower", "vtep", "addr", "used", "spare"} {
		testnet.Veth(t, node, name, world, fmt.Sprintf("w%d", i))
	}
	testnet.Veth(t, node, "cable", pod, "eth0")
	testnet.Veth(t, node, "old", dead, "eth0")
	testnet.Addr(t, node, "up4", "192.0.2.7/24")
	testnet.Addr(t, node, "up6", "2001:db8:1::7/64")
	testnet.Addr(t, node, "addr", "198.51.100.7/24", "2001:db8:2::7/64")
	testnet.Addr(t, node, "spare", "203.0.113.7/24")
	testnet.DefaultRoute(t, node, "up4", "192.0.2.1", 100)
	testnet.DefaultRoute(t, node, "up6", "2001:db8:1::1", 0)
	testnet.DefaultRoute(t, node, "spare", "203.0.113.1", 200)
	testnet.Bridge(t, node, "br0")
	testnet.Port(t, node, "port", "br0")
	testnet.On(t, node, "lower", "mac0", "macvlan")
	testnet.On(t, node, "vtep", "vx0", "vxlan")
	testnet.On(t, node, "used", "net1", "macvlan")
	testnet.Move(t, node, "net1", user)
	if err := testnet.Delete(dead.Path); err != nil {
		t.Fatal(err)
	}
	ns, err := link.Open(node.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	holdings := []device.Holding{
		{Pod: "default/p", ContainerID: "c1", IfName: "eth0", Netns: pod.Path},
		{Pod: "default/dead", ContainerID: "c2", IfName: "eth0", Netns: dead.Path},
		{
			Pod: "default/u", ContainerID: "c3", IfName: "net1", Netns: user.Path,
			References: []device.Reference{{Use: device.Shares, Key: "master", Value: "used"}},
		},
	}
	inv, err := device.Inspect(ns, holdings, device.ParseAddresses([]string{"2001:db8:2::7"}))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"up4":   "it carries the node's default route (192.0.2.1, metric 100)",
		"up6":   "it carries the node's default route (2001:db8:1::1, metric 1024)",
		"port":  "it belongs to bridge br0",
		"br0":   "it is a bridge, which cannot leave the node",
		"lower": "other interfaces are on it: macvlan mac0",
		"vtep":  "other interfaces are on it: vxlan vx0",
		"used":  "other interfaces are on it: that of pod default/u (sandbox c3, interface net1)",
		"addr":  "it has the node's address 2001:db8:2::7",
		"cable": "it is the node's end of the veth pair of pod default/p (sandbox c1, interface eth0)",
		"lo":    "it is the node's loopback interface",
		"eth9":  "is not on this node",
		"spare": "", "mac0": "",
	} {
		d, err := inv.Judge(device.Reference{Network: "default/n", Key: "device", Value: name})
		if want == "" {
			if err != nil || d.Name != name {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var r *device.Refusal
		if !errors.As(err, &r) || !strings.Contains(r.Error(), want) || len(r.Reasons) > 1 {
			t.Errorf("%s: error %v, want %q and nothing else", name, err, want)
		}
	}
	mac := inv.Devices[len(inv.Devices)-1].MAC
	if _, err := net.ParseMAC(mac); err != nil {
		t.Fatal(err)
	}
	if d, err := inv.Judge(device.Reference{Key: "hwaddr", Value: mac, AllowInUse: true}); err != nil || d == nil ||
		d.MAC != mac {
		t.Errorf("%v, %v", d, err)
	}
}
