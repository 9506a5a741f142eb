package plan

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/request"
)

// network is one attachment of a table.
type network struct {
	config string
	device string
	routes bool
}

// TestStages checks which networks of a pod may be attached at the same time (behaviour D23; NPWG v1.3 §7.3). The
// interface names are eth0, net1, net2 and so on.
func TestStages(t *testing.T) {
	t.Parallel()
	plain := func(name string) network {
		return network{config: fmt.Sprintf(
			`{"name":%q,"type":"macvlan","master":"ens5","ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24"}]],"routes":[{"dst":"10.9.0.0/16"}]}}`, name)}
	}
	conf := func(c string) network { return network{config: c} }
	vf := func(name, device string) network {
		return network{config: fmt.Sprintf(`{"name":%q,"type":"sriov"}`, name), device: device}
	}
	tests := []struct {
		what     string
		networks []network // after the cluster network
		want     []int     // with the cluster network
	}{
		{"one network", []network{plain("a")}, []int{0, 1}},
		{"nothing in common", []network{plain("a"), plain("b"), plain("c")}, []int{0, 1, 1, 1}},
		{"master in the pod", []network{
			plain("a"), conf(`{"name":"b","type":"vlan","master":"net1","linkInContainer":true}`),
			plain("c"),
		}, []int{0, 1, 2, 1}},
		{"a chain of masters", []network{
			plain("a"), conf(`{"name":"b","type":"vlan","master":"net1"}`),
			conf(`{"name":"c","type":"macvlan","master":"net2"}`),
		}, []int{0, 1, 2, 3}},
		{"links of a bond", []network{
			plain("a"), plain("b"),
			conf(`{"name":"c","type":"bond","links":[{"name":"net1"},{"name":"net2"}]}`),
		}, []int{0, 1, 1, 2}},
		{
			"the later one's name in the earlier one",
			[]network{conf(`{"name":"a","type":"sbr","beside":"net2"}`), plain("b")},
			[]int{0, 1, 2},
		},
		{
			"a bridge of the node, and one on it",
			[]network{
				conf(`{"name":"a","type":"bridge","bridge":"br1"}`), conf(`{"name":"b","type":"macvlan","master":"br1"}`),
				plain("c"),
			},
			[]int{0, 1, 2, 1},
		},
		{
			"the bridge that has the usual name",
			[]network{conf(`{"name":"a","type":"macvlan","master":"cni0"}`), conf(`{"name":"b","plugins":[{"type":"bridge"}]}`)},
			[]int{0, 1, 2},
		},
		{"different bridges", []network{
			conf(`{"name":"a","type":"bridge","bridge":"br1"}`),
			conf(`{"name":"b","type":"bridge","bridge":"br2"}`),
		}, []int{0, 1, 1}},
		{"in a chained plugin", []network{
			plain("a"),
			conf(`{"name":"b","plugins":[{"type":"bridge"},{"type":"vrf","table":["net1"]}]}`),
		}, []int{0, 1, 2}},
		{
			"the cluster network's interface",
			[]network{conf(`{"name":"a","type":"macvlan","master":"eth0"}`), plain("b")},
			[]int{0, 1, 1},
		},
		{"two default routes", []network{
			conf(`{"name":"a","type":"bridge","isDefaultGateway":true}`), plain("b"),
			conf(`{"name":"c","type":"bridge","ipam":{"type":"host-local","routes":[{"dst":"0.0.0.0/0"}]}}`),
			conf(`{"name":"d","type":"bridge","ipam":{"type":"static","routes":[{"dst":"::/0"}]}}`),
		}, []int{0, 1, 1, 2, 3}},
		{
			"no default gateway, no default route",
			[]network{
				conf(`{"name":"a","type":"bridge","isDefaultGateway":false}`),
				conf(`{"name":"b","type":"bridge","isDefaultGateway":true}`),
			},
			[]int{0, 1, 1},
		},
		{"DHCP may add a default route", []network{
			conf(`{"name":"a","type":"macvlan","ipam":{"type":"dhcp"}}`),
			conf(`{"name":"b","type":"macvlan","ipam":{"type":"dhcp"}}`),
		}, []int{0, 1, 2}},
		{"requested by the pod", []network{
			{config: `{"name":"a","type":"macvlan"}`, routes: true},
			{config: `{"name":"b","type":"macvlan"}`, routes: true},
			plain("c"),
		}, []int{0, 1, 2, 1}},
		{"the same network twice", []network{plain("a"), plain("a")}, []int{0, 1, 2}},
		{"one pool of addresses", []network{
			conf(`{"name":"a","type":"macvlan","ipam":{"type":"whereabouts"}}`),
			conf(`{"name":"b","type":"macvlan","ipam":{"type":"whereabouts"}}`),
			conf(`{"name":"c","type":"macvlan","ipam":{"type":"static"}}`),
		}, []int{0, 1, 2, 1}},
		{"source-based routing takes the next free table", []network{
			conf(`{"name":"a","plugins":[{"type":"macvlan"},{"type":"sbr"}]}`),
			conf(`{"name":"b","plugins":[{"type":"macvlan"},{"type":"sbr"}]}`), plain("c"),
		}, []int{0, 1, 2, 1}},
		{"vrf, too", []network{
			conf(`{"name":"a","plugins":[{"type":"bridge"},{"type":"vrf","vrfname":"red"}]}`),
			conf(`{"name":"b","plugins":[{"type":"bridge"},{"type":"vrf","vrfname":"red"}]}`),
		}, []int{0, 1, 2}},
		{
			"in the key of a sysctl",
			[]network{
				plain("a"),
				conf(`{"name":"b","plugins":[{"type":"macvlan"},{"type":"tuning","sysctl":{"net.ipv4.conf.net1.rp_filter":"0"}}]}`),
			},
			[]int{0, 1, 2},
		},
		{
			"an unknown IPAM plugin may set a default route",
			[]network{
				conf(`{"name":"a","type":"macvlan","ipam":{"type":"strange"}}`),
				conf(`{"name":"b","type":"bridge","isDefaultGateway":true}`),
			},
			[]int{0, 1, 2},
		},
		{
			"one physical function",
			[]network{vf("a", "0000:3b:02.0"), vf("b", "0000:3b:02.1"), vf("c", "0000:5e:02.0")},
			[]int{0, 1, 2, 1},
		},
		{
			"a device in the configuration",
			[]network{
				vf("a", "0000:3b:02.0"), conf(`{"name":"b","type":"sriov","deviceID":"0000:3b:02.1"}`),
				conf(`{"name":"c","type":"host-device","pciBusID":"0000:3b:02.2"}`),
			},
			[]int{0, 1, 2, 3},
		},
		{
			"the physical function is not known",
			[]network{vf("a", "0000:3b:02.0"), vf("b", "strange"), vf("c", "0000:5e:02.0")},
			[]int{0, 1, 2, 3},
		},
	}
	for _, tc := range tests {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			p := planned(t, 4, tc.networks)
			var got []int
			for i := range p.Attachments {
				got = append(got, stageNumbers(p)[i])
			}
			if !slices.Equal(got, tc.want) || p.Concurrency != 4 {
				t.Errorf("stages %v, %d at a time, want %v", got, p.Concurrency, tc.want)
			}
			var order []int
			for n, stage := range Stages(stageNumbers(p)) {
				if len(stage) == 0 {
					t.Errorf("stage %d is empty", n)
				}
				order = append(order, stage...)
			}
			if len(order) != len(p.Attachments) {
				t.Errorf("order %v", order)
			}
		})
	}
}

