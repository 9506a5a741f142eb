package errtable

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/fsx"
	"multus/internal/testutil/testnet"
)

// container is the container ID of most requests.
const container = "0123456789abcdef0123456789abcdef"

func decode(b []byte, v any) error { return json.Unmarshal(b, v) }

// site is an engine with a pod that gets these attachments. Its plugins fail if a file beside them exists.
type site struct {
	dir         string
	node, pod   *testnet.NS
	attachments []plan.Attachment
	events      []publish.Event
	engine      *engine.Engine
	lost        error         // result of Publish
	stuck       chan struct{} // if not nil, Plan blocks until it is closed
}

func newSite(t *testing.T, configs ...string) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), node: testnet.New(t), pod: testnet.New(t)}
	for i, text := range configs {
		l, err := cniconf.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		s.attachments = append(s.attachments, plan.Attachment{
			Name: l.Name(), Primary: i == 0, IfName: []string{"eth0", "net1", "net2"}[i], Config: l,
			Args: podRequest(container).Args,
		})
		script := "#!/bin/sh\ncat >/dev/null\ntest -e $0.fails && { echo '{\"code\":0,\"msg\":\"no\"}'; exit 1; }\n" +
			`test $CNI_COMMAND = ADD && echo '{"cniVersion":"1.1.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"x"}]}'` +
			"\nexit 0\n"
		if err := os.WriteFile(filepath.Join(s.dir, l.Types()[0]), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.engine = engine.New(engine.Deps{
		Planner: s, Publisher: s, Status: s, LockFile: s.lockFile(), Boot: "now", Log: slog.New(slog.DiscardHandler),
	})
	return s
}

func (s *site) lockFile() string { return filepath.Join(s.dir, "locks") }

// Plan, Publish, Get and Put implement the interfaces that the engine needs.
func (s *site) Plan(_ context.Context, req *request.Request, _ *config.Plugin) (*plan.Plan, error) {
	if s.stuck != nil {
		<-s.stuck
	}
	return &plan.Plan{
		CNIVersion: "1.1.0", ContainerID: req.ContainerID, Netns: req.Netns,
		Attachments: append([]plan.Attachment(nil), s.attachments...),
		Pod:         request.Pod{Namespace: "team", Name: "web-0", UID: "u"},
		Dirs:        plan.Dirs{State: filepath.Join(s.dir, "state"), Binary: s.dir},
	}, nil
}

func (s *site) Publish(_ context.Context, r *publish.Report) error {
	events, err := publish.Events(r)
	if err == nil {
		s.events = append(s.events, events...)
	}
	return s.lost
}

func (*site) Get(context.Context, []byte) (error, bool) { return nil, false }

func (*site) Put(context.Context, []byte, error) {}

func (s *site) request(command, id, more string) *request.Request {
	req := podRequest(id)
	req.Command, req.Netns, req.Path = command, s.pod.Path, os.Getenv("PATH")
	req.Config = []byte(`{"cniVersion":"1.1.0","name":"m","type":"multus","clusterNetwork":"x","failureEvents":true,` +
		`"cniDir":"` + s.dir + `/state","binDir":"` + s.dir + `"` + more + `}`)
	return req
}

// add attaches the pod on the node, with a time limit.
func (s *site) add(t *testing.T, id, more string, within time.Duration) (err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	s.node.Do(t, func() { _, err = s.engine.Add(ctx, s.request(request.Add, id, more)) })
	return err
}

// fails makes plugins fail from now on.
func (s *site) fails(t *testing.T, types ...string) {
	t.Helper()
	for _, typ := range types {
		if err := os.WriteFile(filepath.Join(s.dir, typ+".fails"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// hold holds a lock of the site until the test ends.
func (s *site) hold(t *testing.T, key string) {
	t.Helper()
	l, err := fsx.Acquire(t.Context(), s.lockFile(), key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Release(); err != nil {
			t.Error(err)
		}
	})
}

const (
	cluster    = `{"cniVersion":"1.1.0","name":"cluster-net","type":"cluster"}`
	shortLimit = 100 * time.Millisecond
	longLimit  = time.Minute
)

// engines returns the errors of the verbs, with real namespaces, processes and locks.
func engines(t *testing.T) []produced {
	t.Helper()
	return append(verbs(), append(sandboxes(), devices()...)...)
}

func verbs() []produced {
	other := func(verb func(*engine.Engine, context.Context, *request.Request) error, command, more string,
		attached bool,
	) func(*testing.T) error {
		return func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster)
			if attached {
				if err := s.add(t, container, "", longLimit); err != nil {
					t.Fatal(err)
				}
			}
			s.fails(t, "cluster")
			return verb(s.engine, t.Context(), s.request(command, container, more))
		}
	}
	return []produced{
		{"ADD of a plugin that fails", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster)
			s.fails(t, "cluster")
			return s.add(t, container, "", longLimit)
		}},
		{"DEL of a plugin that fails", other((*engine.Engine).Del, request.Del, "", true)},
		{"CHECK of a plugin that fails", other((*engine.Engine).Check, request.Check, `,"checkNetworks":"all"`, true)},
		{"CHECK without a record", other((*engine.Engine).Check, request.Check, `,"checkNetworks":"all"`, false)},
		{"CHECK with an invalid checkNetworks", other((*engine.Engine).Check, request.Check, `,"checkNetworks":"every"`, true)},
		{"CHECK by hand without a record", other(func(e *engine.Engine, ctx context.Context, req *request.Request) error {
			_, err := e.CheckEach(ctx, req)
			return err
		}, request.Check, "", false)},
		{"status is lost", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster, strings.Replace(cluster, "cluster-net", "second", 1))
			s.lost = errors.New("forbidden")
			err := s.add(t, container, "", longLimit)
			if rec, rerr := os.ReadFile(filepath.Join(s.dir, "state", container)); rerr != nil ||
				!strings.Contains(string(rec), `"undone":true`) {
				t.Errorf("not undone: %s, %v", rec, rerr)
			}
			return err
		}},
		{"STATUS without the readiness file", other((*engine.Engine).Status, request.Status, `,"readinessindicatorfile":"/none"`,
			false)},
		{"STATUS that hangs", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster)
			s.stuck = make(chan struct{})
			defer close(s.stuck)
			return s.engine.Status(t.Context(), s.request(request.Status, container, ""))
		}},
		{"GC without a list", other((*engine.Engine).GC, request.GC, "", false)},
		{"GC with an incomplete entry", other((*engine.Engine).GC, request.GC, `,"cni.dev/valid-attachments":[{}]`, false)},
		{"ADD without the readiness file", func(t *testing.T) error {
			t.Helper()
			return newSite(t, cluster).add(t, container, `,"readinessindicatorfile":"/none"`, shortLimit)
		}},
	}
}

