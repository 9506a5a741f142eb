package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"multus/internal/testutil/node"
)

// environment returns the environment that a runtime sets for a verb.
func (f *fakes) environment(p *node.Pod, command string) []string {
	return []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + p.ContainerID, "CNI_NETNS=" + p.Path, "CNI_IFNAME=eth0",
		"CNI_PATH=" + strings.Join(f.BinDirs, ":"),
		fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=uid-p", p.ContainerID),
	}
}

// binaries are the names of the plugins by kind.
var binaries = map[node.Kind]string{node.Thin: "multus", node.Thick: "multus-shim"}

// TestConfigurationErrors checks that all verbs of both plugins report the same errors. If there are several errors,
// the first one is reported in this order: syntax, CNI_ARGS, missing members, API server (behaviour A4, A8, A41, A42,
// A52, D7, D10).
func TestConfigurationErrors(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, nil, nil)
			p := f.pod(t, "nope")
			failed := func(command, stdin string, env ...string) *types.Error {
				t.Helper()
				out, _, code := f.run(t, binaries[kind], append(f.environment(p, command), env...), stdin)
				ce := &types.Error{}
				if err := json.Unmarshal([]byte(out), ce); err != nil || code != 1 {
					t.Fatalf("%s: exit %d, %s", command, code, out)
				}
				return ce
			}
			same := map[string]bool{}
			for _, command := range []string{"ADD", "CHECK", "DEL", "GC", "STATUS"} {
				ce := failed(command, `{"cniVersion":"1.1.0","name":"n","clusterNetwork":7}`, "CNI_ARGS=broken")
				names(t, ce.Msg, "failed to load netconf", "clusterNetwork")
				if same[ce.Msg] = true; ce.Code != types.ErrDecodingFailure || len(same) > 1 {
					t.Errorf("%s: %d, texts %v", command, ce.Code, same)
				}
			}
			names(t, failed("ADD", `{"cniVersion":"1.1.0","name":"n","readinessindicatorfile":"/nonexistent"}`,
				"CNI_ARGS=broken").Msg, "CNI_ARGS", "broken")
			ce := failed("ADD", `{"cniVersion":"1.1.0","name":"n","readinessindicatorfile":"/nonexistent","kubeconfig":"/nonexistent"}`)
			names(t, ce.Msg, "Multus: [default/p/uid-p]: ", "at least one delegate/clusterNetwork must be specified")
			// With delegates that cannot be decoded, and without an API server.
			ce = failed("ADD", `{"cniVersion":"1.1.0","name":"n","delegates":[]}`)
			names(t, ce.Msg, "at least one delegate/clusterNetwork must be specified")
			if kind == node.Thin {
				without := string(edited(t, f.Conf(),
					map[string]any{"networksDir": nil, "kubeconfig": "/nonexistent/kubeconfig", "cniVersion": "1.1.0"}))
				for _, command := range []string{"ADD", "STATUS"} {
					names(t, failed(command, without).Msg, "error getting k8s client", "/nonexistent/kubeconfig")
				}
				names(t, failed("ADD", string(edited(t, f.Conf(), map[string]any{"networksDir": nil, "kubeconfig": nil})),
					"KUBERNETES_SERVICE_HOST=192.0.2.1", "KUBERNETES_SERVICE_PORT=443").Msg,
					"error getting k8s client", "in-cluster", "token")
				// A41: DEL needs no API server. A missing kubeconfig must not prevent the deletion of a pod.
				q := f.pod(t, "one")
				if _, err := f.Add(t, f.Conf(), q); err != nil {
					t.Fatal(err)
				}
				if err := f.Del(t, []byte(without), q); err != nil {
					t.Errorf("DEL: %v", err)
				}
			}
			if n := len(f.Calls(t)); kind == node.Thick && n > 0 {
				t.Errorf("%d delegates were called", n)
			}
		})
	}
}

// TestVersions checks that the result has the version of the configuration that the runtime loads, independent of the
// delegate's version. A network without a version gets the version of the daemon, whose configuration file is merged
// over the request (behaviour A50, A93, B5, D26, E35). By default the shim logs nothing.
func TestVersions(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, map[string]any{
				"cniVersion": "0.4.0", "logToStderr": nil, "logFile": nil,
				"logLevel": "debug",
			}, nil)
			m := f.Fake(t, "fake-plain")
			m["result"] = json.RawMessage(`{"interfaces":[{"name":"{ifname}","sandbox":"{netns}"}]}`)
			config, err := json.Marshal(map[string]any{"type": "fake-plain", "fake": m})
			if err != nil {
				t.Fatal(err)
			}
			f.write(t, filepath.Join(f.dir, "plain.json"), map[string]any{
				"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
				"metadata": map[string]any{"name": "plain"}, "spec": map[string]any{"config": string(config)},
			})
			p := f.pod(t, "plain")
			conf := edited(t, f.Conf(), map[string]any{
				"runtimeConfig": map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{networks: "plain"}},
			})
			out, errs, code := f.run(t, binaries[kind], f.environment(p, "ADD"), string(conf))
			var res struct{ CNIVersion string }
			if err := json.Unmarshal([]byte(out), &res); err != nil || code != 0 || res.CNIVersion != "0.4.0" {
				t.Errorf("exit %d: %s", code, out)
			}
			if (errs == "") != (kind == node.Thick) {
				t.Errorf("standard error: %q", errs)
			}
			got := map[string]string{}
			for _, c := range f.Calls(t) {
				var in struct{ CNIVersion string }
				if err := json.Unmarshal(c.Stdin, &in); err != nil {
					t.Fatal(err)
				}
				got[c.Plugin] = in.CNIVersion
			}
			if want := map[node.Kind]string{node.Thin: "0.4.0", node.Thick: "1.0.0"}[kind]; got["fake-cluster"] != "1.1.0" ||
				got["fake-plain"] != want {
				t.Errorf("versions %v, want %s for the network that has none", got, want)
			}
		})
	}
}

