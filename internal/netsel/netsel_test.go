package netsel

import (
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func addrs(s ...string) *[]netip.Addr {
	out := make([]netip.Addr, len(s))
	for i := range s {
		out[i] = netip.MustParseAddr(s[i])
	}
	return &out
}

var same = cmp.Options{cmpopts.EquateComparable(netip.Addr{})}

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, value string
		want        []Element
	}{
		{"C3 empty", "", nil},
		{"C10 comma form", "a", []Element{{Name: "a"}}},
		{"C11 all parts", "ns/a@eth1", []Element{{Namespace: "ns", Name: "a", Interface: "eth1"}}},
		{"C11 order", "b,a,b", []Element{{Name: "b"}, {Name: "a"}, {Name: "b"}}},
		{
			"C11 white space", " ns / a @ eth1 ,\n\tb\t",
			[]Element{{Namespace: "ns", Name: "a", Interface: "eth1"}, {Name: "b"}},
		},
		{
			"C13 one character, digits, hyphens, no length limit", "1,0-a--9," + strings.Repeat("a", 300),
			[]Element{{Name: "1"}, {Name: "0-a--9"}, {Name: strings.Repeat("a", 300)}},
		},
		{
			"C14 fifteen characters, odd ones", "a@abcdefghijklmno,a@a.b_C:1",
			[]Element{{Name: "a", Interface: "abcdefghijklmno"}, {Name: "a", Interface: "a.b_C:1"}},
		},
		{"C15 empty items", "a,", []Element{{Name: "a"}, {}}},
		{"C15 only a comma", ",", []Element{{}, {}}},
		{"C15 no namespace, no interface", "/a,a@", []Element{{Name: "a"}, {Name: "a"}}},
		{"C15 only separators", "/,@,ns/", []Element{{}, {}, {Namespace: "ns"}}},
		{"C18 empty list", "[]", []Element{}},
		{"C18 white space around it", " \n[ ]\t", []Element{}},
		{"C10 null is a name of the comma form", "null", []Element{{Name: "null"}}},
		{"C20 C21 any name", `[{"name":"A.b/c","namespace":"N S"}]`, []Element{{Name: "A.b/c", Namespace: "N S"}}},
		{"C20 no name", `[{}]`, []Element{{}}},
		{
			"C20 one key in another case", `[{"NAME":"a","Interface":"b"},{"name":"c","name":"d"}]`,
			[]Element{{Name: "a", Interface: "b"}, {Name: "d"}},
		},
		{
			"C22", `[{"ips":["10.0.0.1","10.0.0.1/24","fd00::1","fd00::1/64","::ffff:1.2.3.4"]}]`,
			[]Element{{IPs: []string{"10.0.0.1", "10.0.0.1/24", "fd00::1", "fd00::1/64", "::ffff:1.2.3.4"}}},
		},
		{"C22 none", `[{"ips":[]}]`, []Element{{IPs: []string{}}}},
		{
			"C23", `[{"mac":"02:00:00:00:00:01"},{"mac":"02-00-00-00-00-01"},{"mac":"0200.0000.0001"},{"mac":"02:00:00:00:00:00:00:01"},{"mac":""}]`,
			[]Element{
				{MAC: "02:00:00:00:00:01"},
				{MAC: "02-00-00-00-00-01"},
				{MAC: "0200.0000.0001"},
				{MAC: "02:00:00:00:00:00:00:01"},
				{},
			},
		},
		{"C24 infiniband-guid", `[{"infiniband-guid":"24:8a:07:03:00:8d:ae:2e"}]`, []Element{{InfinibandGUID: "24:8a:07:03:00:8d:ae:2e"}}},
		{
			"C25 not checked here", `[{"interface":"much too long for any kernel"}]`,
			[]Element{{Interface: "much too long for any kernel"}},
		},
		{
			"C26 the older name", `[{"interfaceRequest":"old"},{"interfaceRequest":"old","interface":"new"}]`,
			[]Element{{Interface: "old"}, {Interface: "new"}},
		},
		{
			"C27 N5 an impossible port is left to the plugin to refuse",
			`[{"portMappings":[{"hostPort":1,"containerPort":2,"protocol":"udp","hostIP":"127.0.0.1"},{"hostPort":-1}]}]`,
			[]Element{{PortMappings: []PortMapping{{1, 2, "udp", "127.0.0.1"}, {HostPort: -1}}}},
		},
		{
			"C28", `[{"bandwidth":{"ingressRate":1,"ingressBurst":2,"egressRate":3,"egressBurst":4}},{"bandwidth":null}]`,
			[]Element{{Bandwidth: &Bandwidth{1, 2, 3, 4}}, {}},
		},
		{"C29 deviceID", `[{"deviceID":"0000:00:01.0"}]`, []Element{{DeviceID: "0000:00:01.0"}}},
		{
			"C30 numbers are not changed", `[{"cni-args":{"a":9007199254740993,"b":{"c":[1e3]}}},{"cni-args":{}}]`,
			[]Element{{CNIArgs: map[string]json.RawMessage{
				"a": json.RawMessage("9007199254740993"),
				"b": json.RawMessage(`{"c":[1e3]}`),
			}}, {CNIArgs: map[string]json.RawMessage{}}},
		},
		{
			"C31", `[{"default-route":["10.0.0.1","fd00::1"]},{"default-route":[]},{"default-route":null}]`,
			[]Element{{DefaultRoute: addrs("10.0.0.1", "fd00::1")}, {DefaultRoute: addrs()}, {}},
		},
		{
			"C31 an IPv4 address written as IPv6", `[{"default-route":["::ffff:10.0.0.1"]}]`,
			[]Element{{DefaultRoute: addrs("10.0.0.1")}},
		},
		{"C32 ipam-claim-reference", `[{"ipam-claim-reference":"c"}]`, []Element{{IPAMClaim: "c"}}},
		{
			"C32", `[{"name":"a","ips":["10.0.0.1"],"ipam-claim-reference":"c"}]`,
			[]Element{{Name: "a", IPs: []string{"10.0.0.1"}, IPAMClaim: "c"}},
		},
		{"C33 and unknown keys", `[{"name":"a","ipRequest":"x","macRequest":5,"unknown":{}}]`, []Element{{Name: "a"}}},
		{"A2 without regard to case, the last wins", `[{"NAME":"a","NAME":"b"}]`, []Element{{Name: "b"}}},
		{"C36 repeated", `[{"name":"a"},{"name":"a"}]`, []Element{{Name: "a"}, {Name: "a"}}},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(tc.value)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, same); diff != "" {
				t.Errorf("Parse(%q) (-want +got):\n%s", tc.value, diff)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	tests := []struct{ rule, value, want string }{
		{"C10 object", `{"name":"a"}`, "want a JSON array of objects: "},
		{"C10 string", `"a"`, "want a JSON array of objects: "},
		{"C10 JSON in the comma form", `a,"b"`, "want a JSON array of objects: "},
		{"C10 cut off", `[{"name":"a"}`, "want a JSON array of objects: "},
		{"C10 two lists", `[][]`, "nothing after it"},
		{"C10 one bracket too many", `[{"name":"a"}]]`, "nothing after it"},
		{"C10 one brace too many", `[{"name":"a"}]}`, "nothing after it"},
		{"C34 list of strings", `["a"]`, "want a JSON array of objects: "},
		{"C34 number for a name", `[{"name":5}]`, "want a JSON array of objects: "},
		{"C34 string for a list", `[{"ips":"10.0.0.1"}]`, "want a JSON array of objects: "},
		{"C12 two slashes", "b, a/b/c ", `element 2 ("a/b/c"): more than one "/"`},
		{"C12 two ats", "a@b@c", `element 1 ("a@b@c"): more than one "@"`},
		{"C12 two ats after the slash", "n/a@b@c", `more than one "@"`},
		{"C13 upper case", "Abc", `"Abc" must consist of lower case alphanumeric characters`},
		{"C13 dot", "a.b", `"a.b" must consist`},
		{"C13 hyphen first", "-a", `"-a" must consist`},
		{"C13 hyphen last", "a-", `"a-" must consist`},
		{"C13 white space inside", "a b", `"a b" must consist`},
		{"C13 not ASCII", "ä", `"ä" must consist`},
		{"C13 namespace", "N/a", `"N" must consist`},
		{"C13 at in the namespace", "a@b/c", `"a@b" must consist`},
		{"C14 sixteen characters", "a@abcdefghijklmnop", `interface name "abcdefghijklmnop" must have at most 15 characters`},
		{"C14 white space", "a@b c", `interface name "b c" must have`},
		{"C18 null", `[{"name":"a"},null]`, "element 2 is null"},
		{
			"C20 one key in two cases", `[{"name":"a"},{"name":"nope","NAME":"n1"}]`,
			`element 2 ("n1"): the keys "name" and "NAME" differ in nothing but their case`,
		},
		{
			"C28 in an object of the element", `[{"name":"a","bandwidth":{"ingressRate":1,"IngressRate":2}}]`,
			`the keys "ingressRate" and "IngressRate" differ`,
		},
		{
			"C30 in cni-args", `[{"name":"a","cni-args":{"vlan":1,"VLAN":2}}]`,
			`the keys "vlan" and "VLAN" differ in nothing but their case`,
		},
		{
			"C22 address", `[{"name":"a"},{"name":"b","ips":["10.0.0.1","10.0.0.256"]}]`,
			`element 2 ("b"): ips: "10.0.0.256" is not an IP address`,
		},
		{"C22 prefix", `[{"ips":["10.0.0.1/33"]}]`, `ips: "10.0.0.1/33" is not an address with a prefix`},
		{"C22 empty", `[{"ips":[""]}]`, `ips: "" is not an IP address`},
		{"C23 invalid mac", `[{"mac":"02:00"}]`, "mac: "},
		{"C24 invalid infiniband-guid", `[{"infiniband-guid":"x"}]`, "infiniband-guid: "},
		{
			"C28 number as a string", `[{"bandwidth":{"ingressRate":"1"}}]`,
			`want a JSON array of objects: key "bandwidth.ingressRate" must be a whole number, not a string`,
		},
		{
			"C30 not an object", `[{"cni-args":[]}]`,
			`want a JSON array of objects: key "cni-args" must be an object, not an array`,
		},
		{"C20 a string for a list", `[{"ips":"10.0.0.1"}]`, `key "ips" must be an array, not a string`},
		{"C20 a number for a string", `[{"name":5}]`, `key "name" must be a string, not a number`},
		{"C20 a string for an element", `["a"]`, `an element must be an object, not a string`},
		{"C20 a fraction", `[{"portMappings":[{"hostPort":1.5}]}]`, `must be a whole number, not a number`},
		{"C31 not an address", `[{"default-route":["x"]}]`, `default-route: invalid IP address: "x"`},
		{"C31 empty", `[{"default-route":[""]}]`, `default-route: invalid IP address: ""`},
		{"C31 zone", `[{"default-route":["fe80::1%eth0"]}]`, `default-route: invalid IP address: "fe80::1%eth0"`},
		{"C31 prefix", `[{"default-route":["10.0.0.1/24"]}]`, `default-route: invalid IP address: "10.0.0.1/24"`},
	}
	known := map[string]string{
		"C10 one bracket too many": "Decoder.More returns false before ] and }",
		"C10 one brace too many":   "Decoder.More returns false before ] and }",
		"C31 zone":                 "netip.ParseAddr takes zones, and the kernel is given the address without",
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(tc.value)
			if why, ok := known[tc.rule]; ok && err == nil {
				t.Error("the known difference is gone: " + why)
			}
			if err == nil {
				t.Fatalf("Parse(%q) = %+v, want an error", tc.value, got)
			}
			if got != nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse(%q) = %v, %v; want nothing and %q", tc.value, got, err, tc.want)
			}
		})
	}
}

