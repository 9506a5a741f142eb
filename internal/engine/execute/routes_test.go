package execute

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/link"
	"multus/internal/testutil/testnet"
)

func gateways(s ...string) []netip.Addr {
	out := make([]netip.Addr, len(s))
	for i := range s {
		out[i] = netip.MustParseAddr(s[i])
	}
	return out
}

// TestEditRoutes checks the routes of the result after default routes were moved (behaviour D33, D38).
func TestEditRoutes(t *testing.T) {
	t.Parallel()
	all := []string{
		"0.0.0.0/0 10.0.0.1", "10.0.0.0/8 10.0.0.9", "::/0 fd00::1", "fd00::/8 fd00::9", "0.0.0.0/0 -",
		"0.0.0.0/1 10.0.0.1",
	}
	tests := []struct {
		rule   string
		routes plan.Routes
		before []string
		want   []string
	}{
		{"D31 nothing moves", plan.Routes{}, all, all},
		{
			"D33 IPv4 leaves, IPv6 stays",
			plan.Routes{DropIPv4: true},
			all,
			[]string{"10.0.0.0/8 10.0.0.9", "::/0 fd00::1", "fd00::/8 fd00::9", "0.0.0.0/1 10.0.0.1"},
		},
		{
			"D33 D38 IPv6 leaves, IPv4 stays",
			plan.Routes{DropIPv6: true},
			all,
			[]string{"0.0.0.0/0 10.0.0.1", "10.0.0.0/8 10.0.0.9", "fd00::/8 fd00::9", "0.0.0.0/0 -", "0.0.0.0/1 10.0.0.1"},
		},
		{
			"D33 a new gateway replaces the old one",
			plan.Routes{Gateways: gateways("10.0.0.254")},
			all,
			[]string{"10.0.0.0/8 10.0.0.9", "::/0 fd00::1", "fd00::/8 fd00::9", "0.0.0.0/1 10.0.0.1", "0.0.0.0/0 10.0.0.254"},
		},
		{
			"D38 the default route of IPv6 is ::/0",
			plan.Routes{DropIPv4: true, Gateways: gateways("fd00::ff")},
			all,
			[]string{"10.0.0.0/8 10.0.0.9", "fd00::/8 fd00::9", "0.0.0.0/1 10.0.0.1", "::/0 fd00::ff"},
		},
		{
			"D32 both",
			plan.Routes{Gateways: gateways("10.0.0.254", "fd00::ff")},
			nil,
			[]string{"0.0.0.0/0 10.0.0.254", "::/0 fd00::ff"},
		},
		{"D38 none left", plan.Routes{DropIPv4: true, DropIPv6: true}, []string{"0.0.0.0/0 10.0.0.1", "::/0 -"}, nil},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			res := &current.Result{CNIVersion: "1.0.0"}
			for _, s := range tc.before {
				dst, gw, _ := strings.Cut(s, " ")
				_, n, err := net.ParseCIDR(dst)
				if err != nil {
					t.Fatal(err)
				}
				res.Routes = append(res.Routes, &types.Route{Dst: *n, GW: net.ParseIP(gw)})
			}
			before := slices.Clone(res.Routes)
			editRoutes(res, tc.routes)
			var got []string
			for _, r := range res.Routes {
				gw := "-"
				if r.GW != nil {
					gw = r.GW.String()
				}
				got = append(got, r.Dst.String()+" "+gw)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(before) > 0 && before[0] == nil {
				t.Error("the list that was passed in was changed")
			}
		})
	}
}

