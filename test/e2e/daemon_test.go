package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/testutil/node"
	wirev1 "multus/wire/v1"
)

// TestDaemonCommandLine checks that the daemon accepts today's command line, with one dash or two. If it cannot run, it
// reports the reason and exits with an error (behaviour A67, F1, F2, F6).
func TestDaemonCommandLine(t *testing.T) {
	n := node.New(t, node.Options{Kind: node.Thin})
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "daemon-config.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, flag := range []string{"-version", "--version"} {
		a := startAgent(t, n, nil, flag)
		if code := a.code(t); code != 0 { // F1: today's daemon exits with 4
			t.Errorf("%s: exit %d", flag, code)
		}
		names(t, a.output(t), "multus-daemon: version:", "commit:", "date:")
	}
	for _, tc := range []struct {
		name string
		args []string
		env  []string
		want []string
	}{
		{
			"no file",
			[]string{"-config", "/nonexistent/daemon.json"},
			nil,
			[]string{"read the daemon's configuration", "/nonexistent/daemon.json"},
		},
		{
			"no JSON",
			[]string{"-config", write("{")},
			nil,
			[]string{"failed to unmarshall the daemon configuration", "unexpected end of JSON input"},
		},
		{
			"wrong type",
			[]string{"--config", write(`{"metricsPort":"x"}`)},
			nil,
			[]string{"failed to unmarshall the daemon configuration", "metricsPort"},
		},
		{
			"connection limit",
			[]string{"--config", write(`{"connectionLimit":0}`)},
			nil,
			[]string{"connection limit must be greater than 0, got 0"},
		},
		{"log level", []string{"--config", write(`{"logLevel":"loud"}`)}, nil, []string{"cannot set logging level to loud"}},
		{"no cluster", []string{"--config", write(`{}`)}, nil, []string{"--kubeconfig", "networksDir"}},
		{
			"no token",
			[]string{"--config", write(`{}`)},
			[]string{"KUBERNETES_SERVICE_HOST=192.0.2.1", "KUBERNETES_SERVICE_PORT=443"},
			[]string{"in-cluster", "token"},
		},
		{
			"kubeconfig",
			[]string{"--config", write(`{}`), "--kubeconfig", "/nonexistent/kubeconfig"},
			nil,
			[]string{"/nonexistent/kubeconfig"},
		},
		{"unknown flag", []string{"--multus-conf-file=auto"}, nil, []string{"unknown flag: --multus-conf-file"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := startAgent(t, n, tc.env, tc.args...)
			if code := a.code(t); code != 1 {
				t.Errorf("exit %d", code)
			}
			names(t, a.output(t), tc.want...)
		})
	}
}

