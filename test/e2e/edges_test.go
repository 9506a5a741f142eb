package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/node"
)

// fakes is a node without Kubernetes whose delegates are fake plugins: a cluster network with two chained plugins, and
// two networks.
type fakes struct {
	*node.Node
	dir string
}

func result(address string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","interfaces":[{"name":"{ifname}","sandbox":"{netns}"}],"ips":[{"address":%q,"interface":0}]}`, address)
}

// newFakes creates the node. over is merged into the "fake" object of a plugin by name: cluster, chained, one, two.
func newFakes(t *testing.T, kind node.Kind, conf map[string]any, over map[string]map[string]any) *fakes {
	t.Helper()
	return newFakesOn(t, node.Options{Kind: kind, Conf: conf}, over)
}

// newFakesOn is newFakes for a node with further options.
func newFakesOn(t *testing.T, o node.Options, over map[string]map[string]any) *fakes {
	t.Helper()
	f := &fakes{dir: t.TempDir()}
	primary := filepath.Join(t.TempDir(), "primary")
	if o.Conf == nil {
		o.Conf = map[string]any{}
	}
	o.Conf["clusterNetwork"] = filepath.Join(primary, "10-cluster.conflist")
	o.Conf["binDir"] = "" // CNI_PATH of the runtime has all plugins
	o.NetworksDir = f.dir
	f.Node = node.New(t, o)
	if err := os.MkdirAll(primary, 0o755); err != nil {
		t.Fatal(err)
	}
	fake := func(name, address string) map[string]any {
		m := f.Fake(t, "fake-"+name)
		if address != "" {
			m["result"] = json.RawMessage(result(address))
		}
		maps.Copy(m, over[name])
		return map[string]any{
			"type": "fake-" + name, "fake": m,
			"capabilities": map[string]bool{"mac": true, "portMappings": true},
		}
	}
	version := "1.1.0"
	f.write(t, filepath.Join(primary, "10-cluster.conflist"), map[string]any{
		"cniVersion": version, "name": "cluster", "plugins": []any{fake("cluster", "10.244.0.2/24"), fake("chained", "")},
	})
	for name, address := range map[string]string{"one": "10.1.0.2/24", "two": "10.2.0.2/24"} {
		m := fake(name, address)
		m["cniVersion"] = version
		f.define(t, name, m)
	}
	return f
}

// define writes a network definition.
func (f *fakes) define(t *testing.T, name string, config map[string]any) {
	t.Helper()
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, filepath.Join(f.dir, name+".json"), map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"config": string(b)},
	})
}

func (f *fakes) write(t *testing.T, path string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (f *fakes) pod(t *testing.T, wanted string) *node.Pod {
	t.Helper()
	return f.NewPod(t, "default", "p", "uid-p", map[string]string{networks: wanted})
}

// calls returns the calls since the previous one as "plugin COMMAND ifname".
func (f *fakes) calls(t *testing.T, since *int) []string {
	t.Helper()
	all := f.Calls(t)
	var out []string
	for _, c := range all[*since:] {
		out = append(out, strings.TrimSpace(strings.TrimPrefix(c.Plugin, "fake-")+" "+c.Command+" "+c.Env["CNI_IFNAME"]))
	}
	*since = len(all)
	return out
}

// TestOrder checks that attachments are added and checked in order, and deleted in reverse order, including the plugins
// of a list. Delegates get the five Kubernetes arguments first (behaviour D23, D25, D45-D49, D65, D80, D84; K2, K3, K5;
// C60, Q12; C64, N11; NPWG v1.3 §7.3).
func TestOrder(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, map[string]any{"cniVersion": "1.1.0", "checkNetworks": "all"}, nil)
			p := f.pod(t, "one,two@x0")
			p.Caps = map[string]any{"portMappings": []any{map[string]any{"hostPort": 1, "containerPort": 2}}}
			n := 0
			if _, err := f.Add(t, f.Conf(), p); err != nil {
				t.Fatalf("%v\n%s", err, f.DaemonLog())
			}
			if d := cmp.Diff([]string{"cluster ADD eth0", "chained ADD eth0", "one ADD net1", "two ADD x0"},
				f.calls(t, &n)); d != "" {
				t.Errorf("ADD (-want +got):\n%s", d)
			}
			all := f.Calls(t)
			if !strings.HasPrefix(all[0].Env["CNI_ARGS"],
				"IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID="+p.ContainerID+";K8S_POD_UID=uid-p") {
				t.Errorf("CNI_ARGS: %s", all[0].Env["CNI_ARGS"])
			}
			if !strings.Contains(string(all[1].Stdin), `"prevResult"`) ||
				strings.Contains(string(all[0].Stdin), `"prevResult"`) {
				t.Error("the chained plugin, and it alone, gets the result of the one before")
			}
			// The runtime's port mappings are passed to the cluster network only (C64, N11).
			if !strings.Contains(string(all[0].Stdin), "portMappings\":[") ||
				strings.Contains(string(all[2].Stdin), "portMappings\":[") {
				t.Error("the runtime's port mappings went elsewhere than to the cluster network")
			}
			if err := f.Check(t, f.Conf(), p); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			if d := cmp.Diff([]string{"cluster CHECK eth0", "chained CHECK eth0", "one CHECK net1", "two CHECK x0"},
				f.calls(t, &n)); d != "" {
				t.Errorf("CHECK (-want +got):\n%s", d)
			}
			for _, c := range f.Calls(t)[4:] {
				if !strings.Contains(string(c.Stdin), `"prevResult"`) {
					t.Errorf("%s %s without prevResult", c.Plugin, c.Command)
				}
			}
			if info, err := os.Stat(filepath.Join(f.State(), p.ContainerID)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("record: %v, %v", info, err)
			}
			if err := f.Del(t, f.Conf(), p); err != nil {
				t.Errorf("DEL: %v", err)
			}
			if d := cmp.Diff([]string{"two DEL x0", "one DEL net1", "chained DEL eth0", "cluster DEL eth0"},
				f.calls(t, &n)); d != "" {
				t.Errorf("DEL (-want +got):\n%s", d)
			}
			if left := f.Left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if err := f.Check(t, f.Conf(), p); err == nil {
				t.Error("CHECK of all networks of a container that is not attached passed")
			}
		})
	}
}

