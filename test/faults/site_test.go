package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"multus/internal/fsx"
	hostnode "multus/internal/node"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

const (
	networksKey = "k8s.v1.cni.cncf.io/networks"
	statusKey   = "k8s.v1.cni.cncf.io/network-status"
	// passed is the capability with which a runtime passes the annotations of a pod.
	passed = "io.kubernetes.cri.pod-annotations"

	// delTries is how often the tests repeat a DEL before the pod counts as stuck.
	delTries = 3
	// waitTimeout bounds the wait for a condition.
	waitTimeout = 20 * time.Second
	// opLimit bounds one call of the plugin. A call that takes longer hangs.
	opLimit = 150 * time.Second
)

// variant is one set of networks.
type variant struct {
	name string
	// file and primary are the name and the content of the cluster network's file. %s is the ipam object.
	file, primary string
	// networks is the annotation of the pod, or "" for a plain pod.
	networks string
	// names are the names in the network status, in order.
	names []string
	// concurrency is attachConcurrency.
	concurrency int
}

// variants are a plain configuration, a list, host-local with moved routes, two networks, and two networks that are
// attached at the same time.
var variants = []variant{
	{"conf", "10-primary.conf", `{"cniVersion":"1.1.0","name":"cluster","type":"bridge","bridge":"cni0","isGateway":true,"ipam":%s}`, "", []string{"cluster"}, 0},
	{"conflist", "10-primary.conflist", primaryList, "", []string{"cluster"}, 0},
	{
		"host-local", "10-primary.conflist", primaryList,
		`[{"name":"plain","interface":"data0","default-route":["198.51.100.1"]}]`,
		[]string{"cluster", "default/plain"},
		0,
	},
	{
		"two networks", "10-primary.conflist", primaryList, `[{"name":"plain"},{"name":"list","mac":"02:00:00:00:01:01"}]`,
		[]string{"cluster", "default/plain", "default/list"},
		0,
	},
	{
		"at the same time", "10-primary.conflist", primaryList, `[{"name":"west"},{"name":"east"}]`,
		[]string{"cluster", "default/west", "default/east"},
		2,
	},
}

// two is the variant with two networks, one after the other.
var two = variants[3]

const primaryList = `{"cniVersion":"1.1.0","name":"cluster","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":%s},{"type":"portmap","capabilities":{"portMappings":true}}]}`

// eachKind runs a test for every kind of node, all at the same time. k is the index of the kind. A short run divides
// its cases by k.
func eachKind(t *testing.T, test func(t *testing.T, k int, kind node.Kind)) {
	t.Helper()
	for k, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			test(t, k, kind)
		})
	}
}

// site is a node with networks and one pod, which is attached and deleted again and again.
type site struct {
	*node.Node
	kind     node.Kind
	networks string // directory of network definitions
	variant  variant
	pod      *node.Pod
	conf     map[string]any
	// env is added to the plugin's environment.
	env []string
	// wrap is the command that starts the plugin, if it is not started directly.
	wrap []string
	// prev is the result of the last successful ADD.
	prev json.RawMessage
}

func newSite(t *testing.T, kind node.Kind, v variant, conf map[string]any) *site {
	t.Helper()
	return newSiteAt(t, node.Options{Kind: kind, Conf: conf}, v)
}

// newSiteAt creates a site with options of the node.
func newSiteAt(t *testing.T, o node.Options, v variant) *site {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireKernel(t, "bridge")
	s := &site{kind: o.Kind, variant: v, networks: filepath.Join(t.TempDir(), "networks")}
	check(t, os.MkdirAll(s.networks, 0o755))
	all := map[string]any{"cniVersion": "1.1.0", "attachConcurrency": v.concurrency, "checkNetworks": "all"}
	maps.Copy(all, o.Conf)
	o.NetworksDir, o.Conf, o.BinDir = s.networks, all, binDir
	s.Node = node.New(t, o)
	check(t, os.Remove(filepath.Join(s.Dir, "net.d", "10-primary.conflist")))
	file := filepath.Join(s.Dir, "net.d", v.file)
	check(t, os.WriteFile(file, fmt.Appendf(nil, v.primary, s.ipam("10.244.0.0/16")), 0o644))
	check(t, json.Unmarshal(s.Conf(), &s.conf))
	s.conf["clusterNetwork"] = file
	s.define(t, "plain", fmt.Sprintf(`{"cniVersion":"1.1.0","type":"bridge","bridge":"br1","isGateway":true,"ipam":%s}`,
		s.ipam("198.51.100.0/24")))
	s.define(t, "list", fmt.Sprintf(
		`{"cniVersion":"1.1.0","name":"list","plugins":[{"type":"bridge","bridge":"br2","isGateway":true,"ipam":%s},{"type":"tuning","capabilities":{"mac":true}}]}`, s.ipam("203.0.113.0/24")))
	for i, name := range []string{"west", "east"} { // without routes, so that they have nothing in common
		s.define(t, name, fmt.Sprintf(
			`{"cniVersion":"1.1.0","type":"bridge","bridge":"br-%s","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"192.0.%d.0/24"}]]}}`, name, s.Reservations(), 2+i))
	}
	s.newPod(t)
	s.warm(t)
	return s
}