// TestDaemonSocket checks that the daemon replaces only its socket and keeps other files in the directory. File modes
// and the peer's UID keep other users out (behaviour F4, F5, E2).
func TestDaemonSocket(t *testing.T) {
	n := node.New(t, node.Options{Kind: node.Thin})
	dir := filepath.Join(n.Dir, "shared") // does not exist yet: the daemon creates it with mode 0700
	socket := filepath.Join(dir, "multus.sock")
	file := agentConf(t, n, map[string]any{"socketDir": dir, "multusAutoconfigDir": nil})
	first := startAgent(t, n, nil, "run", "--config", file)
	first.serves(t, socket)
	for path, want := range map[string]os.FileMode{dir: 0o700, socket: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %v", path, info.Mode(), err, want)
		}
	}
	other := filepath.Join(dir, "other", "file")
	if err := os.MkdirAll(filepath.Dir(other), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, []byte("of another tool"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	// A killed daemon leaves its socket. The next daemon replaces it.
	first.signal(t, syscall.SIGKILL)
	first.code(t)
	second := startAgent(t, n, nil, "run", "--config", file)
	second.serves(t, socket)
	after, err := os.Stat(socket)
	if err != nil || os.SameFile(before, after) {
		t.Errorf("the socket was not replaced: %v", err)
	}
	if b, err := os.ReadFile(other); err != nil || string(b) != "of another tool" {
		t.Errorf("the other tool's file: %q, %v", b, err)
	}
	entries, err := filepath.Glob(socket + "*")
	if err != nil || !slices.Equal(entries, []string{socket, socket + ".lock"}) {
		t.Errorf("left beside the socket: %v, %v", entries, err)
	}
	// Even if every user can open the socket, the daemon answers only root.
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Run("only root", func(t *testing.T) { onlyRoot(t, socket) })
}

// onlyRoot sends a request as the current user and one as another user.
func onlyRoot(t *testing.T, socket string) {
	t.Helper()
	// The parent directories of the socket, and of t.TempDir, are closed to other users. So link the socket into a
	// directory that every user can enter.
	dir, err := os.MkdirTemp("", "multus-socket-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "s")
	if err := os.Link(socket, link); err != nil {
		t.Skipf("link the socket to where others reach it: %v", err)
	}
	ask := func(uid uint32) (string, error) {
		curl, err := exec.LookPath("curl")
		if err != nil {
			t.Skip("no curl")
		}
		cmd := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "10", "--unix-socket", link, "-o", "/dev/null",
			"-w", "%{http_code}", "http://multus/healthz")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := ask(0); err != nil || !strings.Contains(out, "200") {
		t.Errorf("root: %s, %v", out, err)
	}
	if out, err := ask(65534); err == nil || strings.Contains(out, "200") || strings.Contains(out, "denied") {
		t.Errorf("another user: %s, %v, want a closed connection", out, err)
	}
}

func socketClient(socket string) *http.Client {
	return &http.Client{
		Timeout: waitTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
		},
	}
}

// get sends a GET request to the daemon's socket.
func get(t *testing.T, socket, path string) (int, error) {
	t.Helper()
	resp, err := socketClient(socket).Get("http://multus" + path)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, err
}

// TestDaemonWritesConfiguration checks that the daemon writes the CNI configuration file after it has begun to serve,
// and not before. The file is complete, private and has one line. It stays when the daemon ends, by any signal. Only
// the plugin waits for the readiness indicator file (behaviour F4, F6-F9, F23, F24, F33; A71; multus-cni#1387).
func TestDaemonWritesConfiguration(t *testing.T) {
	n := node.New(t, node.Options{Kind: node.Thin})
	primary := filepath.Join(n.Dir, "net.d", "10-primary.conflist")
	before, err := os.ReadFile(primary)
	if err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(n.Dir, "ready")
	slot := filepath.Join(n.Dir, "etc", "00-multus.conf")
	socket := filepath.Join(n.SocketDir(), "multus.sock")
	file := agentConf(t, n, map[string]any{
		"readinessindicatorfile": ready, "forceCNIVersion": true,
		"cniVersion": "0.4.0",
	})
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			if err := os.RemoveAll(slot); err != nil {
				t.Fatal(err)
			}
			a := startAgent(t, n, nil, "-config", file)
			var conf []byte
			for end := time.Now().Add(waitTimeout); conf == nil; time.Sleep(time.Millisecond) {
				if conf, err = os.ReadFile(slot); err != nil {
					conf = nil
				}
				if time.Now().After(end) {
					t.Fatalf("no configuration\n%s", a.output(t))
				}
			}
			// F7: the daemon serves before it writes the file.
			if code, err := get(t, socket, "/healthz"); code != http.StatusOK {
				t.Errorf("the configuration was there before the daemon served: %d, %v", code, err)
			}
			one, err := libcni.NetworkPluginConfFromBytes(conf)
			if err != nil || one.Network.Type != "multus-shim" || one.Network.CNIVersion != "0.4.0" ||
				strings.Count(string(conf), "\n") != 1 {
				t.Errorf("%s: %v", conf, err)
			}
			if info, err := os.Stat(slot); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			names(t, string(conf), fmt.Sprintf(`"readinessindicatorfile":%q`, ready))
			// F33: the file is created and removed, and the daemon keeps running.
			if err := os.WriteFile(ready, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(ready); err != nil {
				t.Fatal(err)
			}
			code, err := 0, error(nil)
			for end := time.Now().Add(waitTimeout); code != http.StatusOK &&
				time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				code, err = get(t, socket, "/readyz")
			}
			if code != http.StatusOK || !a.running() {
				t.Errorf("/readyz: %d, %v\n%s", code, err, a.output(t))
			}
			start := time.Now()
			a.signal(t, sig)
			if code := a.code(t); sig != syscall.SIGKILL && code != 0 {
				t.Errorf("exit %d\n%s", code, a.output(t))
			}
			if took := time.Since(start); took > 9*time.Second { // F8: at most 10 s, whatever is in flight
				t.Errorf("nothing was in flight, and the end took %s", took)
			}
			if got, err := os.ReadFile(slot); err != nil || string(got) != string(conf) {
				t.Errorf("the configuration did not stay: %v", err)
			}
			if got, err := os.ReadFile(primary); err != nil || string(got) != string(before) {
				t.Errorf("the cluster network's own file was changed: %v", err)
			}
		})
	}
}

