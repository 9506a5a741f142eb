package testnet_test

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multus/internal/testutil/leak"
	"multus/internal/testutil/testnet"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestNew(t *testing.T) {
	testnet.RequireRoot(t)
	before := ownNamespace(t)
	ns := testnet.New(t)
	var stat unix.Statfs_t
	if err := unix.Statfs(ns.Path, &stat); err != nil || stat.Type != unix.NSFS_MAGIC {
		t.Errorf("filesystem type %#x, error %v; want a namespace", stat.Type, err)
	}
	var inside string
	ns.Do(t, func() {
		inside = ownNamespace(t)
		links, err := net.Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		if len(links) == 0 || links[0].Name != "lo" || links[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces %v, want lo, up", links)
		}
	})
	if inside == before {
		t.Error("Do did not enter the namespace")
	}
	if after := ownNamespace(t); after != before {
		t.Errorf("in %s after Do, was in %s", after, before)
	}
	if err := testnet.Ping(ns, "127.0.0.1"); err != nil {
		t.Error(err)
	}
	if err := testnet.Ping(ns, "::1"); err != nil {
		t.Error(err)
	}
}

// TestCleanup checks that a finished test leaves nothing. leak.Main does the same for the whole package.
func TestCleanup(t *testing.T) {
	testnet.RequireRoot(t)
	var path string
	before := ownNamespace(t)
	t.Run("ended inside", func(t *testing.T) {
		ns := testnet.New(t)
		path = ns.Path
		ns.Do(t, func() { t.SkipNow() })
		t.Error("Do went on")
	})
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("namespace file after the test: %v", err)
	}
	if after := ownNamespace(t); after != before {
		t.Errorf("in %s after the test, was in %s", after, before)
	}
}

func TestDelete(t *testing.T) {
	ns := testnet.New(t)
	for _, step := range []string{"there", "gone"} {
		if err := testnet.Delete(ns.Path); err != nil {
			t.Errorf("namespace is %s: %v", step, err)
		}
	}
	if _, err := os.Lstat(ns.Path); !os.IsNotExist(err) {
		t.Errorf("after Delete: %v", err)
	}
	if err := testnet.Ping(ns, "127.0.0.1"); err == nil {
		t.Error("pinged from a namespace that is gone")
	}
}

func TestDeleteFile(t *testing.T) {
	testnet.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := testnet.Delete(path); err != nil {
		t.Error(err)
	}
}

func TestPing(t *testing.T) {
	a, b := testnet.New(t), testnet.New(t)
	testnet.Veth(t, a, "eth0", b, "eth9")
	testnet.Addr(t, a, "eth0", "192.0.2.1/24", "2001:db8::1/64", "fe80::a/64")
	testnet.Addr(t, b, "eth9", "192.0.2.2/24", "2001:db8::2/64", "fe80::b/64")
	deaf := testnet.New(t)
	deaf.Do(t, func() {
		for _, sysctl := range []string{"net/ipv4/icmp_echo_ignore_all", "net/ipv6/icmp/echo_ignore_all"} {
			if err := os.WriteFile("/proc/sys/"+sysctl, []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, tt := range []struct {
		name string
		from *testnet.NS
		addr string
		want string // contained in the error, or "" if a reply is expected
	}{
		{"IPv4", a, "192.0.2.2", ""},
		{"IPv4 back", b, "192.0.2.1", ""},
		{"IPv4 itself", a, "192.0.2.1", ""},
		{"IPv4-mapped", a, "::ffff:192.0.2.2", ""},
		{"IPv6", a, "2001:db8::2", ""},
		{"IPv6 back", b, "2001:db8::1", ""},
		{"IPv6 itself", a, "2001:db8::1", ""},
		{"IPv6 link-local", a, "fe80::b%eth0", ""},
		{"IPv6 link-local, no such interface", a, "fe80::b%eth9", `find interface "eth9"`},
		{"deaf", deaf, "127.0.0.1", "no answer"}, // a raw socket receives its own requests there
		{"deaf IPv6", deaf, "::1", "no answer"},
		{"no such address", a, "192.0.2.3", "ping 192.0.2.3: no answer within"},
		{"no route", a, "198.51.100.1", "network is unreachable"},
		{"IPv6 no route", a, "2001:db8:1::1", "network is unreachable"},
		{"no address", a, "x", `"x"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // the cases without a reply take as long as pingLimit
			err := testnet.Ping(tt.from, tt.addr)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestBridge(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	testnet.Bridge(t, host, "br0")
	testnet.Veth(t, host, "port", pod, "eth0")
	host.Do(t, func() {
		port, err := netlink.LinkByName("port")
		if err != nil {
			t.Fatal(err)
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			t.Fatal(err)
		}
		if bridge.Type() != "bridge" || bridge.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("br0 is a %s with flags %v", bridge.Type(), bridge.Attrs().Flags)
		}
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			t.Fatal(err)
		}
	})
	testnet.Addr(t, host, "br0", "192.0.2.1/24", "2001:db8::1/64")
	testnet.Addr(t, pod, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		if err := testnet.Ping(pod, addr); err != nil {
			t.Error(err)
		}
	}
}

func TestVethInOneNamespace(t *testing.T) {
	ns := testnet.New(t)
	testnet.Veth(t, ns, "a", ns, "b")
	ns.Do(t, func() {
		for _, name := range []string{"a", "b"} {
			if _, err := net.InterfaceByName(name); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestInterfaces(t *testing.T) {
	ns := testnet.New(t)
	before := testnet.Interfaces(t, ns) // a kernel may create tunnels in each new namespace
	testnet.Veth(t, ns, "veth-b", ns, "veth-a")
	testnet.Bridge(t, ns, "br0")
	want := slices.Sorted(slices.Values(append(before, "br0", "veth-a", "veth-b")))
	if got := testnet.Interfaces(t, ns); !slices.Equal(got, want) {
		t.Errorf("interfaces %q, want %q", got, want)
	}
	if slices.Contains(before, "lo") {
		t.Errorf("interfaces %q with lo", before)
	}
}

func TestRequireKernel(t *testing.T) {
	testnet.RequireRoot(t)
	for _, kind := range []string{"veth", "bridge"} { // testnet itself needs these
		t.Run(kind, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Skipped() {
					t.Errorf("kernel without %s", kind)
				}
			})
			testnet.RequireKernel(t, kind)
		})
	}
	for _, kind := range []string{"macvlan", "vlan", "ipvlan", "vxlan", "tun", "tap", "dummy"} { // may skip
		t.Run(kind, func(t *testing.T) { testnet.RequireKernel(t, kind) })
	}
	t.Run("unknown", func(t *testing.T) {
		t.Cleanup(func() {
			if !t.Skipped() {
				t.Error("not skipped")
			}
		})
		testnet.RequireKernel(t, "nosuchkind")
	})
}

// ownNamespace returns the name of the calling thread's namespace.
func ownNamespace(t *testing.T) string {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}
