package e2e

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"multus/internal/testutil/node"
)

// agent is a multus-daemon with a configuration file of the test.
type agent struct {
	cmd    *exec.Cmd
	log    string
	exited chan error
}

// startAgent runs multus-daemon in the node's network namespace.
func startAgent(t *testing.T, n *node.Node, env []string, args ...string) *agent {
	t.Helper()
	a := &agent{
		cmd: exec.Command(filepath.Join(n.BinDirs[0], "multus-daemon"), args...),
		log: filepath.Join(t.TempDir(), "stderr"), exited: make(chan error, 1),
	}
	f, err := os.Create(a.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a.cmd.Stdout, a.cmd.Stderr = f, f
	a.cmd.Env = append(os.Environ(), env...)
	n.Do(t, func() { err = a.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	go func() { a.exited <- a.cmd.Wait() }()
	t.Cleanup(func() {
		_ = a.cmd.Process.Kill()
		<-a.exited
	})
	return a
}

// code waits until the daemon has ended and returns its exit code.
func (a *agent) code(t *testing.T) int {
	t.Helper()
	select {
	case err := <-a.exited:
		a.exited <- err
		return a.cmd.ProcessState.ExitCode()
	case <-time.After(waitTimeout):
		t.Fatalf("the daemon does not end\n%s", a.output(t))
		return -1
	}
}

func (a *agent) running() bool {
	select {
	case err := <-a.exited:
		a.exited <- err
		return false
	default:
		return true
	}
}

func (a *agent) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := a.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

func (a *agent) output(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(a.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// serves waits until the socket accepts a connection.
func (a *agent) serves(t *testing.T, socket string) {
	t.Helper()
	for end := time.Now().Add(waitTimeout); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
			return
		}
		if !a.running() || time.Now().After(end) {
			t.Fatalf("no process listens: %v\n%s", err, a.output(t))
		}
	}
}

// agentConf writes the configuration of a daemon without Kubernetes that writes the node's CNI configuration file. over
// is merged over it.
func agentConf(t *testing.T, n *node.Node, over map[string]any) (file string) {
	t.Helper()
	conf := map[string]any{
		"cniVersion": "1.0.0", "socketDir": n.SocketDir(), "daemonSocketDir": n.SocketDir(), "networksDir": t.TempDir(),
		"multusAutoconfigDir": filepath.Join(n.Dir, "net.d"), "cniConfigDir": filepath.Join(n.Dir, "etc"),
		"cniDir": n.State(), "binDir": n.BinDirs[1],
	}
	for k, v := range over {
		if v == nil {
			delete(conf, k)
		} else {
			conf[k] = v
		}
	}
	b, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "daemon-config.json")
	if err := errors.Join(os.WriteFile(file, b, 0o600), os.MkdirAll(filepath.Join(n.Dir, "etc"), 0o755)); err != nil {
		t.Fatal(err)
	}
	return file
}

// edited returns a configuration with some members replaced. A nil value removes a member.
func edited(t *testing.T, conf []byte, over map[string]any) []byte {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal(conf, &m); err != nil {
		t.Fatal(err)
	}
	for k, v := range over {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// names checks that a string contains all of want.
func names(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in: %s", w, text)
		}
	}
}