// warm creates the node's bridges. A reference plugin that is killed after it created a bridge and before it set the
// address leaves a bridge that no later ADD can use ("could not set bridge's mac"). These tests do not cover that.
func (s *site) warm(t *testing.T) {
	t.Helper()
	annotations := s.pod.Annotations
	s.pod.Annotations = map[string]string{networksKey: "plain,list,west,east"}
	for _, verb := range []string{"ADD", "DEL"} {
		if err := s.call(t, verb); err != nil {
			t.Fatalf("%s: %v\n%s", verb, err, s.DaemonLog())
		}
	}
	s.pod.Annotations, s.prev = annotations, nil
}

func (s *site) ipam(subnet string) string {
	return fmt.Sprintf(`{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}`,
		s.Reservations(), subnet)
}

// define writes a network definition.
func (s *site) define(t *testing.T, name, config string) {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"name": name, "namespace": "default"},
		"spec":     map[string]any{"config": config},
	})
	check(t, err)
	check(t, os.WriteFile(filepath.Join(s.networks, name+".json"), b, 0o644))
}

// script defines a network whose plugin is a shell script. In body, "$fake" is the fake plugin and "$dir" the directory
// of the node.
func (s *site) script(t *testing.T, name, body string) {
	t.Helper()
	s.define(t, name, s.scripted(t, name, body))
}

// scripted installs a plugin that is a shell script, and returns the configuration of its network.
func (s *site) scripted(t *testing.T, name, body string) string {
	t.Helper()
	text := fmt.Sprintf("#!/bin/bash\nfake=%q dir=%q\n%s\nexec \"$fake\"\n", filepath.Join(s.BinDirs[0], "fakeplugin"),
		s.Dir, body)
	check(t, os.WriteFile(filepath.Join(s.Dir, "plugins", "script-"+name), []byte(text), 0o755))
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":"script-%s"}`, name, name)
}

// flag creates or removes a file whose existence a script checks.
func (s *site) flag(t *testing.T, name string, set bool) {
	t.Helper()
	path := filepath.Join(s.Dir, name)
	if set {
		check(t, os.WriteFile(path, nil, 0o644))
		return
	}
	check(t, os.Remove(path))
}

// fake defines a network of a fake plugin with this behaviour.
func (s *site) fake(t *testing.T, name string, behaviour map[string]any) {
	t.Helper()
	f := s.Fake(t, "fake-"+name)
	maps.Copy(f, behaviour)
	b, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": name, "type": "fake-" + name, "fake": f})
	check(t, err)
	s.define(t, name, string(b))
}

// newPod creates another pod of the site.
func (s *site) newPod(t *testing.T) {
	t.Helper()
	s.pod = s.makePod(t, "web")
	s.prev = nil
}

func (s *site) makePod(t *testing.T, name string) *node.Pod {
	t.Helper()
	annotations := map[string]string{}
	if s.variant.networks != "" {
		annotations[networksKey] = s.variant.networks
	}
	return s.NewPod(t, "default", name, name+"-uid", annotations)
}

// process is one call of the plugin.
type process struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	timer          *time.Timer
}

// start starts the plugin as a runtime does, in the node's namespace.
func (s *site) start(t *testing.T, p *node.Pod, command string, env ...string) *process {
	t.Helper()
	conf := maps.Clone(s.conf)
	if p.Annotations != nil {
		conf["runtimeConfig"] = map[string]any{passed: p.Annotations}
	}
	if s.prev != nil && (command == "DEL" || command == "CHECK") && p == s.pod {
		conf["prevResult"] = s.prev
	}
	return s.startWith(t, p, command, conf, env...)
}