// TestUndo checks that a failed attachment and all attachments before it are undone in reverse order, and that later
// ones are not begun. The delegate's error code and message reach the runtime (behaviour D5, D28, D29, M2; P10, Q8).
func TestUndo(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, nil, map[string]map[string]any{
				"one": {"fail": map[string]any{"ADD": map[string]any{"code": 11, "msg": "no carrier", "details": "cable"}}},
			})
			p := f.pod(t, "one,two")
			n := 0
			_, err := f.Add(t, f.Conf(), p)
			var ce *types.Error
			if !errors.As(err, &ce) || ce.Code != 11 || !strings.Contains(ce.Msg, "no carrier") ||
				!strings.Contains(ce.Msg, `error adding container to network "default/one"`) ||
				!strings.Contains(ce.Msg, "default/p/uid-p") {
				t.Errorf("ADD: %v", err)
			}
			want := []string{
				"cluster ADD eth0", "chained ADD eth0", "one ADD net1", "one DEL net1", "chained DEL eth0",
				"cluster DEL eth0",
			}
			if d := cmp.Diff(want, f.calls(t, &n)); d != "" {
				t.Errorf("calls (-want +got):\n%s", d)
			}
			if err := f.Del(t, f.Conf(), p); err != nil {
				t.Errorf("DEL: %v", err)
			}
			if left := f.Left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestDelGoesOn checks that DEL calls all delegates even if one fails. The error is returned, the record is kept, and
// the next DEL repeats all of them (behaviour D65, D69, D70, D72; N10; multus-cni#1449, multus-cni#669).
func TestDelGoesOn(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, nil, map[string]map[string]any{
				"one": {"fail": map[string]any{"DEL": map[string]any{"code": 77, "msg": "busy"}}},
			})
			p := f.pod(t, "one,two")
			if _, err := f.Add(t, f.Conf(), p); err != nil {
				t.Fatal(err)
			}
			n := len(f.Calls(t))
			want := []string{"two DEL net2", "one DEL net1", "chained DEL eth0", "cluster DEL eth0"}
			for i := range 2 {
				err := f.Del(t, f.Conf(), p)
				if err == nil || !strings.Contains(err.Error(), "busy") || !strings.Contains(err.Error(), "default/one") {
					t.Errorf("DEL %d: %v", i, err)
				}
				if d := cmp.Diff(want, f.calls(t, &n)); d != "" {
					t.Errorf("DEL %d (-want +got):\n%s", i, d)
				}
				if _, err := os.Stat(filepath.Join(f.State(), p.ContainerID)); err != nil {
					t.Errorf("DEL %d: the record is gone: %v", i, err)
				}
			}
		})
	}
}

