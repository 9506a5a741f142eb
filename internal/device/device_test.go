package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/cniconf"
	"multus/internal/link"
)

// nic returns hardware that is up and has a carrier.
func nic(index int, name string) link.Device {
	return link.Device{
		Interface: link.Interface{
			Index: index, Name: name, MAC: fmt.Sprintf("02:00:00:00:00:%02x", index), Type: "device",
			Up: true,
		},
		Permanent: fmt.Sprintf("02:00:00:00:00:%02x", index), Bus: fmt.Sprintf("0000:00:%02x.0", index), Peer: -1,
		Carrier: true,
	}
}

// soft returns a virtual device.
func soft(index int, name, typ string) link.Device {
	return link.Device{
		Interface: link.Interface{
			Index: index, Name: name, MAC: fmt.Sprintf("06:00:00:00:00:%02x", index), Type: typ,
			Up: true,
		},
		Peer: -1, Carrier: true,
	}
}

// with changes a device.
func with(d link.Device, change func(*link.Device)) link.Device {
	change(&d)
	return d
}

func defaultRoute(dev, gateway string, metric int) Route {
	r := Route{Route: link.Route{Interface: dev, Metric: metric}, Family: link.IPv4}
	if gateway != "" {
		r.Gateway = netip.MustParseAddr(gateway)
		if r.Gateway.Is6() {
			r.Family = link.IPv6
		}
	}
	return r
}

// macvlan returns the holding of a pod with a macvlan on a master.
func macvlan(master string) Holding {
	return Holding{
		Pod: "default/m", ContainerID: "m1", IfName: "net1", Peer: -1,
		References: []Reference{{Use: Shares, Key: "master", Value: master}},
	}
}

func lo() link.Device {
	return with(soft(1, "lo", "device"), func(d *link.Device) { d.Loopback = true })
}