// TestSerial checks that a plan has no stages without the key attachConcurrency, or if its value is 1.
func TestSerial(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{-1, 0, 1} {
		p := planned(t, concurrency, []network{{config: `{"name":"a","type":"x"}`}, {config: `{"name":"b","type":"x"}`}})
		if p.Concurrency != 0 || stageNumbers(p)[2] != 2 || len(Stages(stageNumbers(p))) != 3 {
			t.Errorf("%d: %+v, %v", concurrency, p, Stages(stageNumbers(p)))
		}
	}
}

func planned(t *testing.T, concurrency int, networks []network) *Plan {
	t.Helper()
	p := &planning{
		Resolver: &Resolver{Log: slog.New(slog.DiscardHandler), PhysicalFunction: func(device string) string {
			if len(device) != len("0000:3b:02.0") {
				return ""
			}
			return device[:7]
		}},
		req: &request.Request{Command: request.Add, IfName: "eth0"}, conf: &config.Plugin{AttachConcurrency: concurrency},
	}
	for _, n := range append([]network{{config: `{"name":"cluster","type":"bridge","isDefaultGateway":true}`}},
		networks...) {
		l, err := cniconf.Parse([]byte(n.config))
		if err != nil {
			t.Fatal(err)
		}
		a := Attachment{Name: l.Name(), Config: l, Device: n.device}
		a.Routes.DropIPv4 = n.routes
		p.out = append(p.out, a)
	}
	if err := p.nameInterfaces(); err != nil {
		t.Fatal(err)
	}
	out, err := p.finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func stageNumbers(p *Plan) []int {
	fields := make([]int, len(p.Attachments))
	for i := range p.Attachments {
		fields[i] = p.Attachments[i].Stage
	}
	return StageNumbers(fields)
}
