package install

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/eventually"
)

const (
	generated = `{"cniVersion":"1.0.0","name":"multus-cni-network","type":"multus-shim","clusterNetwork":"CONF/10-cluster.conflist"}`
	cluster   = `{"cniVersion":"1.0.0","name":"cluster","plugins":[{"type":"bridge"}]}`
	// record is written as today's Multus writes it; netnsPath is ours.
	record = `[{"Conf":{"cniVersion":"1.0.0","name":"cluster","type":"bridge"},"ConfList":{"cniVersion":"","name":"","plugins":null},"Name":"cluster",
"Bytes":"eyJjbmlWZXJzaW9uIjoiMS4wLjAiLCJuYW1lIjoiY2x1c3RlciIsInR5cGUiOiJicmlkZ2UifQ==",
"cniArgs":[["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","web-0"]]NETNS}]`
)

// onNode returns a node on which Multus is installed.
func onNode(t *testing.T) (Removal, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	log := &bytes.Buffer{}
	r := Removal{
		ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), StateDir: filepath.Join(dir, "state"),
		Socket: filepath.Join(dir, "run", "multus.sock"), Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	put(t, r.ConfDir, "00-multus.conf", strings.ReplaceAll(generated, "CONF", r.ConfDir))
	put(t, r.ConfDir, "10-cluster.conflist", cluster)
	put(t, r.ConfDir, "multus.d/multus.kubeconfig", "secret")
	put(t, r.ConfDir, "multus.d/multus.token", "secret")
	put(t, r.StateDir+"-slot", "00-multus.conf", generated)
	put(t, r.StateDir+"-networks", "1.json", "{}")
	for _, name := range names(t) {
		put(t, r.BinDir, name, "binary")
	}
	r.LockFile = filepath.Join(dir, "run", "locks")
	bridge(t, r, "exit 0")
	if err := os.MkdirAll(filepath.Join(r.StateDir, "results"), 0o700); err != nil {
		t.Fatal(err)
	}
	return r, log
}

// bridge installs the cluster network's plugin. It writes its calls to a file and ends with the command end.
func bridge(t *testing.T, r Removal, end string) {
	t.Helper()
	write(t, filepath.Join(r.BinDir, "bridge"), []byte("#!/bin/sh\ncat >/dev/null\n"+
		`echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS" >>`+r.StateDir+"/../calls\n"+end+"\n"), 0o755)
}

// calls returns the calls of the cluster network's plugin.
func calls(t *testing.T, r Removal) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.StateDir, "..", "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	write(t, filepath.Join(dir, name), []byte(content), 0o644)
}

// alive returns the network namespace of a sandbox. The namespace ends when the file is removed.
func alive(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cni-1")
	link(t, "/proc/self/ns/net", path)
	return path
}

func attach(t *testing.T, r Removal, id, netns string) {
	t.Helper()
	if netns != "" {
		netns = `,"netnsPath":"` + netns + `"`
	}
	put(t, r.StateDir, id, strings.ReplaceAll(record, "NETNS", netns))
}

func TestUninstall(t *testing.T) {
	t.Parallel()
	r, _ := onNode(t)
	for _, which := range []string{"first", "second"} {
		if err := Uninstall(t.Context(), r); err != nil {
			t.Fatalf("%s time: %v", which, err)
		}
		wantListing(t, r.ConfDir, "10-cluster.conflist")
		wantListing(t, r.BinDir, "bridge")
		if left, err := filepath.Glob(r.StateDir + "*"); err != nil || len(left) > 0 {
			t.Errorf("left: %q %v", left, err)
		}
	}
}