// TestReasons has each reason for which the node or another pod keeps a device, and similar cases that are no reason
// (multus-cni#1134). The device under test is eth1, with index 3.
func TestReasons(t *testing.T) {
	t.Parallel()
	eth1 := nic(3, "eth1")
	down := func(d *link.Device) { d.Up, d.Carrier = false, false }
	for name, tc := range map[string]struct {
		device   link.Device // instead of eth1
		others   []link.Device
		routes   []Route
		nodes    []string
		holdings []Holding
		want     []Kind
		text     string
	}{
		"spare": {device: eth1},
		"an address is not a reason": {
			device: with(eth1, func(d *link.Device) { d.Addrs = []netip.Prefix{netip.MustParsePrefix("198.51.100.7/24")} }),
			nodes:  []string{"192.0.2.7"},
		},
		"default route": {
			device: eth1, routes: []Route{defaultRoute("eth1", "192.0.2.1", 100)},
			want: []Kind{DefaultRoute}, text: "it carries the node's default route (192.0.2.1, metric 100)",
		},
		"default route, IPv6": {
			device: eth1, routes: []Route{defaultRoute("eth1", "fe80::1", 0)},
			want: []Kind{DefaultRoute}, text: "it carries the node's default route (fe80::1)",
		},
		"default route, no gateway": {
			device: eth1, routes: []Route{defaultRoute("eth1", "", 0)},
			want: []Kind{DefaultRoute}, text: "it carries the node's default route",
		},
		"default route of another device": {
			device: eth1, others: []link.Device{nic(2, "eth0")},
			routes: []Route{defaultRoute("eth0", "192.0.2.1", 0)},
		},
		"a default route with a larger metric": {
			device: eth1, others: []link.Device{nic(2, "eth0")},
			routes: []Route{defaultRoute("eth0", "192.0.2.1", 100), defaultRoute("eth1", "198.51.100.1", 101)},
		},
		"a default route with the same metric": {
			device: eth1, others: []link.Device{nic(2, "eth0")},
			routes: []Route{defaultRoute("eth0", "192.0.2.1", 100), defaultRoute("eth1", "198.51.100.1", 100)},
			want:   []Kind{DefaultRoute}, text: "198.51.100.1",
		},
		"the device with the smaller metric has no carrier": {
			device: eth1, others: []link.Device{with(nic(2, "eth0"), down)},
			routes: []Route{defaultRoute("eth0", "192.0.2.1", 100), defaultRoute("eth1", "198.51.100.1", 101)},
			want:   []Kind{DefaultRoute}, text: "metric 101",
		},
		"it has no carrier and the smallest metric": {
			device: with(eth1, down), others: []link.Device{nic(2, "eth0")},
			routes: []Route{defaultRoute("eth1", "192.0.2.1", 100), defaultRoute("eth0", "198.51.100.1", 101)},
			want:   []Kind{DefaultRoute}, text: "metric 100",
		},
		"the only one of its family": {
			device: eth1, others: []link.Device{nic(2, "eth0")},
			routes: []Route{defaultRoute("eth0", "192.0.2.1", 100), defaultRoute("eth1", "fe80::1", 1024)},
			want:   []Kind{DefaultRoute}, text: "fe80::1",
		},
		"the node's address": {
			device: with(eth1, func(d *link.Device) { d.Addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")} }),
			nodes:  []string{"2001:db8::7", "192.0.2.7"}, want: []Kind{NodeAddress}, text: "it has the node's address 192.0.2.7",
		},
		"port of a bridge": {
			device: with(eth1, func(d *link.Device) { d.Master = 9 }),
			others: []link.Device{soft(9, "br-ex", "bridge")}, want: []Kind{Member}, text: "it belongs to bridge br-ex",
		},
		"member of a bond": {
			device: with(eth1, func(d *link.Device) { d.Master = 9 }),
			others: []link.Device{soft(9, "bond0", "bond")}, want: []Kind{Member}, text: "it belongs to bond bond0",
		},
		"port of Open vSwitch": {
			device: with(eth1, func(d *link.Device) { d.Master = 9 }),
			others: []link.Device{soft(9, "ovs-system", "openvswitch")}, want: []Kind{Member},
			text: "it belongs to openvswitch ovs-system",
		},
		"parent of a vlan": {
			device: eth1,
			others: []link.Device{with(soft(9, "eth1.7", "vlan"), func(d *link.Device) { d.Lower = 3 })}, want: []Kind{Parent},
			text: "other interfaces are on it: vlan eth1.7",
		},
		"parent of a vxlan": {
			device: eth1,
			others: []link.Device{with(soft(9, "flannel.1", "vxlan"), func(d *link.Device) { d.Lower = 3 })},
			want:   []Kind{Parent}, text: "vxlan flannel.1",
		},
		"parent of a VLAN in another namespace": {
			device: eth1,
			others: []link.Device{with(soft(9, "eth0.7", "vlan"), func(d *link.Device) { d.Lower = 2 })},
		},
		"a macvlan of a pod": {
			device:   eth1,
			holdings: []Holding{withHolding(macvlan("eth1"), func(c *Holding) { c.Attached = true })}, want: []Kind{Parent},
			text: "other interfaces are on it: that of pod default/m (sandbox m1, interface net1)",
		},
		"a macvlan that is being created": {
			device:   eth1,
			holdings: []Holding{withHolding(macvlan("eth1"), func(c *Holding) { c.Busy = true })}, want: []Kind{Parent},
		},
		"a macvlan of a pod that is gone": {
			device:   eth1,
			holdings: []Holding{withHolding(macvlan("eth1"), func(c *Holding) { c.Gone = true })},
		},
		"a macvlan on another": {
			device:   eth1,
			holdings: []Holding{withHolding(macvlan("eth0"), func(c *Holding) { c.Attached = true })},
		},
		"veth of a pod": {
			device:   with(soft(3, "veth1", "veth"), func(d *link.Device) { d.Peer = 4 }),
			holdings: []Holding{{Pod: "default/p", ContainerID: "c1", IfName: "eth0", Peer: 4}}, want: []Kind{PodVeth},
			text: "it is the node's end of the veth pair of pod default/p (sandbox c1, interface eth0)",
		},
		"veth of a pod that is gone": {
			device:   with(soft(3, "veth1", "veth"), func(d *link.Device) { d.Peer = 4 }),
			holdings: []Holding{{Pod: "default/p", Peer: 4, Gone: true}},
		},
		"veth whose peer is in another namespace": {
			device:   with(soft(3, "veth1", "veth"), func(d *link.Device) { d.Peer = 4 }),
			holdings: []Holding{{Pod: "default/p", Peer: 5}},
		},
		"veth on this node": {device: soft(3, "veth1", "veth"), holdings: []Holding{{Pod: "default/p", Peer: -1}}},
		"bridge of the cluster": {
			device: soft(3, "cni0", "bridge"), want: []Kind{Immovable},
			text: "it is a bridge, which cannot leave the node",
		},
		"internal port of a vSwitch": {device: soft(3, "vport0", "openvswitch")},
		"loopback": {
			device: with(soft(3, "lo", "device"), func(d *link.Device) { d.Loopback = true }),
			want:   []Kind{Immovable}, text: "it is the node's loopback interface",
		},
		"it is being attached": {
			device:   eth1,
			holdings: []Holding{{Pod: "default/p", ContainerID: "c1", IfName: "net1", Busy: true, Device: IdentityOf(&eth1)}},
			want:     []Kind{Held}, text: "pod default/p (sandbox c1, interface net1) is attaching or releasing it",
		},
		"recorded, no operation": {device: eth1, holdings: []Holding{{Pod: "default/p", Device: IdentityOf(&eth1)}}},
		"several reasons": {
			device: with(eth1, func(d *link.Device) { d.Master = 9 }),
			others: []link.Device{soft(9, "br0", "bridge"), with(soft(8, "v", "vlan"), func(d *link.Device) { d.Lower = 3 })},
			routes: []Route{defaultRoute("eth1", "192.0.2.1", 0)}, want: []Kind{DefaultRoute, Member, Parent},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inv := &Inventory{
				Devices: append([]link.Device{lo(), tc.device}, tc.others...), Routes: tc.routes,
				Holdings: tc.holdings, NodeAddresses: ParseAddresses(tc.nodes),
			}
			var kinds []Kind
			var texts []string
			for _, r := range inv.Reasons(&inv.Devices[1]) {
				kinds, texts = append(kinds, r.Kind), append(texts, r.Text)
			}
			if d := cmp.Diff(tc.want, kinds); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if text := strings.Join(texts, "; "); !strings.Contains(text, tc.text) {
				t.Errorf("%q, want %q", text, tc.text)
			}
		})
	}
}

func withHolding(c Holding, change func(*Holding)) Holding {
	change(&c)
	return c
}

// TestFree checks that hardware is listed before other devices, and that nothing is listed that would be refused.
func TestFree(t *testing.T) {
	t.Parallel()
	uplink := []Route{defaultRoute("eth0", "192.0.2.1", 0)}
	cable := with(soft(7, "veth7", "veth"), func(d *link.Device) { d.Peer = 4 })
	pod := []Holding{{Pod: "default/p", Peer: 4}}
	for name, tc := range map[string]struct {
		devices []link.Device
		want    []string
	}{
		"hardware": {[]link.Device{
			lo(), nic(2, "eth0"), nic(3, "eth1"), nic(4, "eth2"), cable, soft(8, "spare", "veth"),
			soft(9, "cni0", "bridge"),
		}, []string{"eth1", "eth2"}},
		"virtual": {[]link.Device{
			lo(), nic(2, "eth0"), cable, soft(8, "spare", "veth"), soft(9, "cni0", "bridge"),
			soft(10, "flannel.1", "vxlan"), soft(11, "tun0", "tun"),
		}, []string{"spare"}},
		"nothing":    {[]link.Device{lo(), nic(2, "eth0"), cable}, nil},
		"no devices": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inv := &Inventory{Devices: tc.devices, Routes: uplink, Holdings: pod}
			if d := cmp.Diff(tc.want, inv.Free()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestReferences checks which key of which plugin counts: the first one that the plugin itself would use.
func TestReferences(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		config, deviceID string
		want             []Reference
		fails            string
	}{
		"device": {
			config: `{"type":"host-device","device":"eth1","hwaddr":"x","pciBusID":"y"}`,
			want:   []Reference{{Key: "device", Value: "eth1"}},
		},
		"key in other case": {
			config: `{"type":"host-device","Device":"eth1"}`,
			want:   []Reference{{Key: "device", Value: "eth1"}},
		},
		"hwaddr": {
			config: `{"type":"host-device","hwaddr":"02:00:00:00:00:03","kernelpath":"z"}`,
			want:   []Reference{{Key: "hwaddr", Value: "02:00:00:00:00:03"}},
		},
		"kernelpath": {
			config: `{"type":"host-device","kernelpath":"/sys/devices/x","pciBusID":"y"}`,
			want:   []Reference{{Key: "kernelpath", Value: "/sys/devices/x"}},
		},
		"pciBusID": {
			config: `{"type":"host-device","pciBusID":"0000:00:03.0"}`,
			want:   []Reference{{Key: "pciBusID", Value: "0000:00:03.0"}},
		},
		"kubelet's": {
			config:   `{"type":"host-device","pciBusID":"0000:00:03.0","capabilities":{"deviceID":true}}`,
			deviceID: `"0000:00:04.0"`, want: []Reference{{Key: "deviceID", Value: "0000:00:04.0", Given: true}},
		},
		"kubelet's, unwanted": {
			config: `{"type":"host-device","pciBusID":"0000:00:03.0"}`, deviceID: `"0000:00:04.0"`,
			want: []Reference{{Key: "pciBusID", Value: "0000:00:03.0"}},
		},
		"kubelet's, not a string": {
			config:   `{"type":"host-device","device":"eth1","capabilities":{"deviceID":true}}`,
			deviceID: `7`, want: []Reference{{Key: "device", Value: "eth1"}},
		},
		"no key": {config: `{"type":"host-device"}`},
		"allowInUse": {
			config: `{"type":"host-device","device":"eth0","allowInUse":true}`,
			want:   []Reference{{Key: "device", Value: "eth0", AllowInUse: true}},
		},
		"allowInUse, a string": {config: `{"type":"host-device","device":"eth0","allowInUse":"yes"}`, fails: "allowInUse"},
		"sriov": {
			config: `{"type":"sriov","deviceID":"0000:00:03.1"}`,
			want:   []Reference{{Key: "deviceID", Value: "0000:00:03.1"}},
		},
		"sriov, kubelet's": {
			config: `{"type":"sriov","deviceID":"0000:00:03.1","pciBusID":"0000:00:03.1"}`,
			want:   []Reference{{Key: "deviceID", Value: "0000:00:03.1", Given: true}},
		},
		"sriov, no device": {config: `{"type":"sriov"}`},
		"macvlan": {
			config: `{"type":"macvlan","master":"eth0"}`,
			want:   []Reference{{Use: Shares, Key: "master", Value: "eth0"}},
		},
		"ipvlan": {
			config: `{"type":"ipvlan","master":"eth0"}`,
			want:   []Reference{{Use: Shares, Key: "master", Value: "eth0"}},
		},
		"vlan": {
			config: `{"type":"vlan","master":"eth0"}`,
			want:   []Reference{{Use: Shares, Key: "master", Value: "eth0"}},
		},
		"no master":         {config: `{"type":"macvlan"}`},
		"master in the pod": {config: `{"type":"macvlan","master":"eth0","linkInContainer":true}`},
		"another plugin":    {config: `{"type":"bridge","device":"eth0","master":"eth0"}`},
		"in a chain": {
			config: `{"name":"n","plugins":[{"type":"tuning"},{"type":"host-device","device":"eth1"},{"type":"macvlan","master":"eth0"}]}`,
			want: []Reference{
				{Key: "device", Value: "eth1", Later: true},
				{Use: Shares, Key: "master", Value: "eth0", Later: true},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := cniconf.Parse([]byte(tc.config))
			if err == nil {
				l, err = l.WithDefaults("n", "1.0.0")
			}
			if err != nil {
				t.Fatal(err)
			}
			rc := map[string]json.RawMessage{}
			if tc.deviceID != "" {
				rc["deviceID"] = json.RawMessage(tc.deviceID)
			}
			got, err := References("ns/n", l, rc)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) || !strings.Contains(err.Error(), "ns/n") {
					t.Errorf("error %v, want one of %s in network ns/n", err, tc.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range tc.want {
				tc.want[i].Network = "ns/n"
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// tree creates a sysfs with directories.
func tree(t *testing.T, dirs ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestJudge checks the one-line outcome of each way to request a device.
func TestJudge(t *testing.T) {
	t.Parallel()
	sys := tree(t,
		"devices/pci0000:00/0000:00:03.0/net/eth1", "devices/pci0000:00/0000:00:07.0", "bus/pci/devices/0000:00:07.0",
		"bus/pci/devices/0000:00:08.0/virtio3/net/eth1", "bus/auxiliary/devices/mlx5_core.sf.4/net/eth1",
		"bus/pci/devices/0000:00:0a.0",
	)
	const free = "; free devices of this node: eth1"
	eth2 := &Identity{
		Name: "eth2", Index: 10, MAC: "02:00:00:00:00:0a", Permanent: "02:00:00:00:00:0a",
		Bus: "0000:00:0a.0",
	}
	holder := Holding{Pod: "default/p", ContainerID: "c1", IfName: "net1", Attached: true, Device: eth2, Peer: -1}
	old := Holding{
		Pod: "default/old", ContainerID: "c2", IfName: "net1", Attached: true, Peer: -1,
		References: []Reference{{Key: "device", Value: "eth3"}},
	}
	const has = "is not free: pod default/p (sandbox c1, interface net1) has it" + free
	for name, tc := range map[string]struct {
		ref      Reference
		holdings []Holding
		want     string // the device, or the error
		next     string
	}{
		"free":             {ref: Reference{Key: "device", Value: "eth1"}, want: "eth1"},
		"alternative name": {ref: Reference{Key: "device", Value: "enp0s3"}, want: "eth1"},
		"taken": {
			ref:  Reference{Key: "device", Value: "eth0"},
			want: `device "eth0" of network ns/n is not free: it carries the node's default route (192.0.2.1)` + free,
			next: `change "device" in the network attachment definition ns/n, or set "allowInUse": true in its config if you mean it`,
		},
		"allowed":              {ref: Reference{Key: "device", Value: "eth0", AllowInUse: true}, want: "eth0"},
		"allowed, but missing": {ref: Reference{Key: "device", Value: "eth9", AllowInUse: true}, want: ""},
		"not on the node": {
			ref:  Reference{Key: "device", Value: "eth9"},
			want: `device "eth9" of network ns/n is not on this node` + free,
			next: `change "device" in the network attachment definition ns/n`,
		},
		"not on the node yet": {ref: Reference{Key: "device", Value: "eth9", Later: true}, want: ""},
		"taken, later in a chain": {
			ref:  Reference{Key: "device", Value: "eth0", Later: true},
			want: `is not free: it carries`,
		},
		"immovable": {
			ref:  Reference{Key: "device", Value: "lo"},
			want: `device "lo" of network ns/n is not free: it is the node's loopback interface` + free,
			next: `change "device" in the network attachment definition ns/n`,
		},
		"hwaddr": {ref: Reference{Key: "hwaddr", Value: "02-00-00-00-00-03"}, want: "eth1"},
		"hwaddr taken": {
			ref:  Reference{Key: "hwaddr", Value: "02:00:00:00:00:02"},
			want: `device "eth0" (hwaddr "02:00:00:00:00:02" of network ns/n) is not free: it carries`,
		},
		"hwaddr not on the node": {
			ref:  Reference{Key: "hwaddr", Value: "02:00:00:00:00:99"},
			want: `hwaddr "02:00:00:00:00:99" of network ns/n is not on this node` + free,
		},
		"hwaddr is invalid": {
			ref:  Reference{Key: "hwaddr", Value: "eth1"},
			want: `hwaddr "eth1" of network ns/n is not on this node`,
		},
		"kernelpath": {
			ref:  Reference{Key: "kernelpath", Value: "/sys/devices/pci0000:00/0000:00:03.0/"},
			want: "eth1",
		},
		"kernelpath not on the node": {
			ref:  Reference{Key: "kernelpath", Value: "/sys/devices/pci0000:00/0000:00:99.0"},
			want: `kernelpath "/sys/devices/pci0000:00/0000:00:99.0" of network ns/n is not on this node`,
		},
		"kernelpath outside of /sys/devices": {
			ref:  Reference{Key: "kernelpath", Value: "/etc"},
			want: `kernelpath "/etc" of network ns/n is not on this node`,
		},
		"PCI, by netlink": {
			ref:  Reference{Key: "pciBusID", Value: "0000:00:02.0"},
			want: `device "eth0" (pciBusID "0000:00:02.0" of network ns/n) is not free`, next: `change "pciBusID" in`,
		},
		"PCI, virtio, by sysfs":    {ref: Reference{Key: "pciBusID", Value: "0000:00:08.0"}, want: "eth1"},
		"PCI, driver in userspace": {ref: Reference{Key: "pciBusID", Value: "0000:00:07.0"}, want: ""},
		"PCI address not on the node": {
			ref:  Reference{Key: "pciBusID", Value: "0000:00:99.0"},
			want: `pciBusID "0000:00:99.0" of network ns/n is not on this node`,
		},
		"in the definition": {
			ref: Reference{Key: "deviceID", Value: "0000:00:7f.0"}, want: "is not on this node",
			next: `change "deviceID" in the network attachment definition ns/n`,
		},
		"kubelet's": {
			ref:  Reference{Key: "deviceID", Value: "0000:00:02.0", Given: true},
			want: `device "eth0" (deviceID "0000:00:02.0" of network ns/n) is not free`,
			next: `exclude it from the devices that the kubelet assigns for network ns/n, or set "allowInUse"`,
		},
		"auxiliary":            {ref: Reference{Key: "deviceID", Value: "mlx5_core.sf.4"}, want: "eth1"},
		"auxiliary is not PCI": {ref: Reference{Key: "pciBusID", Value: "mlx5_core.sf.4"}, want: `is not on this node`},
		"held": {
			ref: Reference{Key: "device", Value: "eth2"}, holdings: []Holding{holder},
			want: `device "eth2" of network ns/n ` + has, next: `wait until that pod is gone, or change "device"`,
		},
		"held, by MAC": {
			ref: Reference{Key: "hwaddr", Value: "02:00:00:00:00:0A"}, holdings: []Holding{holder},
			want: `device "eth2" (hwaddr "02:00:00:00:00:0A" of network ns/n) ` + has,
		},
		"held, by PCI": {
			ref: Reference{Key: "pciBusID", Value: "0000:00:0a.0"}, holdings: []Holding{holder},
			want: `device "eth2" (pciBusID "0000:00:0a.0" of network ns/n) ` + has,
		},
		"held, by kernelpath": {
			ref:      Reference{Key: "kernelpath", Value: "/sys/devices/pci0000:00/0000:00:0a.0"},
			holdings: []Holding{holder}, want: `device "eth2" (kernelpath "/sys/devices/pci0000:00/0000:00:0a.0" of network ns/n) ` +
				has,
		},
		"held by a newer pod": {
			ref:      Reference{Key: "device", Value: "eth2"},
			holdings: []Holding{{Pod: "default/dead", Gone: true, Device: eth2}, holder}, want: has,
		},
		"held by a pod that is gone": {
			ref:      Reference{Key: "device", Value: "eth2"},
			holdings: []Holding{{Pod: "default/dead", ContainerID: "c0", IfName: "net1", Gone: true, Device: eth2}},
			want:     `pod default/dead (sandbox c0, interface net1) has it, and its network namespace is gone`,
		},
		"held, record of today's Multus": {
			ref: Reference{Key: "device", Value: "eth3"}, holdings: []Holding{holder, old},
			want: `device "eth3" of network ns/n is not free: pod default/old (sandbox c2, interface net1) has it`,
		},
		"held once": {
			ref:      Reference{Key: "device", Value: "eth3"},
			holdings: []Holding{withHolding(old, func(c *Holding) { c.Attached = false })},
			want:     `device "eth3" of network ns/n is not on this node`,
		},
		"master": {ref: Reference{Use: Shares, Key: "master", Value: "eth0"}, want: "eth0"},
		"master not on the node": {
			ref:  Reference{Use: Shares, Key: "master", Value: "eth9"},
			want: `master "eth9" of network ns/n is not on this node; interfaces of this node: eth0, eth1, cni0`,
			next: `change "master" in the network attachment definition ns/n`,
		},
		"master not on the node yet": {ref: Reference{Use: Shares, Key: "master", Value: "eth9", Later: true}, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inv := &Inventory{
				Devices: []link.Device{
					lo(), nic(2, "eth0"),
					with(nic(3, "eth1"), func(d *link.Device) { d.AltNames = []string{"enp0s3"} }), soft(4, "cni0", "bridge"),
				},
				Routes: []Route{defaultRoute("eth0", "192.0.2.1", 0)}, Holdings: tc.holdings, Sys: sys,
			}
			tc.ref.Network = "ns/n"
			d, err := inv.Judge(tc.ref)
			if err == nil {
				name := ""
				if d != nil {
					name = d.Name
				}
				if name != tc.want {
					t.Errorf("device %q, want %q", name, tc.want)
				}
				return
			}
			var r *Refusal
			if !errors.As(err, &r) {
				t.Fatalf("%v is not a refusal", err)
			}
			if !strings.Contains(r.Error(), tc.want) || tc.want == "" || strings.Contains(r.Error(), "\n") {
				t.Errorf("error %q, want %q", r, tc.want)
			}
			if !strings.HasPrefix(r.Next(), tc.next) || strings.Contains(tc.next, "definition ns/n") && r.Next() != tc.next {
				t.Errorf("next %q, want %q", r.Next(), tc.next)
			}
			if r.Retry != strings.Contains(r.Error(), "pod default/") {
				t.Errorf("retry is %t: %s", r.Retry, r)
			}
		})
	}
}

// TestMessages checks messages with a missing part.
func TestMessages(t *testing.T) {
	t.Parallel()
	inv := &Inventory{Devices: []link.Device{lo()}}
	_, err := inv.Judge(Reference{Network: "cluster", Key: "device", Value: "eth1"})
	var r *Refusal
	if !errors.As(err, &r) || r.Error() != `device "eth1" of network cluster is not on this node; no device of this node is free` {
		t.Errorf("%v", err)
	}
	if got := r.Next(); got != `change "device" in the configuration of network cluster` {
		t.Error(got)
	}
	if got := (&Holding{
		ContainerID: "c",
		IfName:      "net1",
	}).String(); got != "a pod without a name (sandbox c, interface net1)" {
		t.Error(got)
	}
	if got := list([]string{
		"1", "2", "3", "4", "5", "6", "7", "8", "9",
		"10",
	}); got != "1, 2, 3, 4, 5, 6, 7, 8 and 2 more" {
		t.Error(got)
	}
	if d := cmp.Diff([]netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
		ParseAddresses([]string{"::ffff:192.0.2.7", "", "x", " 2001:db8::7/64"}),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

// TestReturned checks how a device is identified after its pod has vanished, and which devices are not mistaken for it.
func TestReturned(t *testing.T) {
	t.Parallel()
	hard, veth := nic(3, "eth1"), soft(5, "eth5", "veth")
	as := func(d link.Device, name string, change func(*link.Device)) link.Device {
		d.Name = name
		if change != nil {
			change(&d)
		}
		return d
	}
	for name, tc := range map[string]struct {
		was    link.Device
		now    []link.Device
		busy   bool
		want   string // name of the device now
		taken  bool
		second bool // another pod had it before
	}{
		"under its name in the pod": {was: hard, now: []link.Device{as(hard, "net1", nil)}, want: "net1"},
		"recorded by two pods": {
			was: hard, now: []link.Device{as(hard, "net1", nil)}, want: "net1",
			second: true,
		},
		"index and MAC address are others": {
			was:  hard,
			now:  []link.Device{as(hard, "net1", func(d *link.Device) { d.Index, d.MAC = 77, "02:99:00:00:00:01" })},
			want: "net1",
		},
		"under a name that the kernel chose": {was: hard, now: []link.Device{as(hard, "dev3", nil)}, want: "dev3"},
		"with its name in the alias": {
			was: hard,
			now: []link.Device{as(hard, "sriov0", func(d *link.Device) { d.Alias = "eth1" })}, want: "sriov0",
		},
		"under its original name":           {was: hard, now: []link.Device{hard}},
		"renamed by the administrator":      {was: hard, now: []link.Device{as(hard, "lan0", nil)}},
		"renamed to something like devices": {was: hard, now: []link.Device{as(hard, "dev0x", nil)}},
		"an operation is running":           {was: hard, now: []link.Device{as(hard, "net1", nil)}, busy: true},
		"another port of the card": {
			was: hard,
			now: []link.Device{as(hard, "net1", func(d *link.Device) { d.Permanent = "02:00:00:00:00:77" })},
		},
		"another device": {was: hard, now: []link.Device{as(nic(4, ""), "net1", nil)}},
		"a virtual function": {
			was:  with(hard, func(d *link.Device) { d.Permanent = "" }),
			now:  []link.Device{as(hard, "net1", func(d *link.Device) { d.Permanent, d.MAC = "", "02:99:00:00:00:01" })},
			want: "net1",
		},
		"kernel that reports no bus": {
			was: with(hard, func(d *link.Device) { d.Bus = "" }),
			now: []link.Device{as(hard, "net1", nil)}, want: "net1",
		},
		"another has the name": {
			was: hard, now: []link.Device{as(hard, "net1", nil), nic(9, "eth1")},
			want: "net1", taken: true,
		},
		"virtual, same MAC address": {
			was: veth,
			now: []link.Device{as(veth, "net1", func(d *link.Device) { d.Index = 77 })}, want: "net1",
		},
		"virtual, same index and alias": {
			was:  veth,
			now:  []link.Device{as(veth, "net1", func(d *link.Device) { d.MAC, d.Alias = "06:99:00:00:00:01", "eth5" })},
			want: "net1",
		},
		"virtual, same index": {
			was: veth,
			now: []link.Device{as(veth, "net1", func(d *link.Device) { d.MAC = "06:99:00:00:00:01" })},
		},
		"a vlan on it has its MAC address": {
			was: hard,
			now: []link.Device{hard, with(soft(8, "net1", "vlan"), func(d *link.Device) { d.MAC, d.Lower = hard.MAC, 3 })},
		},
		"hardware with a veth's address": {
			was: veth,
			now: []link.Device{as(hard, "net1", func(d *link.Device) { d.MAC = veth.MAC })},
		},
		"gone": {was: hard, now: []link.Device{lo()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			holdings := []Holding{
				{Pod: "default/p", IfName: "net1", Device: IdentityOf(&tc.was), Busy: tc.busy}, {Pod: "default/q"},
			}
			if tc.second {
				holdings = append(holdings, holdings[0])
			}
			got := (&Inventory{Devices: tc.now, Holdings: holdings}).Returned()
			if tc.want == "" {
				if len(got) > 0 {
					t.Errorf("%+v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Device.Name != tc.want || got[0].Name != tc.was.Name || got[0].Taken != tc.taken ||
				got[0].Holding.Pod != "default/p" {
				t.Errorf("%+v, want %s for %s", got, tc.want, tc.was.Name)
			}
		})
	}
}

// TestList has devices on the node and devices that pods hold.
func TestList(t *testing.T) {
	t.Parallel()
	eth1, eth2 := nic(3, "eth1"), nic(4, "eth2")
	inv := &Inventory{
		Devices: []link.Device{lo(), nic(2, "eth0"), eth1},
		Routes:  []Route{defaultRoute("eth0", "192.0.2.1", 0)},
		Holdings: []Holding{
			{Pod: "default/dead", Device: IdentityOf(&eth2), Gone: true},
			{Pod: "default/has", Device: IdentityOf(&eth2), Attached: true},
			{Pod: "default/failed", Device: IdentityOf(&eth1)},
			{Pod: "default/plain"},
		},
	}
	var got []string
	for _, s := range inv.List() {
		line := s.Device.Name
		for _, r := range s.Reasons {
			line += " " + string(r.Kind)
		}
		if s.Holder != nil {
			line += " " + s.Holder.Pod
		}
		got = append(got, line)
	}
	want := []string{"lo immovable", "eth0 default-route", "eth1", "eth2 held default/has"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
