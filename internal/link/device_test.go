package link_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"multus/internal/link"
	"multus/internal/testutil/testnet"
)

// devices returns the devices of a namespace by name.
func devices(t *testing.T, ns *link.Namespace) map[string]link.Device {
	t.Helper()
	list, err := ns.Devices()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]link.Device{}
	for _, d := range list {
		out[d.Name] = d
	}
	return out
}

// TestDevices checks what is reported for each kind of device: its master, the interface below it, and its other end.
func TestDevices(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"bridge", "macvlan", "vxlan"} {
		testnet.RequireKernel(t, kind)
	}
	node, pod := testnet.New(t), testnet.New(t)
	testnet.Veth(t, node, "cable", pod, "eth0")
	testnet.Veth(t, node, "eth1", node, "peer1")
	testnet.Bridge(t, node, "br0")
	testnet.On(t, node, "eth1", "mac0", "macvlan")
	testnet.On(t, node, "eth1", "vx0", "vxlan")
	testnet.Port(t, node, "peer1", "br0")
	node.Do(t, func() {
		peer, err := netlink.LinkByName("peer1")
		if err == nil {
			err = errors.Join(netlink.LinkSetAlias(peer, "was peer"), netlink.LinkAddAltName(peer, "another-name-of-peer1"))
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	ns := open(t, node)
	got := devices(t, ns)
	for name, want := range map[string]struct {
		typ, master, lower string
		peer               bool
	}{
		"lo":    {typ: "device"},
		"cable": {typ: "veth", peer: true},
		"eth1":  {typ: "veth"},
		"peer1": {typ: "veth", master: "br0"},
		"br0":   {typ: "bridge"},
		"mac0":  {typ: "macvlan", lower: "eth1"},
		"vx0":   {typ: "vxlan", lower: "eth1"},
	} {
		d := got[name]
		if d.Type != want.typ || d.Master != got[want.master].Index || d.Lower != got[want.lower].Index ||
			(d.Peer >= 0) != want.peer || d.Loopback != (name == "lo") {
			t.Errorf("%s: %+v, want %+v", name, d, want)
		}
		if d.Permanent != "" || d.Bus != "" {
			t.Errorf("%s is virtual, and has the permanent address %q and the bus %q", name, d.Permanent, d.Bus)
		}
	}
	if d := got["peer1"]; d.Alias != "was peer" || !slices.Equal(d.AltNames, []string{"another-name-of-peer1"}) ||
		!d.Carrier {
		t.Errorf("%+v", d)
	}
	id, err := ns.PeerOf(pod.Path)
	if err != nil || id != got["cable"].Peer {
		t.Errorf("the pod's namespace is %d (%v), that of the cable's other end %d", id, err, got["cable"].Peer)
	}
	if id, err := ns.PeerOf(testnet.New(t).Path); err != nil || id != -1 {
		t.Errorf("a namespace without a connection is %d (%v)", id, err)
	}
	if _, err := ns.PeerOf(filepath.Join(t.TempDir(), "gone")); !errors.Is(err, link.ErrNoNamespace) {
		t.Error(err)
	}
}

// TestDevicesHardware compares with /sys for this machine's own devices, which are only read.
func TestDevicesHardware(t *testing.T) {
	t.Parallel()
	entries, err := filepath.Glob("/sys/class/net/*/device")
	if err != nil {
		t.Fatal(err)
	}
	got := devices(t, open(t, &testnet.NS{Path: link.NodeNamespace}))
	seen := 0
	for _, entry := range entries {
		d, ok := got[filepath.Base(filepath.Dir(entry))]
		path, err := filepath.EvalSymlinks(entry)
		if err != nil || !ok || d.Type != "device" {
			continue // /sys shows another namespace
		}
		seen++
		if d.Bus == "" || !slices.Contains(strings.Split(path, "/"), d.Bus) {
			t.Errorf("%s is on bus %q, and %s in sysfs", d.Name, d.Bus, path)
		}
		if strings.Contains(path, "/pci") && !strings.Contains(d.Bus, ":") {
			t.Errorf("%s is on bus %q, and not at a PCI address", d.Name, d.Bus)
		}
		t.Logf("%s: bus %s, permanent address %q", d.Name, d.Bus, d.Permanent)
	}
	if seen == 0 {
		t.Skip("this machine shows no network hardware")
	}
}

// TestRename checks that a device is renamed, up or down, that its alias is cleared, and that nothing else changes.
func TestRename(t *testing.T) {
	t.Parallel()
	node, other := testnet.New(t), testnet.New(t)
	testnet.Veth(t, node, "net1", other, "eth1")
	testnet.Veth(t, node, "net2", other, "eth2")
	node.Do(t, func() {
		l, err := netlink.LinkByName("net1")
		if err == nil {
			err = errors.Join(netlink.LinkSetAlias(l, "eth1"), netlink.LinkSetUp(l))
		}
		if err == nil {
			if l, err = netlink.LinkByName("net2"); err == nil {
				err = netlink.LinkSetDown(l)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	ns := open(t, node)
	before := devices(t, ns)
	one, two := before["net1"].Index, before["net2"].Index
	for _, tc := range []struct {
		name     string
		index    int
		from, to string
		fails    bool
	}{
		{"up, with an alias", one, "net1", "eth1", false},
		{"down", two, "net2", "eth2", false},
		{"renamed since", one, "net1", "eth9", true},
		{"another has the old name", one, "eth2", "eth9", true},
		{"the name is taken", two, "eth2", "eth1", true},
	} {
		if err := ns.Rename(tc.index, tc.from, tc.to); (err != nil) != tc.fails {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	after := devices(t, ns)
	if d := after["eth1"]; d.Index != one || !d.Up || d.Alias != "" {
		t.Errorf("%+v", d)
	}
	if d := after["eth2"]; d.Index != two || d.Up || len(after) != 3 {
		t.Errorf("%+v of %v", d, after)
	}
	if err := ns.Rename(one, "net1", "eth9"); !errors.Is(err, link.ErrNoInterface) {
		t.Errorf("%v", err)
	}
}