// bench is a sandbox with the interfaces eth0 and net1, each with addresses of both families and a default route, and
// with plugins that report these interfaces as their result.
type bench struct {
	ns     *testnet.NS
	run    *Runner
	dir    string
	record *ledger.Record
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{ns: testnet.New(t), dir: t.TempDir()}
	host := testnet.New(t)
	for i, name := range []string{"eth0", "net1"} {
		testnet.Veth(t, host, fmt.Sprintf("host%d", i), b.ns, name)
		testnet.Addr(t, b.ns, name, fmt.Sprintf("10.%d.0.2/24", i), fmt.Sprintf("fd0%d::2/64", i))
	}
	ns, err := link.Open(b.ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := ns.SetDefault("eth0", gateways("10.0.0.1", "fd00::1")); err != nil {
		t.Fatal(err)
	}
	script(t, filepath.Join(b.dir, "quiet"),
		`cat >/dev/null; test $CNI_COMMAND = ADD && echo '{"cniVersion":"1.0.0"}'; exit 0`)
	script(t, filepath.Join(b.dir, "made"), `cat >/dev/null; test $CNI_COMMAND = ADD && cat <<END
{"cniVersion":"1.0.0","interfaces":[{"name":"$CNI_IFNAME","sandbox":"$CNI_NETNS"}],"ips":[{"address":"10.0.0.2/24","interface":0}],
"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"},{"dst":"::/0","gw":"fd00::1"},{"dst":"192.0.2.0/24"}]}
END
exit 0`)
	b.run = New(Options{BinDir: b.dir, StateDir: filepath.Join(b.dir, "state"), Log: slog.New(slog.DiscardHandler)})
	b.record = &ledger.Record{ContainerID: "c0ffee", Netns: b.ns.Path}
	return b
}

func (b *bench) attachment(t *testing.T, typ, ifName string, r plan.Routes) *ledger.Attachment {
	t.Helper()
	l, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"n","type":"` + typ + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	return &ledger.Attachment{Name: "ns/n", IfName: ifName, Config: l, Routes: r}
}

// kernel returns the default routes of the sandbox. It reads /proc and does not use the code under test.
func (b *bench) kernel(t *testing.T) []string {
	t.Helper()
	var out []string
	b.ns.Do(t, func() {
		v4, err := os.ReadFile("/proc/thread-self/net/route")
		if err != nil {
			t.Fatal(err)
		}
		v6, err := os.ReadFile("/proc/thread-self/net/ipv6_route")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(v4)) {
			f := strings.Fields(line)
			if raw, err := hex.DecodeString(f[2]); err == nil && len(raw) == 4 && f[1] == "00000000" && f[7] == "00000000" {
				out = append(out, fmt.Sprintf("%s via %d.%d.%d.%d", f[0], raw[3], raw[2], raw[1], raw[0]))
			}
		}
		for line := range strings.Lines(string(v6)) {
			f := strings.Fields(line)
			if raw, err := hex.DecodeString(f[4]); err == nil && f[1] == "00" && strings.Trim(f[0], "0") == "" && f[9] != "lo" {
				out = append(out, fmt.Sprintf("%s via %s", f[9], net.IP(raw)))
			}
		}
	})
	slices.Sort(out)
	return out
}

// cached returns the routes in libcni's cache entry.
func (b *bench) cached(t *testing.T, ifName string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, "state", "results", "n-c0ffee-"+ifName))
	if err != nil {
		t.Fatal(err)
	}
	var entry struct {
		Kind, IfName string
		Config       []byte
		Result       struct {
			CNIVersion string
			Routes     []struct{ Dst, GW string }
		}
	}
	if err := json.Unmarshal(data, &entry); err != nil {
		t.Fatal(err)
	}
	if entry.Kind != "cniCacheV1" || entry.IfName != ifName || len(entry.Config) == 0 ||
		entry.Result.CNIVersion != "1.0.0" {
		t.Errorf("D84: the entry has lost something: %s", data)
	}
	return fmt.Sprint(entry.Result.Routes)
}

