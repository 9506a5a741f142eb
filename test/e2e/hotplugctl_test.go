package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/testutil/node"
)

// ctl is multusctl on the node of a site, with the credentials of an administrator.
type ctl struct {
	*site
	kubeconfig, conf string
}

// run runs a command. It returns whether the exit code was 0, and the output.
func (c *ctl) run(t *testing.T, args ...string) (ok bool, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(node.Binaries(t), "multusctl"),
		append(args, "--kubeconfig", c.kubeconfig)...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err := cmd.Run()
	return err == nil, b.String()
}

// explained checks what explain --running prints. The command runs in the network namespace of the API server. It
// therefore reports that the masters of the node are missing, and the exit code is not checked.
func (c *ctl) explained(t *testing.T, want string) {
	t.Helper()
	if _, out := c.run(t, "explain", "pod", c.ns+"/web", "--running", "--config", c.conf); !strings.Contains(out, want) {
		t.Errorf("explain: no %q in\n%s", want, out)
	}
}

// changed runs attach pod or detach pod, while the runtime calls STATUS as in plugged.
func (c *ctl) changed(t *testing.T, p *node.Pod, interfaces []string, args ...string) {
	t.Helper()
	type result struct {
		ok  bool
		out string
	}
	ended := make(chan result, 1)
	go func() {
		ok, out := c.run(t, append(args[:2:2], append([]string{c.ns + "/web", "--network"}, args[2:]...)...)...)
		ended <- result{ok, out}
	}()
	c.plugged(t, p, strings.Join(args, " "), interfaces)
	if r := <-ended; !r.ok || !strings.Contains(r.out, " is "+args[0]+"ed\n") {
		t.Errorf("%s: %v\n%s", args, r.ok, r.out)
	}
}

// TestHotPlugCommands checks that explain --running shows what the runner then does, that attach pod and detach pod
// change a running pod, and that attach pod reports the daemon's event about a failure.
func TestHotPlugCommands(t *testing.T) {
	s := newSite(t, node.Thick, node.Options{Conf: map[string]any{"cniVersion": "1.1.0"}, DaemonConf: hotPlugConf})
	c := &ctl{site: s, kubeconfig: s.api.Kubeconfig(t), conf: filepath.Join(t.TempDir(), "00-multus.conf")}
	if err := os.WriteFile(c.conf, s.Conf(), 0o600); err != nil {
		t.Fatal(err)
	}
	p := s.pod(t, "web", nil, true)
	if _, err := s.Add(t, s.Conf(), p); err != nil {
		t.Fatal(err)
	}
	s.statusText(t, "web")
	c.explained(t, "nothing to change")
	if ok, out := c.run(t, "attach", "pod", s.ns+"/web", "--network", "mac", "--no-wait"); !ok {
		t.Fatal(out)
	}
	c.explained(t, "would be added: net1: "+s.ns+"/mac")
	c.changed(t, p, []string{"data0", "eth0", "net1"}, "attach", "pod", "br", "--interface", "data0")
	c.explained(t, "nothing to change")
	c.changed(t, p, []string{"data0", "eth0"}, "detach", "pod", "mac")

	s.api.CreateNetwork(t, s.ns, "bad", `{"cniVersion":"1.0.0","type":"macvlan","master":"nowhere0"}`, nil)
	ended := make(chan string, 1)
	go func() {
		_, out := c.run(t, "attach", "pod", s.ns+"/web", "--network", "bad")
		ended <- out
	}()
	var out string
	s.eventually(t, "the end of attach pod", func() bool {
		if err := s.Status(t, s.Conf()); err != nil {
			t.Fatalf("STATUS: %v", err)
		}
		select {
		case out = <-ended:
			return true
		default:
			return false
		}
	})
	for _, want := range []string{"error: network " + s.ns + "/bad of pod", "is not attached: ", "nowhere0", "back\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	s.delete(t, p)
}