// TestUninstallAttached checks that the runtime stops calling Multus at once, and that the plugins stay while pods need
// them.
func TestUninstallAttached(t *testing.T) {
	t.Parallel()
	r, _ := onNode(t)
	attach(t, r, "sandbox1", "")
	netns := alive(t)
	attach(t, r, "sandbox2", netns)
	err := Uninstall(t.Context(), r)
	if !errors.Is(err, ErrAttached) {
		t.Fatalf("error %v, want %v", err, ErrAttached)
	}
	for _, want := range []string{"sandbox1", "sandbox2", "shop/web-0", "cluster", "--force"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	wantListing(t, r.ConfDir, "10-cluster.conflist", "multus.d")
	wantListing(t, r.BinDir, append(names(t), "bridge")...)

	if got := calls(t, r); got != "" {
		t.Errorf("an attached pod was touched: %s", got)
	}

	// One sandbox is deleted through Multus, the other without it, so that its resources cannot be freed at first.
	bridge(t, r, "exit 1")
	for _, path := range []string{filepath.Join(r.StateDir, "sandbox1"), netns} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	put(t, r.StateDir, "results/cluster-sandbox2-eth0",
		`{"kind":"cniCacheV1","containerId":"sandbox2","ifName":"eth0","networkName":"cluster","result":{"cniVersion":"1.0.0"}}`)
	if err := Uninstall(t.Context(), r); !errors.Is(err, ErrAttached) || !strings.Contains(err.Error(), "sandbox2") {
		t.Fatalf("error %v, want %v of sandbox2", err, ErrAttached)
	}
	wantListing(t, r.BinDir, append(names(t), "bridge")...)
	bridge(t, r, "exit 0")
	if err := Uninstall(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	wantListing(t, r.BinDir, "bridge")
	if _, err := os.Stat(r.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state directory: %v", err)
	}
	if got, want := calls(t, r), strings.Repeat("DEL sandbox2 eth0 \n", 2); got != want {
		t.Errorf("calls %q, want %q", got, want)
	}
}

// TestUninstallWaits checks that --wait waits for the deletion of an attached pod.
func TestUninstallWaits(t *testing.T) {
	t.Parallel()
	r, _ := onNode(t)
	netns := alive(t)
	attach(t, r, "sandbox", netns)
	done := uninstallWaits(t, r)
	wantListing(t, r.ConfDir, "10-cluster.conflist", "multus.d") // the cluster network is in force meanwhile
	wantListing(t, r.BinDir, append(names(t), "bridge")...)
	if err := os.Remove(netns); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantListing(t, r.BinDir, "bridge")
	if got := calls(t, r); got != "DEL sandbox eth0 \n" {
		t.Errorf("calls %q", got)
	}
}

// uninstallWaits starts Uninstall, and returns when it waits for pods.
func uninstallWaits(t *testing.T, r Removal) <-chan error {
	t.Helper()
	waiting := make(chan struct{})
	r.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) {
		if strings.Contains(string(p), "waiting for pods") && strings.Contains(string(p), "shop/web-0") {
			close(waiting)
		}
	}), nil))
	r.Wait = time.Minute
	done := make(chan error, 1)
	go func() { done <- Uninstall(t.Context(), r) }()
	select {
	case <-waiting:
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	}
	return done
}