func sandboxes() []produced {
	return []produced{
		{"sandbox is locked", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster)
			s.hold(t, container)
			return s.add(t, container, "", shortLimit)
		}},
		{"networks of running pods are being attached", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster)
			s.hold(t, "networks of running pods 0")
			ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
			defer cancel()
			req := s.request(request.GC, "", `,"cni.dev/valid-attachments":[]`)
			return s.engine.GC(ctx, req)
		}},
		{"no namespace", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster)
			s.pod = &testnet.NS{Path: s.dir + "/gone"}
			return s.add(t, container, "", longLimit)
		}},
		{"interface exists already", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster)
			testnet.Bridge(t, s.pod, "eth0")
			return s.add(t, container, "", longLimit)
		}},
		{"state cannot be written", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster)
			if err := os.Symlink("/proc/none", filepath.Join(s.dir, "state")); err != nil {
				t.Fatal(err)
			}
			return s.add(t, container, "", longLimit)
		}},
		{"routes of a missing interface", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster, `{"cniVersion":"1.1.0","name":"blue","type":"blue"}`)
			s.attachments[1].Routes.Gateways = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
			return s.add(t, container, "", longLimit)
		}},
	}
}

func devices() []produced {
	nic := func(key, value string) string {
		return `{"cniVersion":"1.1.0","name":"nic-` + value + `","type":"host-device","` + key + `":"` + value + `"}`
	}
	host := func(configs ...string) func(*testing.T) error {
		return func(t *testing.T) error {
			t.Helper()
			s := newSite(t, append([]string{cluster}, configs...)...)
			testnet.Veth(t, s.node, "eth1", testnet.New(t), "far")
			return s.add(t, container, "", longLimit)
		}
	}
	return []produced{
		{"no such device", host(nic("device", "eth9"))},
		{"device that is never free", host(nic("device", "lo"))},
		{"one device twice", host(nic("device", "eth1"), strings.Replace(nic("device", "eth1"), "nic-", "other-", 1))},
		{"bad configuration of a device", host(`{"cniVersion":"1.1.0","name":"nic","type":"host-device","device":7}`)},
		{"not the kubelet's device", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster, `{"cniVersion":"1.1.0","name":"vf","type":"sriov","deviceID":"0000:ff:1f.7","pciBusID":"0000:ff:1f.7"}`)
			return s.add(t, container, "", longLimit)
		}},
		{"device in use", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster, nic("device", "eth1"))
			testnet.Veth(t, s.node, "eth1", testnet.New(t), "far")
			testnet.Addr(t, s.node, "eth1", "192.0.2.2/24")
			return s.add(t, container, `,"nodeAddresses":["192.0.2.2"]`, longLimit)
		}},
		{"device of another pod", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster, nic("device", "eth1"))
			testnet.Veth(t, s.node, "eth1", testnet.New(t), "far")
			if err := s.add(t, "another", "", longLimit); err != nil {
				t.Fatal(err)
			}
			s.hold(t, "another") // it is being returned to the node
			return s.add(t, container, "", longLimit)
		}},
		{"devices of the node are locked", func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster, nic("device", "eth1"))
			s.hold(t, "devices")
			return s.add(t, container, "", shortLimit)
		}},
	}
}