// TestMoveRoutes checks D32-D41 in a real namespace: kernel, result and libcni's cache agree afterwards.
func TestMoveRoutes(t *testing.T) {
	t.Parallel()
	eth0 := []string{"eth0 via 10.0.0.1", "eth0 via fd00::1"}
	tests := []struct {
		rule, typ, ifName string
		routes            plan.Routes
		kernel            []string
		inResult          string // routes of the result
		bad               string
	}{
		{
			"D31 nothing moves", "made", "eth0",
			plan.Routes{},
			eth0, "[{0.0.0.0/0 10.0.0.1} {::/0 fd00::1} {192.0.2.0/24 }]",
			"",
		},
		{
			"D33 D34 IPv4 leaves eth0", "made", "eth0",
			plan.Routes{DropIPv4: true},
			[]string{"eth0 via fd00::1"},
			"[{::/0 fd00::1} {192.0.2.0/24 }]", "",
		},
		{
			"D33 IPv6 leaves eth0", "made", "eth0",
			plan.Routes{DropIPv6: true},
			[]string{"eth0 via 10.0.0.1"},
			"[{0.0.0.0/0 10.0.0.1} {192.0.2.0/24 }]", "",
		},
		{
			"D32 D38 a gateway on net1", "made", "net1",
			plan.Routes{Gateways: gateways("10.1.0.254", "fd01::fe")},
			[]string{"net1 via 10.1.0.254", "net1 via fd01::fe"},
			"[{192.0.2.0/24 } {0.0.0.0/0 10.1.0.254} {::/0 fd01::fe}]", "",
		},
		{"B45 no interface and no address", "quiet", "net1", plan.Routes{DropIPv4: true, DropIPv6: true}, eth0, "[]", ""},
		{
			"D37 one gateway that cannot be reached", "made", "net1",
			plan.Routes{Gateways: gateways("172.31.0.1", "fd01::fe")},
			[]string{"eth0 via 10.0.0.1", "net1 via fd01::fe"},
			"", "172.31.0.1",
		},
		{
			"D36 the interface is not there: nothing to drop", "made", "dpdk0",
			plan.Routes{DropIPv4: true, DropIPv6: true},
			eth0, "[{192.0.2.0/24 }]", "",
		},
		{
			"D36 the interface is not there: no gateway", "made", "dpdk0",
			plan.Routes{Gateways: gateways("10.1.0.254")},
			eth0,
			"", "dpdk0",
		},
	}
	known := map[string]string{"D36 the interface is not there: nothing to drop": "ADD fails for an interface that the " +
		"kernel does not have, as those of user-space drivers"}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			a := b.attachment(t, tc.typ, tc.ifName, tc.routes)
			res, begun, err := b.run.Add(t.Context(), b.record, a)
			if why, ok := known[tc.rule]; ok && err != nil {
				t.Error("known again: " + why)
			}
			if !begun {
				t.Error("not begun")
			}
			if diff := cmp.Diff(tc.kernel, b.kernel(t)); diff != "" {
				t.Errorf("kernel (-want +got):\n%s", diff)
			}
			if tc.bad != "" {
				if err == nil || !strings.Contains(err.Error(), tc.bad) {
					t.Errorf("error %v, want %q", err, tc.bad)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := b.cached(t, tc.ifName); got != tc.inResult {
				t.Errorf("cached routes %s, want %s", got, tc.inResult)
			}
			r, err := current.NewResultFromResult(res)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(r.Routes); got != strings.Count(tc.inResult, "{") {
				t.Errorf("the result has %d routes, the cache %s", got, tc.inResult)
			}
			if info, err := os.Stat(filepath.Join(b.dir, "state", "results", "n-c0ffee-"+tc.ifName)); err != nil ||
				info.Mode().Perm() != 0o600 {
				t.Errorf("D38: %v, %v", info.Mode(), err)
			}
		})
	}
}

// TestCheckFree checks D24, M19 and D29: an existing interface is detected before anything is done, and a
// namespace that is gone is reported with code 11.
func TestCheckFree(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	free := func(names ...string) error {
		r := &ledger.Record{Netns: b.ns.Path}
		for _, n := range names {
			r.Attachments = append(r.Attachments, ledger.Attachment{Name: "a", IfName: n})
		}
		return CheckFree(r)
	}
	if err := free("net2", "net3"); err != nil {
		t.Error(err)
	}
	if err := free("net2", "net1"); err == nil || !strings.Contains(err.Error(), "interface name net1 already exists") {
		t.Error(err)
	}
	for _, tc := range []struct {
		netns, ifName string
		want          bool
	}{{b.ns.Path, "net1", true}, {b.ns.Path, "net2", false}, {filepath.Join(t.TempDir(), "gone"), "eth0", false}} {
		if got, err := HasInterface(tc.netns, tc.ifName); err != nil || got != tc.want {
			t.Errorf("HasInterface(%s, %s) = %t, %v", tc.netns, tc.ifName, got, err)
		}
	}
	if err := CheckNamespace(b.ns.Path); err != nil {
		t.Errorf("Look: %v", err)
	}
	gone := filepath.Join(t.TempDir(), "gone")
	if err := CheckFree(&ledger.Record{Netns: gone}); err == nil ||
		!strings.Contains(err.Error(), "no net namespace "+gone+" found") {
		t.Error(err)
	}
	for _, netns := range []string{gone, ""} {
		if err := CheckNamespace(netns); !errors.Is(err, link.ErrNoNamespace) {
			t.Errorf("a namespace that is gone: %v", err)
		}
	}
}

// TestCheckNamespaceFails checks that a namespace that cannot be inspected is not reported as gone.
func TestCheckNamespaceFails(t *testing.T) {
	t.Parallel()
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	if err := CheckNamespace(loop); err == nil || errors.Is(err, link.ErrNoNamespace) {
		t.Errorf("Look: %v", err)
	}
	if exists, err := HasInterface(loop, "eth0"); err == nil {
		t.Errorf("HasInterface: %t, and no error", exists)
	}
}