// TestUninstallInstalledAgain checks that an Uninstall that waits for pods leaves a new installation alone, with and
// without a daemon (behaviour F37).
func TestUninstallInstalledAgain(t *testing.T) {
	t.Parallel()
	for name, install := range map[string]func(t *testing.T, r Removal){
		"thick": func(t *testing.T, r Removal) {
			if err := os.MkdirAll(filepath.Dir(r.Socket), 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", r.Socket)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		},
		"thin": func(t *testing.T, r Removal) {
			put(t, r.ConfDir, "00-multus.conf", strings.ReplaceAll(generated, "CONF", r.ConfDir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := onNode(t)
			r.Socket = filepath.Join(shortDir(t), "run", "multus.sock")
			netns := alive(t)
			attach(t, r, "sandbox", netns)
			done := uninstallWaits(t, r)
			install(t, r)
			if err := os.Remove(netns); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, ErrInstalledAgain) {
				t.Errorf("error %v, want %v", err, ErrInstalledAgain)
			}
			wantListing(t, r.BinDir, append(names(t), "bridge")...)
			if name == "thick" {
				wantListing(t, filepath.Dir(r.Socket), "multus.sock")
			}
		})
	}
}

// shortDir returns a directory whose path is short enough for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") //nolint:usetesting // its path is longer
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

func TestUninstallForce(t *testing.T) {
	t.Parallel()
	r, _ := onNode(t)
	attach(t, r, "sandbox", "")
	r.Force = true
	if err := Uninstall(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	wantListing(t, r.BinDir, "bridge")
	wantListing(t, r.StateDir, "results", "sandbox") // for the next installation
}

// TestUninstallNetnsOutOfSight checks that no sandbox counts as ended if the container does not have the directory of
// network namespaces.
func TestUninstallNetnsOutOfSight(t *testing.T) {
	t.Parallel()
	r, _ := onNode(t)
	attach(t, r, "sandbox", "/nowhere/netns/cni-1")
	if err := Uninstall(t.Context(), r); !errors.Is(err, ErrAttached) {
		t.Errorf("error %v", err)
	}
}

// TestUninstallOrder checks that the configuration is removed before the first plugin, whatever fails later.
func TestUninstallOrder(t *testing.T) {
	t.Parallel()
	r, _ := onNode(t)
	if err := os.Remove(filepath.Join(r.BinDir, shim)); err != nil {
		t.Fatal(err)
	}
	put(t, r.BinDir, shim+"/in-the-way", "")
	if err := Uninstall(t.Context(), r); err == nil {
		t.Fatal("a directory was removed")
	}
	wantListing(t, r.ConfDir, "10-cluster.conflist", "multus.d")
	wantListing(t, r.BinDir, append(names(t), "bridge")...)

	// If the configuration cannot be removed, no plugin is.
	r, _ = onNode(t)
	put(t, r.ConfDir, "00-multus.conflist/x", "")
	if err := os.Remove(filepath.Join(r.ConfDir, "00-multus.conf")); err != nil {
		t.Fatal(err)
	}
	put(t, r.ConfDir, "20-chain.conflist", `{"name":"x","plugins":[{"type":"bridge"},{"type":"multus"}]}`)
	if err := Uninstall(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	wantListing(t, r.BinDir, "bridge", thin) // a configuration of the user calls it
}

// TestUninstallRunning checks that Uninstall fails while a daemon runs, because the daemon would write its
// configuration again.
func TestUninstallRunning(t *testing.T) {
	t.Parallel()
	r, _ := onNode(t)
	dir := shortDir(t)
	r.Socket = filepath.Join(dir, "multus.sock")
	l, err := net.Listen("unix", r.Socket)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := Uninstall(t.Context(), r); !errors.Is(err, ErrRunning) {
		t.Errorf("error %v", err)
	}
	wantListing(t, r.ConfDir, "00-multus.conf", "10-cluster.conflist", "multus.d")
	l.Close()
	// A process that another test has just forked holds the listener until it executes its program.
	eventually.True(t, "no process listens on the socket", func() bool {
		c, err := net.Dial("unix", r.Socket)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if err := Uninstall(t.Context(), r); err != nil {
		t.Errorf("a socket on which no process listens: %v", err)
	}
	wantListing(t, dir)
}

// TestUninstallRestores checks that the node keeps a cluster network or Multus.
func TestUninstallRestores(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		setUp func(t *testing.T, r Removal)
		want  []string // in the configuration directory
		err   error
	}{
		{"another directory", func(t *testing.T, r Removal) { // OpenShift
			elsewhere := t.TempDir()
			put(t, elsewhere, "10-ovn.conflist", cluster)
			put(t, r.ConfDir, "00-multus.conf",
				strings.ReplaceAll(generated, "CONF/10-cluster.conflist", elsewhere+"/10-ovn.conflist"))
		}, []string{"10-ovn.conflist"}, nil},
		{"set aside", func(t *testing.T, r Removal) {
			put(t, r.ConfDir, "10-x.conflist.old", cluster)
			put(t, r.ConfDir, "00-multus.conf",
				strings.ReplaceAll(generated, "CONF/10-cluster.conflist", r.ConfDir+"/10-x.conflist.old"))
		}, []string{"10-x.conflist", "10-x.conflist.old"}, nil},
		{"inside of our configuration", func(t *testing.T, r Removal) { // thin
			put(t, r.ConfDir, "00-multus.conf", `{"name":"m","type":"multus","delegates":[`+cluster+`]}`)
		}, []string{"10-primary.conflist"}, nil},
		{"inside of our list", func(t *testing.T, r Removal) {
			put(t, r.ConfDir, "00-multus.conflist",
				`{"name":"m","plugins":[{"type":"multus","delegates":[{"name":"c","type":"bridge"}]}]}`)
		}, []string{"10-primary.conf"}, nil},
		{"nowhere", func(t *testing.T, r Removal) {
			put(t, r.ConfDir, "00-multus.conf", strings.ReplaceAll(generated, "CONF", r.ConfDir))
		}, []string{"00-multus.conf"}, ErrNoPrimary},
		{"only broken configurations", func(t *testing.T, r Removal) {
			put(t, r.ConfDir, "00-multus.conf", strings.ReplaceAll(generated, "CONF", r.ConfDir))
			put(t, r.ConfDir, "10-cluster.conflist", `{"plugins":[`)
			put(t, r.ConfDir, "20-multus.conf", `{"name":"again","type":"multus"}`)
		}, []string{"00-multus.conf", "10-cluster.conflist", "20-multus.conf"}, ErrNoPrimary},
		{"another program's configuration under our name", func(t *testing.T, r Removal) {
			put(t, r.ConfDir, "00-multus.conf", cluster)
		}, []string{"00-multus.conf"}, nil},
		{"an empty configuration of upstream Multus", func(t *testing.T, r Removal) {
			put(t, r.ConfDir, "00-multus.conf", "")
			put(t, r.ConfDir, "10-cluster.conflist", cluster)
		}, []string{"10-cluster.conflist"}, nil},
		{"a renamed copy of our configuration", func(t *testing.T, r Removal) {
			put(t, r.ConfDir, "00-multus.hold.conf", strings.ReplaceAll(generated, "CONF", r.ConfDir))
			put(t, r.ConfDir, "10-cluster.conflist", cluster)
		}, []string{"10-cluster.conflist"}, nil},
		{"gone", func(*testing.T, Removal) {}, []string{}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, _ := onNode(t)
			if err := os.RemoveAll(r.ConfDir); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(r.ConfDir, 0o755); err != nil {
				t.Fatal(err)
			}
			tt.setUp(t, r)
			if err := Uninstall(t.Context(), r); !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			wantListing(t, r.ConfDir, tt.want...)
			if tt.err != nil {
				wantListing(t, r.BinDir, append(names(t), "bridge")...)
				r.Force = true
				if err := Uninstall(t.Context(), r); err != nil {
					t.Errorf("with force: %v", err)
				}
			}
		})
	}
}

// TestUninstallCommand checks that the command uses the directories of the daemon's configuration, also of one for
// today's manifests.
func TestUninstallCommand(t *testing.T) {
	t.Parallel()
	r, _ := onNode(t)
	file := filepath.Join(t.TempDir(), "daemon-config.json")
	write(t, file, []byte(`{"cniConfigDir":"/host`+r.ConfDir+`","cniDir":"`+r.StateDir+`","socketDir":"/host`+filepath.Dir(
		r.Socket)+`"}`), 0o600)
	cmd := UninstallCommand("/nowhere/default.json")
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--config", file, "--bin-dir", r.BinDir})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantListing(t, r.ConfDir, "10-cluster.conflist")
	wantListing(t, r.BinDir, "bridge")
	if !strings.Contains(out.String(), "removed CNI configuration") {
		t.Errorf("logged: %s", &out)
	}
	for args, want := range map[string]string{
		"--config=/nowhere":                      "/nowhere",
		"--job=job.yaml":                         "--job needs --all-nodes",
		"--all-nodes":                            "needs --job",
		"--all-nodes --job=/nowhere":             "/nowhere",
		"--all-nodes --job=/dev/zero":            "regular",
		"--all-nodes --job=job.yaml --force":     "[all-nodes force]",
		"--all-nodes --job=job.yaml --bin-dir=b": "[all-nodes bin-dir]",
	} {
		cmd := UninstallCommand("/nowhere/default.json")
		cmd.SetArgs(strings.Fields(args))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