// TestStatus checks that STATUS is delegated to the cluster network and that its error is kept. If the readiness
// indicator file is missing or the cluster network does not answer, STATUS returns code 50 (behaviour D90-D94;
// multus-cni#1519).
func TestStatus(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, map[string]any{"cniVersion": "1.1.0"}, nil)
			n := 0
			if err := f.Status(t, f.Conf()); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			if d := cmp.Diff([]string{"cluster STATUS", "chained STATUS"}, f.calls(t, &n)); d != "" {
				t.Errorf("calls (-want +got):\n%s", d)
			}
			// The daemon caches the STATUS result for a short time. Without a daemon the cluster network is called again.
			if err := f.Status(t, f.Conf()); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			if again := f.calls(t, &n); (len(again) == 0) != (kind == node.Thick) {
				t.Errorf("called again at once: %v", again)
			}
			f.StopDaemon(t)
			if err := f.Status(t, f.Conf()); (err == nil) != (kind == node.Thin) {
				t.Errorf("STATUS without the daemon: %v", err)
			}
			f = newFakes(t, kind, map[string]any{"cniVersion": "1.1.0"},
				map[string]map[string]any{"cluster": {
					"fail": map[string]any{"STATUS": map[string]any{"code": 51, "msg": "limited"}},
				}})
			var ce *types.Error
			if err := f.Status(t, f.Conf()); !errors.As(err, &ce) || ce.Code != 51 || ce.Msg != "limited" {
				t.Errorf("STATUS of a failing network: %v", err)
			}
			f = newFakes(t, kind, map[string]any{"cniVersion": "1.1.0", "readinessindicatorfile": "/nonexistent/ready"}, nil)
			if err := f.Status(t, f.Conf()); !errors.As(err, &ce) || ce.Code != 50 {
				t.Errorf("STATUS without the readiness file: %v", err)
			}
			f = newFakes(t, kind, map[string]any{"cniVersion": "1.1.0"},
				map[string]map[string]any{"cluster": {"sleep": map[string]any{"STATUS": "20s"}}})
			if err := f.Status(t, f.Conf()); !errors.As(err, &ce) || ce.Code != 50 {
				t.Errorf("STATUS of a hanging network: %v", err)
			}
		})
	}
}

// TestGC checks that attachments that the runtime does not list are freed on every network, and that listed ones stay.
// The delegates get the valid attachments with their own interface names (behaviour D85, D100-D105; multus-cni#1273).
func TestGC(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, map[string]any{"cniVersion": "1.1.0"}, nil)
			if err := f.GC(t, f.Conf()); err != nil { // D103: a new node
				t.Errorf("GC of nothing: %v", err)
			}
			live, stale := f.pod(t, "one"), f.pod(t, "one,two")
			for _, p := range []*node.Pod{live, stale} {
				if _, err := f.Add(t, f.Conf(), p); err != nil {
					t.Fatal(err)
				}
			}
			n := len(f.Calls(t))
			if err := f.GC(t, f.Conf(), live); err != nil {
				t.Errorf("GC: %v", err)
			}
			got := f.calls(t, &n)
			for _, want := range []string{
				"two DEL net2", "one DEL net1", "chained DEL eth0", "cluster DEL eth0", "cluster GC",
				"one GC", "two GC",
			} {
				if !slices.Contains(got, want) {
					t.Errorf("no %s in %v", want, got)
				}
			}
			for _, c := range f.Calls(t) {
				if c.Command == "DEL" && c.Env["CNI_CONTAINERID"] == live.ContainerID {
					t.Errorf("%s DEL of the live pod", c.Plugin)
				}
				if c.Command == "GC" && c.Plugin == "fake-one" &&
					!strings.Contains(string(c.Stdin), fmt.Sprintf(`{"containerID":%q,"ifname":"net1"}`, live.ContainerID)) {
					t.Errorf("the network's plugin does not get the valid attachments: %s", c.Stdin)
				}
			}
			if left := strings.Join(f.Left(t), " "); strings.Contains(left, stale.ContainerID) ||
				!strings.Contains(left, live.ContainerID) {
				t.Errorf("left: %s", left)
			}
		})
	}
}