// TestDaemonDrains checks that a plan in progress is still answered after SIGTERM (behaviour F8).
func TestDaemonDrains(t *testing.T) {
	slow := newSlowAPI(t)
	s := newSite(t, node.Thick, node.Options{Kubeconfig: slow.kubeconfig, API: slow.addr})
	p := s.pod(t, "p", map[string]string{networks: "mac"}, false)
	slow.hold()
	type outcome struct {
		status int
		body   string
		err    error
	}
	answer := make(chan outcome, 1)
	body, err := json.Marshal(map[string]any{
		"command": "ADD", "containerID": p.ContainerID, "netns": p.Path, "ifName": "eth0", "config": s.Conf(),
		"args": [][2]string{{"K8S_POD_NAMESPACE", s.ns}, {"K8S_POD_NAME", "p"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		resp, err := socketClient(filepath.Join(s.SocketDir(), "multus.sock")).Post("http://multus"+wirev1.PathPlan,
			"application/json", bytes.NewReader(body))
		if err != nil {
			answer <- outcome{err: err}
			return
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		answer <- outcome{resp.StatusCode, string(b), err}
	}()
	slow.waiting(t) // the daemon has requested the pod
	s.Signal(t, syscall.SIGTERM)
	s.eventually(t, "the end of new connections", func() bool {
		_, err := get(t, filepath.Join(s.SocketDir(), "multus.sock"), "/healthz")
		return err != nil
	})
	slow.release()
	if got := <-answer; got.err != nil || got.status != http.StatusOK || !strings.Contains(got.body, s.ns+"/mac") {
		t.Errorf("the request in flight got %+v, want its plan\n%s", got, s.DaemonLog())
	}
	s.eventually(t, "the end", func() bool { return strings.Contains(s.DaemonLog(), "multus-daemon ends") })
	if log := s.DaemonLog(); strings.Contains(log, "\nerror: ") {
		t.Errorf("it ends with an error:\n%s", log)
	}
}

// TestDaemonLogStaysWhereItIs checks that the log settings in the configuration of a request apply to the plugin and
// not to the daemon (behaviour A94, F54).
func TestDaemonLogStaysWhereItIs(t *testing.T) {
	f := newFakes(t, node.Thick, map[string]any{"logToStderr": true, "logLevel": "debug"}, nil)
	f.StopDaemon(t)
	log := filepath.Join(t.TempDir(), "daemon.log")
	a := startAgent(t, f.Node, nil, "--config", agentConf(t, f.Node, map[string]any{
		"networksDir": f.dir, "logToStderr": false, "logFile": log, "logLevel": "verbose", "multusAutoconfigDir": nil,
	}))
	a.serves(t, filepath.Join(f.SocketDir(), "multus.sock"))
	p := f.pod(t, "one,nope")
	if _, err := f.Add(t, f.Conf(), p); err == nil {
		t.Fatal("a network that does not exist was attached")
	}
	if out := a.output(t); out != "" {
		t.Errorf("the daemon writes to standard error: %s", out)
	}
	b, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(b), "request refused") || strings.Contains(string(b), "[debug]") {
		t.Errorf("the daemon's log: %s, %v", b, err)
	}
}
