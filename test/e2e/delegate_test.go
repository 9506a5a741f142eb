package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// bridgeResource marks a definition as one of a resource, as bridge-marker does. The built-in comparison refuses it for
// a pod without a device, so that /delegate alone attaches it.
var bridgeResource = map[string]string{"k8s.v1.cni.cncf.io/resourceName": "bridge.network.kubevirt.io/br2"}

// delegation is a request of multus-dynamic-networks-controller.
type delegation struct {
	command, ifName, config, attributes string
}

// delegated is the answer.
type delegated struct {
	code int
	body string
	err  error
}

// post sends a request as the client of multus-dynamic-networks-controller does (pkg/multuscni of the controller, and
// pkg/server/api of today's Multus).
func (s *site) post(ctx context.Context, p *node.Pod, d delegation) (got delegated) {
	body := map[string]any{
		"env": map[string]string{
			"CNI_COMMAND": d.command, "CNI_CONTAINERID": p.ContainerID, "CNI_NETNS": p.Path, "CNI_IFNAME": d.ifName,
			"CNI_ARGS": fmt.Sprintf("K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s", p.Namespace, p.Name, p.UID),
		},
		"config": []byte(d.config),
	}
	if d.attributes != "" {
		body["interfaceAttributes"] = json.RawMessage(d.attributes)
	}
	b, err := json.Marshal(body)
	if err != nil {
		return delegated{err: err}
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(s.SocketDir(), "multus.sock"))
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://dummy/delegate", bytes.NewReader(b))
	if err != nil {
		return delegated{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return delegated{err: err}
	}
	answer, err := io.ReadAll(resp.Body)
	return delegated{resp.StatusCode, string(answer), errors.Join(err, resp.Body.Close())}
}

// delegate sends a request while the runtime calls STATUS, as in plugged.
func (s *site) delegate(t *testing.T, p *node.Pod, d delegation) delegated {
	t.Helper()
	return s.awaited(t, s.posted(t, p, d))
}

// posted sends a request in the background.
func (s *site) posted(t *testing.T, p *node.Pod, d delegation) <-chan delegated {
	t.Helper()
	ended := make(chan delegated, 1)
	ctx := t.Context()
	go func() { ended <- s.post(ctx, p, d) }()
	return ended
}

// awaited returns an answer, and calls STATUS meanwhile.
func (s *site) awaited(t *testing.T, ended <-chan delegated) (got delegated) {
	t.Helper()
	s.eventually(t, "the answer", func() bool {
		if err := s.Status(t, s.Conf()); err != nil {
			t.Fatalf("STATUS: %v", err)
		}
		select {
		case got = <-ended:
			return true
		default:
			return false
		}
	})
	if got.err != nil {
		t.Fatal(got.err)
	}
	return got
}

// result returns the result of an ADD.
func (d *delegated) result(t *testing.T) *current.Result {
	t.Helper()
	var answer struct{ Result *current.Result }
	if err := json.Unmarshal([]byte(d.body), &answer); err != nil || d.code != http.StatusOK || answer.Result == nil ||
		answer.Result.CNIVersion != "1.1.0" {
		t.Fatalf("%d, %s", d.code, d.body)
	}
	return answer.Result
}

// ok checks that a request other than ADD succeeded.
func (d *delegated) ok(t *testing.T) {
	t.Helper()
	if d.code != http.StatusOK || d.body != "" {
		t.Errorf("%d, %s", d.code, d.body)
	}
}

// fails checks an error in the form of today's daemon.
func (d *delegated) fails(t *testing.T, p *node.Pod, words ...string) {
	t.Helper()
	if d.code != http.StatusBadRequest || !strings.HasPrefix(d.body, fmt.Sprintf("ContainerID:%q Netns:%q IfName:",
		p.ContainerID, p.Path)) || !strings.HasSuffix(d.body, "\n") {
		t.Errorf("%d, %s", d.code, d.body)
	}
	names(t, d.body, append(words, `Path:"" ERRORED: `)...)
}

// newDelegateSite returns a site with a running pod, and the definition marked that only /delegate attaches.
func newDelegateSite(t *testing.T, annotation string) (*site, *node.Pod, string) {
	t.Helper()
	// The pod's ADD needs no daemon, so that STATUS alone starts a runner.
	conf := map[string]any{"cniVersion": "1.1.0", "plainPods": "local"}
	s := newSite(t, node.Thick, node.Options{Conf: conf, DaemonConf: hotPlugConf})
	marked := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"marked","plugins":[{"type":"bridge","bridge":"br2",`+
		`"capabilities":{"ips":true},"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.9.0.0/24"}]]}},`+
		`{"type":"tuning","capabilities":{"mac":true}}]}`, s.Reservations())
	s.api.CreateNetwork(t, s.ns, "marked", marked, bridgeResource)
	p := s.pod(t, "web", nil, true)
	if _, err := s.Add(t, s.Conf(), p); err != nil {
		t.Fatal(err)
	}
	s.statusText(t, "web")
	s.api.Annotate(t, s.ns, "web", networks, annotation)
	return s, p, marked
}

// TestDelegate plays the client of multus-dynamic-networks-controller: networks of a running pod are attached and
// deleted by POST /delegate (behaviour R20-R24), which the runner executes. What it attaches is in the record, so that
// the pod's DEL frees it, and is to the built-in comparison what the annotation requests.
func TestDelegate(t *testing.T) {
	s, p, marked := newDelegateSite(t, `[{"name":"marked","interface":"net1","ips":["10.9.0.77/24"],"mac":"02:00:00:00:09:01"}]`)
	add := delegation{"ADD", "net1", marked, `{"ips":["10.9.0.77/24"],"mac":"02:00:00:00:09:01","cni-args":{}}`}
	first := s.delegate(t, p, add)
	result := first.result(t)
	if got := result.IPs[0].Address.String(); got != "10.9.0.77/24" {
		t.Errorf("address %s", got)
	}
	again := s.delegate(t, p, add)
	if d := cmp.Diff(first.body, again.body); d != "" {
		t.Errorf("ADD again (-first +again):\n%s", d)
	}
	check, del := delegation{"CHECK", "net1", marked, ""}, delegation{"DEL", "net1", marked, ""}
	got := s.delegate(t, p, check)
	got.ok(t)
	s.plugged(t, p, "what /delegate attached", []string{"eth0", "net1"}) // the comparison writes the network status
	got = s.delegate(t, p, delegation{"ADD", "net1", strings.ReplaceAll(marked, "10.9", "10.10"), ""})
	if got.result(t).IPs[0].Address.String() != "10.9.0.77/24" {
		t.Errorf("another configuration of the same network: %s", got.body)
	}
	got = s.delegate(t, p, delegation{"ADD", "net7", marked, ""})
	got.fails(t, p, "error configuring pod ["+s.ns+"/web] networking: ", "requests no network with interface net7")
	got = s.delegate(t, p, delegation{"DEL", "eth0", s.Bridge("10.244.0.0/24"), ""})
	got.fails(t, p, "is that of the node's configuration")
	got = s.delegate(t, p, delegation{"GC", "net1", marked, ""})
	got.fails(t, p, "unknown cmd type: GC")

	s.api.Annotate(t, s.ns, "web", networks, "")
	got = s.delegate(t, p, del)
	got.ok(t)
	got = s.delegate(t, p, del)
	got.ok(t)
	s.plugged(t, p, "nothing", []string{"eth0"})
	got = s.delegate(t, p, check)
	got.fails(t, p, "is not attached")

	s.api.Annotate(t, s.ns, "web", networks, `marked@net1, mac@data0`)
	got = s.delegate(t, p, delegation{"ADD", "net1", marked, ""})
	got.result(t)
	s.plugged(t, p, "both ways together", []string{"data0", "eth0", "net1"})
	s.delete(t, p)
}

// TestDelegateUnserved checks the answers without hotPlug and without a runner, which name what to enable, and that
// nothing is changed then (behaviour R23).
func TestDelegateUnserved(t *testing.T) {
	t.Parallel() // the test waits most of the time
	s, p, marked := newDelegateSite(t, "marked@net1")
	add := delegation{"ADD", "net1", marked, ""}
	var got delegated
	late := s.posted(t, p, add) // the runtime does not call STATUS
	off := *s
	off.Node = node.New(t, node.Options{Kind: node.Thick, Kubeconfig: s.api.Kubeconfig(t), API: s.api.Addr()})
	refused := off.post(t.Context(), p, add)
	if names(t, refused.body, "deploy/components/hotplug"); refused.code != http.StatusNotFound {
		t.Errorf("without hotPlug: %+v", refused)
	}
	select {
	case got = <-late:
	case <-time.After(waitTimeout + 10*time.Second):
		t.Fatal("no answer")
	}
	got.fails(t, p, "no runner on this node took the request", "docs/hot-plug.md")
	if d := cmp.Diff([]string{"eth0"}, testnet.Interfaces(t, p.NS)); d != "" {
		t.Errorf("interfaces (-want +got):\n%s", d)
	}
	got = s.delegate(t, p, add)
	got.result(t)
	s.delete(t, p)
}

// TestDelegateKilled checks that a request is finished if its runner is killed while the delegate runs, by the next
// runner (behaviour R23).
func TestDelegateKilled(t *testing.T) {
	s, p, _ := newDelegateSite(t, "slow@net1")
	m := s.Fake(t, "slow")
	meeting := t.TempDir() // the ADD waits for another file
	m["meet"] = map[string]any{"ADD": map[string]any{"dir": meeting, "size": 2}}
	m["result"] = json.RawMessage(`{"cniVersion":"1.0.0","interfaces":[{"name":"{ifname}","sandbox":"{netns}"}]}`)
	slow := string(edited(t, []byte(`{"cniVersion":"1.0.0","name":"slow","type":"slow"}`), map[string]any{"fake": m}))
	s.api.CreateNetwork(t, s.ns, "slow", slow, bridgeResource)
	late := s.posted(t, p, delegation{"ADD", "net1", slow, ""})
	s.eventually(t, "the ADD", func() bool {
		if err := s.Status(t, s.Conf()); err != nil {
			t.Fatalf("STATUS: %v", err)
		}
		return len(s.Calls(t)) > 0
	})
	if err := syscall.Kill(parentOf(t, filepath.Join(s.Dir, "plugins", "slow")), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(meeting, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := s.awaited(t, late)
	got.result(t)
	var calls []string
	for _, c := range s.Calls(t) {
		calls = append(calls, c.Command)
	}
	if d := cmp.Diff([]string{"ADD", "DEL", "ADD"}, calls); d != "" {
		t.Errorf("calls (-want +got):\n%s\n%s", d, s.DaemonLog())
	}
	s.delete(t, p)
}

// parentOf returns the process that has started a program.
func parentOf(t *testing.T, program string) int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if exe, err := os.Readlink(link); err != nil || exe != program {
			continue
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(link), "status"))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), "\nPPid:")
		var pid int
		if _, err := fmt.Sscan(rest, &pid); err != nil || pid <= 1 {
			t.Fatalf("%s: parent %d, %v", program, pid, err)
		}
		return pid
	}
	t.Fatalf("%s does not run", program)
	return 0
}