// FuzzParse checks that an accepted annotation complies with C10-C31: known forms only, validated values, and an
// element that can be recorded in a plan.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", ",", "a", "ns/a@eth0", " a , b@x ", "a/b/c", "a@b@c", "/a@", "[]", "[null]", "[[]]", `[{"name":"a"}]`, `"x"`, `{`,
		"{}", "[{}]]",
		`[{"name":"a","ips":["10.0.0.1/24"],"mac":"02:00:00:00:00:01","default-route":["fd00::1",""],"cni-args":{"a":1e999},"bandwidth":{}}]`,
		`[{"name":"nad1","ips":["10.0.0.5/24"],"interface":"foo0","cni-args":{"k1":"v1"},"deviceID":"0000:00:01.0","infiniband-guid":"24:8a:07:03:00:8d:ae:2e","portMappings":[{"hostPort":1}]}]`,
		`[{"default-route":["fe80::1%eth0"]}]`, `[{"interfaceRequest":"a"}]`, "\xff", "a\x00b", `[{"name":"\ud800"}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := Parse(value)
		if err != nil {
			if got != nil || err.Error() == "" {
				t.Errorf("%v and %v", got, err)
			}
			return
		}
		short := !strings.ContainsAny(value, `[{"`)
		if short && value != "" && len(got) != strings.Count(value, ",")+1 {
			t.Errorf("%d elements", len(got))
		}
		for _, e := range got {
			if short && (len(e.Interface) > MaxInterfaceName || strings.Contains(e.Name+e.Namespace, "/")) {
				t.Errorf("%+v", e)
			}
			for _, ip := range e.IPs {
				if _, _, err := net.ParseCIDR(ip); err != nil && net.ParseIP(ip) == nil {
					t.Errorf("ips: %q", ip)
				}
			}
			if e.DefaultRoute != nil {
				for _, gw := range *e.DefaultRoute {
					if !gw.IsValid() || gw.Is4In6() {
						t.Errorf("gateway %v", gw)
					}
				}
			}
			b, err := json.Marshal(e)
			if err != nil {
				t.Fatalf("encode %+v: %v", e, err)
			}
			again := Element{}
			if err := json.Unmarshal(b, &again); err != nil {
				t.Fatalf("decode %s: %v", b, err)
			}
		}
	})
}