// run runs a binary with the given environment and standard input.
func (f *fakes) run(t *testing.T, binary string, env []string, stdin string,
	args ...string,
) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(f.BinDirs[0], binary), args...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestProcessEdge checks versions, help, and the error codes for CNI variables (behaviour A5, D1-D4, D6, D8, D9, K10,
// K11; O40).
func TestProcessEdge(t *testing.T) {
	f := newFakes(t, node.Thick, nil, nil)
	for _, binary := range []string{"multus", "multus-shim"} {
		out, _, code := f.run(t, binary, []string{"CNI_COMMAND=VERSION"}, `{"cniVersion":"1.0.0"}`)
		var v struct {
			CNIVersion string   `json:"cniVersion"`
			Supported  []string `json:"supportedVersions"`
		}
		if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || v.CNIVersion != "1.1.0" ||
			!slices.Equal(v.Supported, []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}) {
			t.Errorf("%s VERSION: %s %d", binary, out, code)
		}
		if _, errs, code := f.run(t, binary, nil, ""); code != 0 ||
			!strings.Contains(errs, "meta-plugin that delegates to other CNI plugins\nCNI protocol versions supported: 0.1.0, "+
				"0.2.0") {
			t.Errorf("%s without a command: %d %s", binary, code, errs)
		}
		for _, flag := range []string{"-v", "-version", "--version"} {
			if out, _, code := f.run(t, binary, nil, "", flag); code != 0 ||
				!regexp.MustCompile("^"+binary+`: version:.*\(.*\), commit:.*, date:.*\n$`).MatchString(out) {
				t.Errorf("%s %s: %d %s", binary, flag, code, out)
			}
		}
		if out, _, code := f.run(t, binary, nil, "", "--help"); code != 0 || !strings.Contains(out, "CNI_COMMAND") {
			t.Errorf("%s --help: %d %s", binary, code, out)
		}
		for _, tc := range []struct {
			name, command, conf string
			env                 []string
			code                uint
			msg                 string
		}{
			{"no netns", "ADD", `{}`, []string{"CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_PATH=/x"}, 4, "[CNI_NETNS] missing"},
			{"nothing for GC", "GC", `{}`, nil, 4, "[CNI_PATH] missing"},
			{
				"no name", "ADD", `{"cniVersion":"1.0.0"}`,
				[]string{"CNI_CONTAINERID=c", "CNI_NETNS=/n", "CNI_IFNAME=eth0", "CNI_PATH=/x"},
				7, "missing network name",
			},
			{
				"no JSON", "ADD", `{`,
				[]string{"CNI_CONTAINERID=c", "CNI_NETNS=/n", "CNI_IFNAME=eth0", "CNI_PATH=/x"},
				6,
				"error unmarshall network config",
			},
			{
				"version", "ADD", `{"cniVersion":"9.9.9","name":"x"}`,
				[]string{"CNI_CONTAINERID=c", "CNI_NETNS=/n", "CNI_IFNAME=eth0", "CNI_PATH=/x"},
				1, "incompatible CNI versions",
			},
			{
				"old CHECK", "CHECK", `{"cniVersion":"0.3.1","name":"x"}`,
				[]string{"CNI_CONTAINERID=c", "CNI_NETNS=/n", "CNI_IFNAME=eth0", "CNI_PATH=/x"},
				1,
				"config version does not allow CHECK",
			},
			{
				"old GC", "GC", `{"cniVersion":"1.0.0","name":"x"}`,
				[]string{"CNI_PATH=/x"},
				1,
				"config version does not allow GC",
			},
			{
				"old STATUS", "STATUS", `{"cniVersion":"1.0.0","name":"x"}`,
				[]string{"CNI_PATH=/x"},
				1,
				"config version does not allow STATUS",
			},
			{
				"container ID", "ADD", `{"cniVersion":"1.0.0","name":"x"}`,
				[]string{"CNI_CONTAINERID=../c", "CNI_NETNS=/n", "CNI_IFNAME=eth0", "CNI_PATH=/x"},
				4,
				"invalid characters in containerID",
			},
			{
				"interface name", "ADD", `{"cniVersion":"1.0.0","name":"x"}`,
				[]string{"CNI_CONTAINERID=c", "CNI_NETNS=/n", "CNI_IFNAME=a/b", "CNI_PATH=/x"},
				4,
				"interface name contains / or :",
			},
		} {
			out, _, code := f.run(t, binary, append(tc.env, "CNI_COMMAND="+tc.command), tc.conf)
			ce := &types.Error{}
			if err := json.Unmarshal([]byte(out), ce); err != nil || code != 1 || ce.Code != tc.code ||
				!strings.Contains(ce.Msg, tc.msg) {
				t.Errorf("%s, %s: exit %d, %s", binary, tc.name, code, out)
			}
		}
	}
}