// TestReadinessFile checks that ADD waits for the readiness indicator file of the cluster network, that DEL and CHECK
// do not wait, and that the error after a cancellation contains the path of the file (behaviour D11, D51, N9, M1, O20).
func TestReadinessFile(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			ready := filepath.Join(t.TempDir(), "ready")
			f := newFakes(t, kind, map[string]any{"readinessindicatorfile": ready}, nil)
			p := f.pod(t, "one")
			added := make(chan error, 1)
			go func() {
				_, err := f.Add(t, f.Conf(), p)
				added <- err
			}()
			select {
			case err := <-added:
				t.Fatalf("ADD did not wait: %v", err)
			case <-time.After(500 * time.Millisecond):
			}
			if n := len(f.Calls(t)); n > 0 {
				t.Errorf("%d delegates were called", n)
			}
			if err := os.WriteFile(ready, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := <-added; err != nil {
				t.Fatalf("ADD: %v", err)
			}
			if err := os.Remove(ready); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := errors.Join(f.Check(t, f.Conf(), p), f.Del(t, f.Conf(), p)); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took > 15*time.Second {
				t.Errorf("CHECK and DEL took %s", took)
			}
			if left := f.Left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			f.givenUp(t, kind, ready)
		})
	}
}

// TestReadinessFileOfMany checks that only one of the plugins that wait for the file has an inotify watch, even if the
// watching plugin is killed, and that all plugins continue when the file appears. The kernel limits the number of
// inotify instances of root, and after a boot all pods of a node wait at the same time.
func TestReadinessFileOfMany(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			ready := filepath.Join(t.TempDir(), "not", "there", "yet")
			f := newFakes(t, kind, map[string]any{"readinessindicatorfile": ready}, nil)
			const pods = 8
			added := make(chan error, pods)
			for range pods {
				p := f.pod(t, "one")
				go func() {
					_, err := f.Add(t, f.Conf(), p)
					added <- err
				}()
			}
			one := func() (plugins, watching []int) {
				for _, pid := range children(t) {
					if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && filepath.Base(exe) == binaries[kind] {
						plugins = append(plugins, pid)
						if watches(pid) {
							watching = append(watching, pid)
						}
					}
				}
				return plugins, watching
			}
			var plugins, watching []int
			waitFor(t, f.Node, "all wait",
				func() bool { plugins, watching = one(); return len(plugins) == pods && len(watching) > 0 })
			if err := syscall.Kill(watching[0], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := <-added; err == nil {
				t.Error("a plugin that was killed succeeded")
			}
			waitFor(t, f.Node, "another ADD watches",
				func() bool { plugins, watching = one(); return len(plugins) == pods-1 && len(watching) > 0 })
			if len(watching) != 1 {
				t.Errorf("%d of %d plugins watch", len(watching), len(plugins))
			}
			if err := os.MkdirAll(ready, 0o755); err != nil {
				t.Fatal(err)
			}
			for range pods - 1 {
				if err := <-added; err != nil {
					t.Errorf("ADD: %v", err)
				}
			}
		})
	}
}

// children returns the PIDs of the child processes of this process.
func children(t *testing.T) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, file := range files {
		b, _ := os.ReadFile(file) // a thread that has ended has no children
		for field := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, pid)
		}
	}
	return out
}

// watches reports whether a process has an inotify instance.
func watches(pid int) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(fds, func(fd string) bool {
		to, err := os.Readlink(fd)
		return err == nil && to == "anon_inode:inotify"
	})
}