func (s *site) startWith(t *testing.T, p *node.Pod, verb string, conf map[string]any, env ...string) *process {
	t.Helper()
	stdin, err := json.Marshal(conf)
	check(t, err)
	name := map[node.Kind]string{node.Thin: "multus", node.Thick: "multus-shim"}[s.kind]
	command := append(slices.Clone(s.wrap), filepath.Join(s.BinDirs[0], name))
	c := &process{Cmd: exec.Command(command[0], command[1:]...)}
	c.Env = append(append(os.Environ(), s.env...), "CNI_COMMAND="+verb, "CNI_PATH="+strings.Join(s.BinDirs, ":"))
	if verb != "GC" {
		c.Env = append(c.Env, "CNI_CONTAINERID="+p.ContainerID, "CNI_NETNS="+p.Path, "CNI_IFNAME=eth0", fmt.Sprintf(
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s",
			p.Namespace, p.Name, p.ContainerID, p.UID))
	}
	c.Env, c.Stdin = append(c.Env, env...), bytes.NewReader(stdin)
	s.begin(t, c)
	return c
}

// begin starts a process in the node's namespace. It is killed if it does not end within opLimit.
func (s *site) begin(t *testing.T, c *process) {
	t.Helper()
	// On a busy machine, another process that is being started may have the pipes for some time.
	c.Stdout, c.Stderr, c.WaitDelay = &c.stdout, &c.stderr, waitTimeout
	var err error
	s.Do(t, func() { err = c.Start() })
	check(t, err)
	c.timer = time.AfterFunc(opLimit, func() { _ = c.Process.Kill() })
}

// errKilled is returned for a plugin that was killed by a signal.
var errKilled = errors.New("killed")

// end waits until the plugin has ended. It returns nil, the CNI error, or errKilled.
func (p *process) end() error {
	err := p.Wait()
	p.timer.Stop()
	if err == nil {
		return nil
	}
	ce := &types.Error{}
	if json.Unmarshal(p.stdout.Bytes(), ce) == nil && ce.Msg != "" {
		return ce
	}
	if p.ProcessState.ExitCode() < 0 {
		return errKilled
	}
	return fmt.Errorf("%w: %s %s", err, p.stdout.Bytes(), p.stderr.Bytes())
}

// call runs a verb for the site's pod and keeps the result of an ADD.
func (s *site) call(t *testing.T, command string, env ...string) error {
	t.Helper()
	p := s.start(t, s.pod, command, env...)
	err := p.end()
	if err == nil && command == "ADD" {
		s.prev = bytes.Clone(p.stdout.Bytes())
	}
	return err
}

// gc runs GC with these pods as the valid ones.
func (s *site) gc(t *testing.T, env []string, valid ...*node.Pod) error {
	t.Helper()
	return s.startGC(t, env, valid...).end()
}

func (s *site) startGC(t *testing.T, env []string, valid ...*node.Pod) *process {
	t.Helper()
	conf := maps.Clone(s.conf)
	list := []types.GCAttachment{}
	for _, p := range valid {
		list = append(list, types.GCAttachment{ContainerID: p.ContainerID, IfName: "eth0"})
	}
	conf["cni.dev/valid-attachments"] = list
	return s.startWith(t, &node.Pod{}, "GC", conf, env...)
}

// away hides all definitions. The returned function makes them visible again.
func (s *site) away(t *testing.T) func() {
	t.Helper()
	aside := s.networks + ".away"
	check(t, os.MkdirAll(aside, 0o755))
	move := func(from, to string) {
		files, err := filepath.Glob(filepath.Join(from, "*.json"))
		check(t, err)
		for _, f := range files {
			check(t, os.Rename(f, filepath.Join(to, filepath.Base(f))))
		}
	}
	move(s.networks, aside)
	return func() { move(aside, s.networks) }
}

// recover does what a runtime does after a failed ADD, or for a pod that ends: it sends DEL, several times if needed.
// Then nothing may be left, and the pod's next ADD and DEL must succeed. With alone, everything is hidden that a DEL
// does not need if it has the ledger.
func (s *site) recover(t *testing.T, r *row, alone bool, what string) {
	t.Helper()
	r.try()
	back := func() {}
	if alone {
		back = s.away(t)
	}
	s.del(t, r, what)
	back()
	s.clean(t, r, what)
	if err := s.call(t, "ADD"); err != nil {
		r.bad(t, &r.stuck, 1, "%s: next ADD: %v", what, err)
	} else {
		s.checkStatus(t, r, what)
	}
	s.del(t, r, what+", again")
	s.clean(t, r, what+", again")
}

// del repeats DEL until it succeeds. A pod whose DEL does not succeed is counted as stuck.
func (s *site) del(t *testing.T, r *row, what string) {
	t.Helper()
	var err error
	for range delTries {
		if err = s.call(t, "DEL"); err == nil {
			s.prev = nil
			return
		}
	}
	r.bad(t, &r.stuck, 1, "%s: DEL: %v", what, err)
}