// TestPassthru checks that the result is empty without prevResult, and that prevResult is passed on
// (behaviour G35-G37).
func TestPassthru(t *testing.T) {
	f := newFakes(t, node.Thin, nil, nil)
	env := []string{
		"CNI_CONTAINERID=c", "CNI_NETNS=/nonexistent", "CNI_IFNAME=eth0", "CNI_PATH=/x",
		"CNI_NETNS_OVERRIDE=TRUE",
	}
	out, _, code := f.run(t, "passthru", append(env, "CNI_COMMAND=ADD"),
		`{"cniVersion":"0.4.0","name":"x","type":"passthru"}`)
	var v map[string]any
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || v["cniVersion"] != "0.4.0" || v["ips"] != nil {
		t.Errorf("ADD: %d %s", code, out)
	}
	prev := `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.0.0.1/24","interface":0}]}`
	out, _, code = f.run(t, "passthru", append(env, "CNI_COMMAND=ADD"),
		`{"cniVersion":"1.0.0","name":"x","type":"passthru","prevResult":`+prev+`}`)
	if code != 0 || !strings.Contains(out, "10.0.0.1/24") {
		t.Errorf("ADD with prevResult: %d %s", code, out)
	}
	for _, command := range []string{"DEL", "CHECK"} {
		if out, _, code := f.run(t, "passthru", append(env, "CNI_COMMAND="+command),
			`{"cniVersion":"1.0.0","name":"x","type":"passthru"}`); code != 0 || out != "" {
			t.Errorf("%s: %d %s", command, code, out)
		}
	}
	if out, _, code := f.run(t, "passthru", append(env, "CNI_COMMAND=ADD"),
		`{"cniVersion":"0.2.0","name":"x"}`); code != 1 || !strings.Contains(out, "incompatible CNI versions") {
		t.Errorf("0.2.0: %d %s", code, out)
	}
}

// TestLogLines checks the lines that people parse: each is logged at its level and at no other (behaviour A29-A32,
// L1-L4, L7; multus-cni#1288).
func TestLogLines(t *testing.T) {
	for _, level := range []string{"", "verbose"} {
		t.Run("level "+level, func(t *testing.T) {
			f := newFakes(t, node.Thin, map[string]any{"logLevel": level}, nil)
			p := f.pod(t, "one")
			if _, err := f.Add(t, f.Conf(), p); err != nil {
				t.Fatal(err)
			}
			if err := f.Del(t, f.Conf(), p); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(f.Dir, "plugin.log"))
			if level == "" {
				if err == nil && len(b) > 0 {
					t.Errorf("logged by default: %s", b)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{
				`(?m)^\d{4}-\d\d-\d\dT\S+ \[verbose\] Add: default:p:uid-p:cluster\(cluster\):eth0 \{.*"10.244.0.2/24".*\}`,
				`(?m)^\S+ \[verbose\] Add: default:p:uid-p:default/one\(one\):net1 \{.*"10.1.0.2/24".*\}`,
				`(?m)^\S+ \[verbose\] Del: default:p:uid-p:one:net1 \{.*"fake-one".*\}`,
			} {
				if !regexp.MustCompile(want).Match(b) {
					t.Errorf("no line %s in\n%s", want, b)
				}
			}
			if info, err := os.Stat(filepath.Join(f.Dir, "plugin.log")); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("log file: %v, %v", info, err)
			}
		})
	}
}

// TestFailureEvents checks that a failed ADD is reported as an event of the pod with the message that the runtime gets.
// It is reported once even if ADD is repeated, for failures of the plan and of a delegate (behaviour O64;
// multus-cni#302, k8snetworkplumbingwg/helm-charts#2).
func TestFailureEvents(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newSite(t, kind, node.Options{Conf: map[string]any{"failureEvents": true}})
			s.api.CreateNetwork(t, s.ns, "bad", `{"cniVersion":"1.0.0","type":"macvlan","master":"nowhere0"}`, nil)
			for name, wanted := range map[string]string{"plan": "nope", "delegate": "bad"} {
				p := s.pod(t, name, map[string]string{networks: wanted}, false)
				var last error
				for range 3 {
					if _, last = s.Add(t, s.Conf(), p); last == nil {
						t.Fatal("ADD succeeded")
					}
					if err := s.Del(t, s.Conf(), p); err != nil {
						t.Error(err)
					}
				}
				var messages []string
				s.eventually(t, "the event", func() bool {
					messages = nil
					for _, e := range s.api.Events(t, s.ns, name) {
						if e.Reason == "FailedAddingInterface" {
							messages = append(messages, e.Message)
						}
					}
					return len(messages) > 0
				})
				if !strings.Contains(last.Error(), messages[0]) {
					t.Errorf("%s: the event has %q, the runtime got %q", name, messages[0], last)
				}
				if len(messages) > map[node.Kind]int{node.Thick: 1, node.Thin: 2}[kind] { // two in thin: the minute may be over
					t.Errorf("%s: %d events", name, len(messages))
				}
			}
		})
	}
}
