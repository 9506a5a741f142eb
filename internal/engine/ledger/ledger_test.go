package ledger

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"multus/internal/cniconf"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
	wirev1 "multus/wire/v1"
)

func store(tb testing.TB) *Store {
	tb.Helper()
	return &Store{Dir: filepath.Join(tb.TempDir(), "multus"), BinDir: "/opt/cni/bin", Log: slog.New(slog.DiscardHandler)}
}

func config(tb testing.TB, s string) *cniconf.List {
	tb.Helper()
	l, err := cniconf.Parse([]byte(s))
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func write(tb testing.TB, path, data string) {
	tb.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(data), 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func read(tb testing.TB, s *Store, id string) *Record {
	tb.Helper()
	r, err := s.Read(id, "eth0")
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// attachmentOptions compares the parts of an attachment that must survive for DEL, CHECK and GC. The requested name is
// not among them.
var attachmentOptions = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b *cniconf.List) bool { return bytes.Equal(a.Bytes(), b.Bytes()) }),
	cmp.Comparer(func(a, b json.RawMessage) bool { return compact(a) == compact(b) }),
	cmpopts.IgnoreFields(Attachment{}, "Requested", "Inherited"), cmpopts.IgnoreUnexported(Attachment{}),
	// A device without a resource comes from the annotation and is optional.
	cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".DeviceID" },
		cmp.Comparer(func(a, b string) bool { return a == b || a == "" })),
}

func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	_ = json.Compact(&b, raw)
	return b.String()
}

// TestRoundTrip writes and reads every plan of the golden tests and checks that what is read is what was planned
// (behaviour D80, D82; D67: port mappings and bandwidth as well).
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("../plan/testdata/*.txtar")
	if err != nil || len(archives) < 45 {
		t.Fatalf("%d archives, %v", len(archives), err)
	}
	for _, path := range archives {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, text, ok := strings.Cut(string(data), "\n-- plan.json --\n")
		text, _, _ = strings.Cut(text, "\n-- ")
		if !ok {
			continue
		}
		msg := &wirev1.Plan{}
		if err := json.Unmarshal([]byte(text), msg); err != nil {
			t.Fatal(err)
		}
		p := NewRecord(msg.ToPlan())
		if len(p.Attachments) == 0 || p.Attachments[0].IfName == "" {
			continue // STATUS and GC record nothing
		}
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			s := store(t)
			if err := s.Write(p); err != nil {
				t.Fatal(err)
			}
			r := read(t, s, p.ContainerID)
			if r.ContainerID != p.ContainerID || r.Netns != p.Netns || r.BinDir != "" {
				t.Errorf("%+v", r)
			}
			if diff := cmp.Diff(p.Attachments, r.Attachments, attachmentOptions); diff != "" {
				t.Errorf("(-planned +read):\n%s", diff)
			}
		})
	}
}

// full returns a plan with every member that a record can have.
func full(tb testing.TB) *Record {
	tb.Helper()
	gws := []netip.Addr{netip.MustParseAddr("10.1.1.254")}
	info := plan.DeviceInfoFile("ns/nad", "c0ffee", "foo0")
	return &Record{
		ContainerID: "c0ffee", Netns: "/run/netns/x", BinDir: "/opt/cni/bin",
		Attachments: []Attachment{
			{
				Name: "cbr0", Primary: true, IfName: "eth0", Routes: plan.Routes{DropIPv4: true},
				Args:   request.Args{{"K8S_POD_NAME", "p"}},
				Config: config(tb, `{"cniVersion":"1.0.0","name":"cbr0","disableCheck":true,"plugins":[{"type":"flannel"},{"type":"portmap","capabilities":{"portMappings":true},"x":9007199254740993}]}`),
			},
			{
				Name: "ns/nad", IfName: "foo0", Resource: "vendor.example/nic", DeviceID: "0000:00:01.0", DeviceInfo: info,
				Config: config(tb, `{"cniVersion":"0.3.1","name":"nad","type":"sriov","ipam":{"type":"static"},"deviceID":"0000:00:01.0"}`),
				Requested: &netsel.Element{
					Name: "nad", Interface: "foo0", MAC: "02:00:00:00:00:01",
					InfinibandGUID: "24:8a:07:03:00:8d:ae:2e", IPs: []string{"10.1.1.5/24"}, DefaultRoute: &gws,
				},
				Routes: plan.Routes{Gateways: gws, DropIPv6: true},
				RuntimeConfig: map[string]json.RawMessage{
					"ips": json.RawMessage(`["10.1.1.5/24"]`), "mac": json.RawMessage(`"02:00:00:00:00:01"`),
					"infinibandGUID": json.RawMessage(`"24:8a:07:03:00:8d:ae:2e"`),
					"deviceID":       json.RawMessage(`"0000:00:01.0"`), "CNIDeviceInfoFile": json.RawMessage(`"` + info + `"`),
					"portMappings": json.RawMessage(`[{"hostPort":1,"containerPort":2}]`),
				},
			},
		},
	}
}