// clean counts what is left of the site's pod. If there are findings, it resets the site.
func (s *site) clean(t *testing.T, r *row, what string) {
	t.Helper()
	before := r.sum()
	if left := interfaces(t, s.pod.NS); len(left) > 0 {
		r.bad(t, &r.interfaces, len(left), "%s: interfaces in the pod: %v", what, left)
	}
	veths := s.veths(t)
	for end := time.Now().Add(waitTimeout); len(veths) > 0 && time.Now().Before(end); veths = s.veths(t) {
		time.Sleep(10 * time.Millisecond) // the kernel removes a namespace asynchronously
	}
	if len(veths) > 0 {
		r.bad(t, &r.interfaces, len(veths), "%s: interfaces on the node: %v", what, veths)
	}
	for _, path := range s.Left(t) {
		switch {
		case strings.HasPrefix(path, "ipam/"):
			r.bad(t, &r.addresses, 1, "%s: address reserved: %s", what, path)
		case strings.HasPrefix(filepath.Base(path), ".multus-tmp-"): // removed when they are old, see TestSwept
		default:
			r.bad(t, &r.records, 1, "%s: left: %s", what, path)
		}
	}
	if l, err := fsx.TryAcquire(hostnode.LockFile, s.pod.ContainerID); err != nil {
		r.bad(t, &r.locks, 1, "%s: %v", what, err)
	} else {
		check(t, l.Close())
	}
	if r.sum() != before {
		s.reset(t)
	}
}

// veths returns the node's ends of the pods' interfaces.
func (s *site) veths(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(interfaces(t, s.NS), func(name string) bool { return !strings.HasPrefix(name, "veth") })
}

// reset removes what a try has left.
func (s *site) reset(t *testing.T) {
	t.Helper()
	check(t, testnet.Delete(s.pod.Path))
	check(t, os.RemoveAll(s.State()))
	check(t, os.RemoveAll(s.Reservations()))
	s.newPod(t)
}

// removeNetworks removes the recorded networks, so that the next ADD is the first one of its networks on the node and
// passes more points.
func (s *site) removeNetworks(t *testing.T) {
	t.Helper()
	check(t, os.RemoveAll(s.State()+"-networks"))
}

// checkStatus compares the network status with the result of the last ADD. It waits, because the daemon may be
// starting.
func (s *site) checkStatus(t *testing.T, r *row, what string) {
	t.Helper()
	res := &current.Result{}
	if err := json.Unmarshal(s.prev, res); err != nil || len(res.IPs) == 0 {
		r.bad(t, &r.wrong, 1, "%s: result %s: %v", what, s.prev, err)
		return
	}
	want := s.variant.names
	var got []string
	var ip string
	for end := time.Now().Add(waitTimeout); ; time.Sleep(10 * time.Millisecond) {
		got, ip = s.status()
		if slices.Equal(got, want) && ip == res.IPs[0].Address.IP.String() {
			return
		}
		if time.Now().After(end) {
			r.bad(t, &r.wrong, 1, "%s: network-status has %v and %s, want %v and %s", what, got, ip, want, res.IPs[0].Address.IP)
			return
		}
	}
}

// checkStatusNow is like checkStatus, for a network status that must be right already.
func (s *site) checkStatusNow(t *testing.T, r *row, what string) {
	t.Helper()
	res := &current.Result{}
	check(t, json.Unmarshal(s.prev, res))
	if got, ip := s.status(); !slices.Equal(got, s.variant.names) || ip != res.IPs[0].Address.IP.String() {
		r.bad(t, &r.wrong, 1, "%s: network-status has %v and %s, want %v and %s", what, got, ip, s.variant.names,
			res.IPs[0].Address.IP)
	}
}

// status returns the names in the network status and the address of the first one.
func (s *site) status() (names []string, ip string) {
	dir := filepath.Join(s.networks, "status")
	if s.kind == node.Thick {
		dir = filepath.Join(s.SocketDir(), "status")
	}
	b, err := os.ReadFile(filepath.Join(dir, s.pod.Namespace+"_"+s.pod.Name+".json"))
	if err != nil {
		return nil, ""
	}
	annotations := map[string]string{}
	var list []struct {
		Name string   `json:"name"`
		IPs  []string `json:"ips"`
	}
	if json.Unmarshal(b, &annotations) != nil || json.Unmarshal([]byte(annotations[statusKey]), &list) != nil {
		return nil, ""
	}
	for _, e := range list {
		names = append(names, e.Name)
	}
	if len(list) > 0 && len(list[0].IPs) > 0 {
		ip = list[0].IPs[0]
	}
	return names, ip
}

// interfaces returns the interfaces of a namespace except lo. It returns none if the namespace is gone.
func interfaces(t *testing.T, ns *testnet.NS) []string {
	t.Helper()
	if _, err := os.Stat(ns.Path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return testnet.Interfaces(t, ns)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