// givenUp cancels the plugin while it waits.
func (f *fakes) givenUp(t *testing.T, kind node.Kind, ready string) {
	t.Helper()
	p := f.pod(t, "one")
	before := len(f.Calls(t))
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), filepath.Join(f.BinDirs[0], binaries[kind]))
	cmd.Env, cmd.Stdin, cmd.Stdout = f.environment(p, "ADD"), strings.NewReader(string(f.Conf())), &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // it would wait for 45 s
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	ce := &types.Error{}
	if err := json.Unmarshal([]byte(out.String()), ce); err != nil || ce.Code != types.ErrTryAgainLater {
		t.Fatalf("%q, want code 11", out.String())
	}
	names(t, ce.Msg, "Multus: [default/p/uid-p]: ",
		"have you checked that your default network is ready? still waiting for readinessindicatorfile @ "+ready)
	if n := len(f.Calls(t)); n != before {
		t.Error("delegates were called")
	}
}

// TestCapabilities checks that each value of the network selection reaches the plugins that declare its capability.
// What no plugin declares is left out, as today, because plugins take the older form from CNI_ARGS (behaviour C65, C67,
// N3).
func TestCapabilities(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, nil, nil)
			p := f.pod(t, `[{"name":"one","mac":"02:00:00:00:00:09","bandwidth":{"ingressRate":1,"ingressBurst":2,"egressRate":3,"egressBurst":4},"infiniband-guid":"24:8a:07:03:00:8d:ae:2e"}]`)
			if _, err := f.Add(t, f.Conf(), p); err != nil {
				t.Fatal(err)
			}
			for _, c := range f.Calls(t) {
				var in struct{ RuntimeConfig map[string]json.RawMessage }
				if err := json.Unmarshal(c.Stdin, &in); err != nil {
					t.Fatal(err)
				}
				mac := c.Plugin == "fake-one"
				if (in.RuntimeConfig["mac"] != nil) != mac || in.RuntimeConfig["bandwidth"] != nil ||
					in.RuntimeConfig["infinibandGUID"] != nil {
					t.Errorf("%s: %s", c.Plugin, c.Stdin)
				}
				if strings.Contains(c.Env["CNI_ARGS"], "MAC=02:00:00:00:00:09") != mac {
					t.Errorf("%s: %s", c.Plugin, c.Env["CNI_ARGS"])
				}
			}
		})
	}
}

// TestQuietLogs checks that nothing is logged as an error if there is no error, and that no log contains the
// annotations of a pod at any level, because they may hold secrets (behaviour L5, L8).
func TestQuietLogs(t *testing.T) {
	t.Run("without Kubernetes", func(t *testing.T) {
		f := newFakes(t, node.Thin, nil, nil)
		m := f.Fake(t, "fake-alone")
		m["result"] = json.RawMessage(result("10.9.0.2/24"))
		conf := edited(t, f.Conf(), map[string]any{
			"networksDir": nil, "kubeconfig": nil, "clusterNetwork": nil, "logLevel": "error", "logToStderr": true,
			"delegates": []any{map[string]any{"cniVersion": "1.0.0", "name": "alone", "type": "fake-alone", "fake": m}},
		})
		p := f.pod(t, "")
		for _, command := range []string{"ADD", "CHECK", "DEL"} {
			if out, errs, code := f.run(t, "multus", f.environment(p, command), string(conf)); code != 0 || errs != "" {
				t.Errorf("%s: exit %d, %s, standard error %q", command, code, out, errs)
			}
		}
		if b, err := os.ReadFile(filepath.Join(f.Dir, "plugin.log")); err == nil && len(b) > 0 {
			t.Errorf("logged: %s", b)
		}
	})
	for _, kind := range node.Kinds {
		t.Run("secrets "+string(kind), func(t *testing.T) {
			const secret = "c2VjcmV0LW9mLWEtcG9k"
			f := newFakes(t, kind, nil, nil) // plugin and daemon log at level debug
			p := f.NewPod(t, "default", "p", "uid-p", map[string]string{networks: "one", "example.com/token": secret})
			if _, err := f.Add(t, f.Conf(), p); err != nil {
				t.Fatal(err)
			}
			if err := f.Del(t, f.Conf(), p); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(f.Dir, "plugin.log"))
			if err != nil || len(b) == 0 {
				t.Errorf("no log: %v", err)
			}
			for name, text := range map[string]string{"plugin": string(b), "daemon": f.DaemonLog()} {
				if strings.Contains(text, secret) {
					t.Errorf("the secret is in the log of the %s:\n%s", name, text)
				}
			}
		})
	}
}

// TestShortNames checks the short names of the CRD: nad, and those that people have always typed (behaviour N12).
func TestShortNames(t *testing.T) {
	config, err := clientcmd.BuildConfigFromFlags("", server(t).Kubeconfig(t))
	if err != nil {
		t.Fatal(err)
	}
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Get(config.Host + "/apis/k8s.cni.cncf.io/v1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Resources []struct{ ShortNames []string }
	}
	if err := json.Unmarshal(b, &list); err != nil || len(list.Resources) == 0 {
		t.Fatalf("%s: %v", b, err)
	}
	for _, name := range []string{"nad", "net-attach-def"} {
		if !slices.Contains(list.Resources[0].ShortNames, name) {
			t.Errorf("no short name %s: %s", name, b)
		}
	}
}