// TestSameWords checks that the error that the runtime gets, and that the kubelet's event shows, is equal to the event
// of Multus. It names pod, network and request, and has advice, even if the error was unforeseen.
func TestSameWords(t *testing.T) {
	s := newSite(t, cluster)
	s.fails(t, "cluster")
	unforeseen := newSite(t, cluster)
	// A directory in place of a record cannot be moved aside.
	if err := os.MkdirAll(filepath.Join(unforeseen.dir, "state", container), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(unforeseen.dir, "state", "damaged"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		s    *site
		want []string
	}{
		{s, []string{"Multus: [team/web-0/u]: ", `network "cluster-net"`, "; look at ", "; request 0123456789abc"}},
		{unforeseen, []string{"Multus: [team/web-0/u]: ", "; " + fault.Unforeseen + "; request 0123456789abc"}},
	} {
		err := tc.s.add(t, container, "", longLimit)
		var ce *types.Error
		if !errors.As(err, &ce) {
			t.Fatalf("got %v", err)
		}
		if n := len(tc.s.events); n == 0 || tc.s.events[n-1].Text() != ce.Error() {
			t.Errorf("the runtime got %q, the events are %+v", ce.Error(), tc.s.events)
		}
		for _, want := range tc.want {
			if strings.Count(ce.Error(), want) != 1 {
				t.Errorf("want %q once in %q", want, ce.Error())
			}
		}
		if strings.Contains(ce.Error(), "\n") {
			t.Errorf("more than a line: %q", ce.Error())
		}
	}
}

// TestPluginLog checks that the error that the runtime gets is in the plugin's log with the complete container ID.
func TestPluginLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	err := run(t, `{"cniVersion":"1.1.0","name":"m","type":"multus-shim","logLevel":"error","logFile":"`+log+`"}`,
		"CNI_ARGS=broken")
	b, rerr := os.ReadFile(log)
	if err == nil || rerr != nil {
		t.Fatalf("%v, %v", err, rerr)
	}
	for _, want := range []string{
		"request failed", "cmd=ADD", "container=" + container,
		"err=" + strconv.Quote(err.Error()),
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("want %s in %s", want, b)
		}
	}
}