// TestFormat checks that a record has every member of D81 under its name, so that today's Multus can read the record
// after a downgrade (behaviour Q5). The additional members are beside them.
func TestFormat(t *testing.T) {
	t.Parallel()
	s, p := store(t), full(t)
	if err := s.Write(p); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Dir, "c0ffee")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	b64 := func(i int) string { return base64.StdEncoding.EncodeToString(p.Attachments[i].Config.Bytes()) }
	for i, want := range []map[string]any{
		{
			"Conf":     map[string]any{"ipam": map[string]any{}},
			"ConfList": map[string]any{"cniVersion": "1.0.0", "name": "cbr0", "disableCheck": true},
			"Name":     "cbr0", "IsFilterV4Gateway": true, "IsFilterV6Gateway": false, "Bytes": b64(0),
			"cniArgs": []any{[]any{"K8S_POD_NAME", "p"}}, "netnsPath": "/run/netns/x",
		},
		{
			"Conf": map[string]any{
				"cniVersion": "0.3.1", "name": "nad", "type": "sriov",
				"ipam": map[string]any{"type": "static"},
			},
			"ConfList": map[string]any{}, "Name": "ns/nad", "ifnameRequest": "foo0", "macRequest": "02:00:00:00:00:01",
			"infinibandGUIDRequest": "24:8a:07:03:00:8d:ae:2e",
			"ipRequest":             []any{"10.1.1.5/24"}, "default-route": []any{"10.1.1.254"}, "deviceID": "0000:00:01.0",
			"resourceName":      "vendor.example/nic",
			"IsFilterV4Gateway": false, "IsFilterV6Gateway": true, "Bytes": b64(1), "netnsPath": "/run/netns/x",
		},
	} {
		list, ok := got[i]["ConfList"].(map[string]any)
		if !ok {
			t.Fatalf("ConfList: %v", got[i]["ConfList"])
		}
		if plugins, ok := list["plugins"].([]any); (i == 0) != ok || i == 0 && len(plugins) != 2 {
			t.Errorf("D82: plugins mark a list: %v", list)
		}
		delete(list, "plugins")
		delete(got[i], "capabilityArgs")
		if conf, ok := got[i]["Conf"].(map[string]any); ok {
			delete(conf, "dns")
			delete(conf, "prevResult")
		}
		if diff := cmp.Diff(want, got[i]); diff != "" {
			t.Errorf("element %d (-want +got):\n%s", i, diff)
		}
	}
	// The mode of the file and of the directory (behaviour D80).
	for path, mode := range map[string]os.FileMode{path: 0o600, s.Dir: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// TestInterfaceNames checks that a record contains the interface names that today's Multus would not derive from the
// index (behaviour C80, D68), and that every name is read back.
func TestInterfaceNames(t *testing.T) {
	t.Parallel()
	c := config(t, `{"name":"n","type":"bridge"}`)
	tests := []struct {
		name      string
		a         Attachment
		index     int
		ifName    string // of the runtime, at DEL
		requested string
	}{
		{"usual", Attachment{Primary: true, IfName: "eth0"}, 0, "eth0", ""},
		{"an unusual name first", Attachment{Primary: true, IfName: "eth5"}, 0, "eth5", "eth5"},
		{"generated", Attachment{IfName: "net1"}, 1, "eth0", ""},
		{"requested", Attachment{IfName: "x0", Requested: &netsel.Element{Interface: "x0"}}, 1, "eth0", "x0"},
		{
			"the name that would be generated is requested",
			Attachment{IfName: "net1", Requested: &netsel.Element{Interface: "net1"}},
			1,
			"eth0", "net1",
		},
		{"the generated name of another attachment", Attachment{IfName: "net7"}, 1, "eth0", "net7"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.a.Config = c
			e, err := encode(&tc.a, tc.index, &Record{ContainerID: "c"})
			if err != nil {
				t.Fatal(err)
			}
			if e.IfName != tc.requested {
				t.Errorf("ifnameRequest %q, want %q", e.IfName, tc.requested)
			}
			a, err := e.decode(tc.index, "c", tc.ifName)
			if err != nil || a.IfName != tc.a.IfName || a.Primary != tc.a.Primary {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	// GC is not passed the runtime's name for the first interface and uses the usual one.
	e, err := encode(&Attachment{Primary: true, IfName: "eth5", Config: c}, 0, &Record{})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := e.decode(0, "c", DefaultIfName); err != nil || a.IfName != "eth5" {
		t.Errorf("GC frees %q: %v", a.IfName, err)
	}
}

// TestMultus4 reads files as today's Multus writes them (behaviour D81, D83): a pod that was started before the upgrade
// can be cleaned up after it.
func TestMultus4(t *testing.T) {
	t.Parallel()
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	bridge := `{"capabilities":{"ips":true,"mac":true},"cniVersion":"0.3.1","name":"dA","type":"bridge"}`
	flannel := `{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"delegate":{"hairpinMode":true},"type":"flannel"},{"capabilities":{"portMappings":true},"type":"portmap"}]}`
	sriov := `{"cniVersion":"1.0.0","deviceID":"0000:00:01.0","name":"sriov-net","pciBusID":"0000:00:01.0","type":"sriov"}`
	tests := []struct {
		rule, file string
		want       []Attachment
	}{
		{
			"D81 conf", `[{"Conf":{"cniVersion":"0.3.1","ipam":{},"name":"dA","type":"bridge"},"ConfList":{},"Name":"dA","IsFilterV4Gateway":false,"IsFilterV6Gateway":false,"Bytes":"` + b64(bridge) + `"}]`,
			[]Attachment{{Name: "dA", Primary: true, IfName: "eth0", Config: config(t, bridge)}},
		},
		{
			"D81 conflist, and an annotation network with every request",
			`[{"Conf":{"ipam":{}},"ConfList":{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel","ipam":{},"dns":{}},{"type":"portmap","capabilities":{"portMappings":true},"ipam":{},"dns":{}}]},"Name":"cbr0",
			"IsFilterV4Gateway":true,"IsFilterV6Gateway":true,"Bytes":"` + b64(flannel) + `"},
			{"Conf":{"cniVersion":"0.3.1","name":"dA","type":"bridge","capabilities":{"ips":true,"mac":true},"ipam":{},"dns":{}},"ConfList":{},"Name":"ns1/nad1","ifnameRequest":"foo0","macRequest":"02:00:00:00:00:01",
			"infinibandGUIDRequest":"24:8a:07:03:00:8d:ae:2e","ipRequest":["10.1.1.5/24"],"default-route":["10.1.1.254","fd00::1"],"IsFilterV4Gateway":false,"IsFilterV6Gateway":false,"Bytes":"` + b64(bridge) + `"},
			{"Conf":{"cniVersion":"1.0.0","name":"sriov-net","type":"sriov","ipam":{},"dns":{}},"ConfList":{},"Name":"ns1/sriov-net","deviceID":"0000:00:01.0","resourceName":"vendor.example/nic",
			"IsFilterV4Gateway":true,"IsFilterV6Gateway":true,"Bytes":"` + b64(sriov) + `"}]`,
			[]Attachment{
				{
					Name: "cbr0", Primary: true, IfName: "eth0", Config: config(t, flannel),
					Routes: plan.Routes{DropIPv4: true, DropIPv6: true},
				},
				{
					Name: "ns1/nad1", IfName: "foo0", Config: config(t, bridge),
					Routes: plan.Routes{Gateways: []netip.Addr{netip.MustParseAddr("10.1.1.254"), netip.MustParseAddr("fd00::1")}},
					RuntimeConfig: map[string]json.RawMessage{
						"ips": json.RawMessage(`["10.1.1.5/24"]`), "mac": json.RawMessage(`"02:00:00:00:00:01"`),
						"infinibandGUID": json.RawMessage(`"24:8a:07:03:00:8d:ae:2e"`),
					},
				},
				{
					Name: "ns1/sriov-net", IfName: "net2", Config: config(t, sriov),
					Routes: plan.Routes{DropIPv4: true, DropIPv6: true}, Resource: "vendor.example/nic", DeviceID: "0000:00:01.0",
					DeviceInfo: "/var/run/k8s.cni.cncf.io/devinfo/cni/ns1-sriov-net-c0ffee_net2",
					RuntimeConfig: map[string]json.RawMessage{
						"deviceID":          json.RawMessage(`"0000:00:01.0"`),
						"CNIDeviceInfoFile": json.RawMessage(`"/var/run/k8s.cni.cncf.io/devinfo/cni/ns1-sriov-net-c0ffee_net2"`),
					},
				},
			},
		},
		{
			"C53 the first interface renamed",
			`[{"Conf":{},"ConfList":{},"Name":"kube-system/ovn","ifnameRequest":"foo0","IsFilterV4Gateway":false,"IsFilterV6Gateway":false,"Bytes":"` + b64(bridge) + `"}]`,
			[]Attachment{{Name: "kube-system/ovn", IfName: "foo0", Config: config(t, bridge)}},
		},
		{
			"C31 an empty gateway", `[{"Name":"a","default-route":[""],"Bytes":"` + b64(bridge) + `"}]`,
			[]Attachment{{
				Name: "a", Primary: true, IfName: "eth0", Config: config(t, bridge),
				Routes: plan.Routes{Gateways: []netip.Addr{{}}},
			}},
		},
		{"D62 empty list", `[]`, nil},
		{"D62 null", `null`, nil},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			s := store(t)
			write(t, filepath.Join(s.Dir, "c0ffee"), tc.file)
			r := read(t, s, "c0ffee")
			if tc.want == nil {
				if r != nil {
					t.Errorf("%+v", r)
				}
				return
			}
			if r == nil || r.Netns != "" {
				t.Fatalf("%+v", r)
			}
			if diff := cmp.Diff(tc.want, r.Attachments, attachmentOptions); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if _, err := os.Stat(filepath.Join(s.Dir, damagedDir)); err == nil {
				t.Error("it is treated as damaged")
			}
		})
	}
}

// result writes an entry of libcni's cache (behaviour D84).
func result(tb testing.TB, s *Store, network, id, ifName, conf string) {
	tb.Helper()
	b, err := json.Marshal(map[string]any{
		"kind": "cniCacheV1", "containerId": id, "config": []byte(conf), "ifName": ifName, "networkName": network,
		"netns":   "/run/netns/cached",
		"cniArgs": [][2]string{{"K8S_POD_NAME", "p"}}, "capabilityArgs": map[string]any{"mac": "m"},
		"result": map[string]any{"cniVersion": "1.0.0"},
	})
	if err != nil {
		tb.Fatal(err)
	}
	write(tb, filepath.Join(s.Dir, "results", fmt.Sprintf("%s-%s-%s", network, id, ifName)), string(b))
}

func interfaces(r *Record) string {
	if r == nil {
		return "no record"
	}
	names := make([]string, len(r.Attachments))
	for i, a := range r.Attachments {
		names[i] = a.IfName
	}
	return strings.Join(names, " ")
}

// TestDamaged checks D61: a damaged record hides nothing. What can be read counts, libcni's results replace the
// rest, the file is kept for inspection, and the order stays that of ADD, which DEL reverses (behaviour D65).
func TestDamaged(t *testing.T) {
	t.Parallel()
	conf := `{"cniVersion":"1.0.0","name":"n","type":"bridge"}`
	good := func(name string) string {
		return `{"Name":"` + name + `","Bytes":"` + base64.StdEncoding.EncodeToString([]byte(conf)) + `"}`
	}
	const appended = "libcni's results are appended to what could be read"
	cached := []string{"eth0", "net1", "net2", "net10"}
	tests := []struct{ name, file, known, want string }{
		{"no file", "-", "", "eth0 net1 net2 net10"},
		{"empty", "", "", "eth0 net1 net2 net10"},
		{"zeroes", strings.Repeat("\x00", 200), "", "eth0 net1 net2 net10"},
		{"cut off", "[" + good("a") + "," + good("b")[:30], "", "eth0 net1 net2 net10"},
		{"not a list", `{"a":1}`, "", "eth0 net1 net2 net10"},
		{"an element that is null", "[" + good("a") + ",null," + good("c") + "]", appended, "eth0 net1 net2 net10"},
		{"an element without bytes", "[" + good("a") + `,{"Name":"b"},` + good("c") + "]", appended, "eth0 net1 net2 net10"},
		{"the first element", `[{"Bytes":"%%"},` + good("b") + "]", appended, "eth0 net1 net2 net10"},
		{
			"bytes that are not a configuration",
			"[" + good("a") + `,{"Name":"b","Bytes":"` + base64.StdEncoding.EncodeToString([]byte("{}")) + `"}]`, "",
			"eth0 net1 net2 net10",
		},
		{"valid", "[" + good("a") + "," + good("b") + "]", "", "eth0 net1"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := store(t)
			for _, i := range cached {
				result(t, s, "n", "c0ffee", i, conf)
			}
			result(t, s, "n", "c0ffee-other", "eth0", conf)
			if tc.file != "-" {
				write(t, filepath.Join(s.Dir, "c0ffee"), tc.file)
			}
			r := read(t, s, "c0ffee")
			got := strings.Fields(interfaces(r))
			all := slices.Sorted(slices.Values(got))
			if diff := cmp.Diff(slices.Sorted(slices.Values(strings.Fields(tc.want))), all); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			kept, err := filepath.Glob(filepath.Join(s.Dir, damagedDir, "c0ffee.*"))
			if err != nil {
				t.Fatal(err)
			}
			if (len(kept) == 1) != (tc.file != "-" && tc.name != "valid") {
				t.Errorf("kept aside: %v", kept)
			}
			if len(kept) == 1 {
				if data, err := os.ReadFile(kept[0]); err != nil || string(data) != tc.file {
					t.Errorf("kept %q: %v", data, err)
				}
			}
			if r.Attachments[0].Primary != (r.Attachments[0].IfName == "eth0") {
				t.Errorf("primary: %+v", r.Attachments[0])
			}
			if strings.Join(got, " ") != tc.want && tc.known != "" {
				t.Error("the known difference is gone: " + tc.known)
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("order %v, want %s", got, tc.want)
			}
		})
	}
}

// TestResults checks what is read of an attachment from libcni's cache (behaviour D84), and which files there are
// ignored.
func TestResults(t *testing.T) {
	t.Parallel()
	s := store(t)
	result(t, s, "n", "c0ffee", "eth0", `{"cniVersion":"1.0.0","name":"n","type":"bridge"}`)
	result(t, s, "broken", "c0ffee", "net1", `{}`)
	write(t, filepath.Join(s.Dir, "results", "x-c0ffee-net2"), "{")
	r := read(t, s, "c0ffee")
	if r == nil || r.Netns != "/run/netns/cached" || len(r.Attachments) != 1 {
		t.Fatalf("%+v", r)
	}
	want := Attachment{
		Name: "n", Primary: true, IfName: "eth0", Config: config(t, `{"cniVersion":"1.0.0","name":"n","type":"bridge"}`),
		Args: request.Args{{"K8S_POD_NAME", "p"}}, RuntimeConfig: map[string]json.RawMessage{"mac": json.RawMessage(`"m"`)},
	}
	if diff := cmp.Diff(want, r.Attachments[0], attachmentOptions); diff != "" {
		t.Error(diff)
	}
}

// TestReadNetns checks that the network namespace is read from libcni's results for files of today's Multus, which do
// not contain it (behaviour D81, D84).
func TestReadNetns(t *testing.T) {
	t.Parallel()
	const conf = `{"cniVersion":"1.0.0","name":"n","type":"bridge"}`
	for name, tc := range map[string]struct{ own, want string }{
		"today's Multus": {"", "/run/netns/cached"},
		"ours":           {`,"netnsPath":"/run/netns/own"`, "/run/netns/own"},
	} {
		s := store(t)
		write(t, filepath.Join(s.Dir, "c0ffee"),
			`[{"Name":"n","Bytes":"`+base64.StdEncoding.EncodeToString([]byte(conf))+`"`+tc.own+`}]`)
		result(t, s, "n", "c0ffee-other", "eth0", conf)
		complete := func() *Record {
			r := read(t, s, "c0ffee")
			s.Complete(r)
			return r
		}
		if r := complete(); tc.own == "" && r.Netns != "" {
			t.Errorf("%s: of another container: %q", name, r.Netns)
		}
		result(t, s, "n", "c0ffee", "eth0", conf)
		if r := complete(); r.Netns != tc.want {
			t.Errorf("%s: %q, want %q", name, r.Netns, tc.want)
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	s := store(t)
	if r := read(t, s, "none"); r != nil {
		t.Errorf("%+v", r)
	}
	if ids, err := s.Containers(); err != nil || ids != nil {
		t.Errorf("D103: no directory yet: %v, %v", ids, err)
	}
	if err := s.Remove("none"); err != nil {
		t.Errorf("remove what is not there: %v", err)
	}
	write(t, s.Dir, "a file")
	if _, err := s.Read("c", "eth0"); !errors.Is(err, ErrNoDirectory) {
		t.Errorf("a state directory that is not a directory: %v", err)
	}
	if err := s.Write(full(t)); err == nil {
		t.Error("write into a file")
	}
}

// TestBinDir checks that binDir is recorded if the daemon's differs from the runtime's (behaviour A90).
func TestBinDir(t *testing.T) {
	t.Parallel()
	s, p := store(t), full(t)
	p.BinDir = "/daemon/bin"
	if err := s.Write(p); err != nil {
		t.Fatal(err)
	}
	if r := read(t, s, "c0ffee"); r.BinDir != "/daemon/bin" {
		t.Errorf("%q", r.BinDir)
	}
}

// TestContainers checks that Containers lists what the ledger or libcni has recorded and ignores everything else in the
// directory (behaviour D85).
func TestContainers(t *testing.T) {
	t.Parallel()
	s := store(t)
	for _, id := range []string{"b", "a"} {
		p := full(t)
		p.ContainerID = id
		if err := s.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	result(t, s, "n", "b", "eth0", `{"name":"n","type":"x"}`)
	result(t, s, "n", "only-cached", "eth0", `{"name":"n","type":"x"}`)
	write(t, filepath.Join(s.Dir, ".hidden"), "x")
	write(t, filepath.Join(s.Dir, damagedDir, "c.1"), "x")
	ids, err := s.Containers()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	if diff := cmp.Diff([]string{"a", "b", "only-cached"}, ids); diff != "" {
		t.Error(diff)
	}
	if err := s.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if r := read(t, s, "a"); r != nil {
		t.Errorf("removed, and there: %+v", r)
	}
}

// TestSweep checks that only one removal per minute sweeps, also if the clock was set back in the meantime, and that a
// temporary file that may have a writer stays.
func TestSweep(t *testing.T) {
	t.Parallel()
	const temp = ".multus-tmp-0123456789abcdef"
	for _, tc := range []struct {
		name      string
		swept     time.Duration // ago
		old, gone bool
	}{
		{"an old record", time.Hour, true, true},
		{"a new record", time.Second, true, false},
		{"a record from the future", -time.Hour, true, true},
		{"never", 0, true, true},
		{"an operation is running", time.Hour, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := store(t)
			files := []string{filepath.Join(s.Dir, temp), filepath.Join(s.Dir, "results", temp)}
			for _, f := range files {
				write(t, f, "[")
			}
			if tc.swept != 0 {
				write(t, filepath.Join(s.networksDir(), sweptFile), "")
				setTime(t, tc.swept, filepath.Join(s.networksDir(), sweptFile))
			}
			if tc.old {
				setTime(t, time.Hour, files...)
			}
			if err := s.Remove("c"); err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if _, err := os.Stat(f); errors.Is(err, os.ErrNotExist) != tc.gone {
					t.Errorf("%s: %v", f, err)
				}
			}
			if info, err := os.Stat(filepath.Join(s.networksDir(), sweptFile)); err != nil ||
				time.Since(info.ModTime()) > time.Minute {
				t.Errorf("not marked: %v", err)
			}
		})
	}
}

// setTime sets the age of files.
func setTime(tb testing.TB, ago time.Duration, files ...string) {
	tb.Helper()
	at := time.Now().Add(-ago)
	for _, f := range files {
		if err := os.Chtimes(f, at, at); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestMerge checks that a later verb gets the runtime's CNI_ARGS and those that only ADD had.
func TestMerge(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ now, recorded, want request.Args }{
		{nil, request.Args{{"A", "1"}}, request.Args{{"A", "1"}}},
		{request.Args{{"A", "2"}}, request.Args{{"A", "1"}, {"B", "3"}}, request.Args{{"A", "2"}, {"B", "3"}}},
		{request.Args{{"A", ""}}, request.Args{{"A", "1"}}, request.Args{{"A", "1"}}},
		{nil, request.Args{{"A", "1"}, {"A", "1"}}, request.Args{{"A", "1"}}}, // C61: today's Multus passes each twice
		{request.Args{{"A", "2"}}, nil, request.Args{{"A", "2"}}},
	} {
		if got := Merge(tc.now, tc.recorded); !cmp.Equal(got, tc.want) {
			t.Errorf("Merge(%v, %v) = %v", tc.now, tc.recorded, got)
		}
	}
}

// TestLock checks that a container's lock is exclusive and that waiting for it ends with the context (behaviour F65).
func TestLock(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(t.Context(), file, "c")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Lock(ctx, file, "c"); err == nil || !strings.Contains(err.Error(), "container c") {
		t.Errorf("a second holder: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(t.Context(), file, "c")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzRead checks that no content makes Read panic or hides an element that can be read, and that what was read can be
// written and read again.
func FuzzRead(f *testing.F) {
	b64 := base64.StdEncoding.EncodeToString([]byte(`{"name":"n","type":"bridge"}`))
	for _, seed := range []string{
		"", "[]", "null", "{}", "[null]", "[[]]", "\x00\x00", `[{"Name":"a","Bytes":"` + b64 + `"}]`,
		`[{"Name":"a","Bytes":"` + b64 + `"},{"Bytes":5}]`, `[{"Name":"a","Bytes":"` + b64,
		`[{"Name":"a","Bytes":"` + b64 + `","default-route":["x"]}]`,
		`[{"Name":"a","Bytes":"` + b64 +
			`","default-route":["",null],"ipRequest":null,"deviceID":"d","cniArgs":[["a"]],"capabilityArgs":{"CNIDeviceInfoFile":5}}]`,
		`[{"Conf":{"cniVersion":"0.3.1","ipam":{},"name":"dA","type":"bridge"},"ConfList":{},"Name":"dA","IsFilterV4Gateway":false,"IsFilterV6Gateway":false,"Bytes":"` + b64 + `"}]`,
	} {
		f.Add([]byte(seed))
	}
	s := store(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(s.Dir, "c0ffee")
		write(t, path, string(b))
		r, err := s.Read("c0ffee", "eth0")
		if err != nil {
			t.Fatal(err)
		}
		readable := 0
		var raw []json.RawMessage
		if json.Unmarshal(b, &raw) == nil {
			for i, item := range raw {
				var e element
				if json.Unmarshal(item, &e) == nil {
					if _, err := e.decode(i, "c0ffee", "eth0"); err == nil {
						readable++
					}
				}
			}
		}
		if r == nil {
			r = &Record{}
		}
		if len(r.Attachments) != readable {
			t.Fatalf("%d of %d elements in %s", len(r.Attachments), readable, b)
		}
		if readable == 0 {
			return
		}
		p := &Record{ContainerID: "c0ffee", Netns: r.Netns, BinDir: r.BinDir, Attachments: r.Attachments}
		if err := s.Write(p); err != nil {
			return // libcni refuses the configuration, for instance because it has no name
		}
		if again := read(t, s, "c0ffee"); len(again.Attachments) != readable {
			t.Errorf("%s: %d of %d after it was written again", b, len(again.Attachments), readable)
		}
	})
}
