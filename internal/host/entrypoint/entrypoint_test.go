package entrypoint

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"multus/internal/source/kube"
	"multus/internal/testutil/eventually"
)

// waitTimeout limits how long a test waits.
const waitTimeout = 20 * time.Second

// output is a writer that a test reads while the program writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// host has a host's directories as the container sees them.
type host struct {
	dir         string
	out         *output
	env         map[string]string
	firstAnswer time.Duration
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{
		dir: t.TempDir(), out: &output{},
		env: map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"},
	}
	for _, d := range []string{"bin", "net.d", "sa", "image"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write(t, "sa/token", "token-1")
	h.write(t, "sa/ca.crt", "a CA")
	h.write(t, "image/multus", "#!/bin/true\n")
	if err := os.Chmod(filepath.Join(h.dir, "image/multus"), 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

// write replaces a file by a rename, as kubelets and CNI installers do.
func (h *host) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (h *host) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// options returns the options of a command line on this host.
func (h *host) options(t *testing.T, args ...string) *Options {
	t.Helper()
	at := func(name string) string { return filepath.Join(h.dir, name) }
	getenv := func(k string) string { return h.env[k] }
	cmd := Command(getenv, h.out)
	o := &Options{ServiceAccountDir: at("sa"), Getenv: getenv, Stdout: h.out}
	cmd.ResetFlags()
	o.addFlags(cmd)
	if err := cmd.ParseFlags(append([]string{
		"--cni-bin-dir", at("bin"), "--cni-conf-dir", at("net.d"), "--multus-autoconfig-dir", at("net.d"),
		"--multus-bin-file", at("image/multus"),
		"--multus-cni-conf-dir", at("multus.net.d"), "--multus-kubeconfig-file-host", at("net.d/multus.d/multus.kubeconfig"),
	}, args...)); err != nil {
		t.Fatal(err)
	}
	return o
}

// start runs thin_entrypoint. The function that it returns stops the program and returns its error.
func (h *host) start(t *testing.T, args ...string) func() error {
	t.Helper()
	o := h.options(t, args...)
	o.FirstAnswer = h.firstAnswer
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	return func() error {
		cancel()
		return <-ended
	}
}

func (h *host) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !eventually.Is(waitTimeout, ok) {
		t.Fatalf("%s: not within %s\n%s", what, waitTimeout, h.out)
	}
}

func (h *host) exists(name string) bool {
	_, err := os.Stat(filepath.Join(h.dir, name))
	return err == nil
}

const (
	flannel031 = `{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel"},{"type":"portmap","capabilities":{"portMappings":true,"x":false}}]}`
	flannel100 = `{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"flannel"}]}`
)

// TestGenerates checks the plugin, the configuration and the kubeconfig (behaviour G4, G5, G9-G13, G23).
func TestGenerates(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "net.d/10-flannel.conflist", flannel031)
	h.env["MULTUS_NODE_ADDRESS"] = "192.0.2.7"
	h.write(t, "net.d/00-multus.conf", `{"cniVersion":"0.3.1","name":"old","type":"multus","delegates":[{"type":"x"}]}`)
	stop := h.start(t, "--namespace-isolation", "--global-namespaces=default,x", "--multus-log-level=Debug",
		"--multus-log-to-stderr=false", "--readiness-indicator-file=/ready")
	h.eventually(t, "the watch", func() bool { return strings.Contains(h.out.String(), "Entering watch loop") })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if h.read(t, "bin/multus") != h.read(t, "image/multus") {
		t.Error("the plugin was not installed")
	}
	want := `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus","capabilities":{"io.kubernetes.cri.pod-annotations":true,"portMappings":true,"x":false},` +
		`"namespaceIsolation":true,"globalNamespaces":"default,x","logToStderr":false,"logLevel":"Debug","confDir":"DIR/multus.net.d","readinessindicatorfile":"/ready",` +
		`"kubeconfig":"DIR/net.d/multus.d/multus.kubeconfig","delegates":[` + flannel031 +
		"],\"nodeAddresses\":[\"192.0.2.7\"]}\n"
	if d := cmp.Diff(strings.ReplaceAll(want, "DIR", h.dir), h.read(t, "net.d/00-multus.conf")); d != "" {
		t.Errorf("00-multus.conf (-want +got):\n%s", d)
	}
	for _, f := range []string{"net.d/00-multus.conf", "net.d/multus.d/multus.kubeconfig", "net.d/multus.d/multus.token"} {
		if info, err := os.Stat(filepath.Join(h.dir, f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 0600", f, info.Mode(), err)
		}
	}
	if text := h.read(t, "net.d/multus.d/multus.kubeconfig"); strings.Contains(text, "token-1") ||
		!strings.Contains(text, "server: https://[fd00::1]:443") {
		t.Errorf("kubeconfig:\n%s", text)
	}
}

// TestKubeconfigWorks checks that the plugin's client accepts the kubeconfig and reads the current token.
func TestKubeconfigWorks(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "net.d/10-flannel.conflist", flannel031)
	stop := h.start(t, "--skip-tls-verify")
	h.eventually(t, "the kubeconfig", func() bool { return h.exists("net.d/multus.d/multus.kubeconfig") })
	c, err := kube.Load(kube.Options{Kubeconfig: filepath.Join(h.dir, "net.d/multus.d/multus.kubeconfig")})
	if err != nil {
		t.Fatal(err)
	}
	if c.Host != "https://[fd00::1]:443" || c.BearerTokenFile != filepath.Join(h.dir, "net.d/multus.d/multus.token") {
		t.Errorf("host %q, token file %q", c.Host, c.BearerTokenFile)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestConflist checks that the configuration is a list from CNI 1.0.0 on, that the file of the other name is removed,
// and that a new version of the cluster network is followed (behaviour G9, G24).
func TestConflist(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "net.d/10-flannel.conflist", flannel031)
	stop := h.start(t, "--override-network-name", "--multus-log-level=verbose")
	h.eventually(t, "the configuration", func() bool { return h.exists("net.d/00-multus.conf") })
	h.write(t, "net.d/10-flannel.conflist", flannel100) // G24: a new version ends today's program
	h.eventually(t, "the list", func() bool {
		return h.exists("net.d/00-multus.conflist") &&
			!h.exists("net.d/00-multus.conf")
	})
	l, err := libcni.NetworkConfFromFile(filepath.Join(h.dir, "net.d/00-multus.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	if l.Name != "cbr0" || l.CNIVersion != "1.0.0" || l.Plugins[0].Network.Type != "multus" {
		t.Errorf("%+v", l)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestFollows checks that the token and the cluster network are followed, that the last good configuration is kept, and
// that the configuration stays on exit by default (behaviour G20-G22; multus-cni#1387, multus-cni#852).
func TestFollows(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "net.d/10-flannel.conflist", flannel031)
	stop := h.start(t)
	h.eventually(t, "the configuration", func() bool { return h.exists("net.d/00-multus.conf") })
	h.write(t, "sa/token", "token-2")
	h.eventually(t, "the new token", func() bool { return h.read(t, "net.d/multus.d/multus.token") == "token-2" })
	h.write(t, "net.d/10-flannel.conflist", strings.Replace(flannel031, "flannel", "flannel2", 1))
	h.eventually(t, "the new cluster network",
		func() bool { return strings.Contains(h.read(t, "net.d/00-multus.conf"), "flannel2") })
	good := h.read(t, "net.d/00-multus.conf")
	h.write(t, "net.d/10-flannel.conflist", `{"cniVersion":`)
	h.eventually(t, "the complaint", func() bool { return strings.Contains(h.out.String(), "keeping the existing files") })
	if got := h.read(t, "net.d/00-multus.conf"); got != good || !json.Valid([]byte(got)) {
		t.Errorf("the last good configuration was not kept: %s", got)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if !h.exists("net.d/00-multus.conf") {
		t.Error("the configuration was removed on exit")
	}
}

// TestCleanup checks that --cleanup-config-on-exit removes both names (behaviour G22).
func TestCleanup(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "net.d/10-flannel.conflist", flannel031)
	stop := h.start(t, "--cleanup-config-on-exit")
	h.eventually(t, "the watch", func() bool { return strings.Contains(h.out.String(), "Entering watch loop") })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if h.exists("net.d/00-multus.conf") || !h.exists("net.d/multus.d/multus.kubeconfig") || !h.exists("bin/multus") {
		t.Error("want the configuration gone, and the kubeconfig and the plugin there")
	}
}

// TestRefuses checks that the error names what is missing (behaviour G2, G3, G7, G8, G13).
func TestRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, primary, want string
		args                []string
	}{
		{"conf dir", flannel031, "cni-conf-dir is not found", []string{"--cni-conf-dir=/proc/nonexistent"}},
		{"bin dir", flannel031, "cni-bin-dir is not found", []string{"--cni-bin-dir=/proc/nonexistent"}},
		{"binary", flannel031, "multus-bin-file is not found", []string{"--multus-bin-file=/proc/nonexistent"}},
		{"conf file", flannel031, "multus-conf-file is not found", []string{"--multus-conf-file=/proc/nonexistent"}},
		{"log level", flannel031, "Log levels should be one of", []string{"--multus-log-level=loud"}},
		{"no primary", "", "could not find a plugin configuration", nil},
		{"no version", `{"name":"x","plugins":[{"type":"y"}]}`, "cannot get cniVersion in master CNI config file", nil},
		{"no version", flannel031, `cni-version is "one"`, []string{"--cni-version=one"}},
		{"a version that does not exist", flannel031, `cni-version is "1.2.0"`, []string{"--cni-version=1.2.0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if tc.primary != "" {
				h.write(t, "net.d/10-flannel.conflist", tc.primary)
			}
			if err := Run(t.Context(), h.options(t, tc.args...)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestUserFile checks that a file of the user is copied (behaviour G6).
func TestUserFile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "70-multus.conf", `{"name":"mine","type":"multus"}`)
	stop := h.start(t, "--multus-conf-file="+filepath.Join(h.dir, "70-multus.conf"))
	h.eventually(t, "the copy", func() bool { return h.exists("net.d/70-multus.conf") })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(h.out.String(), "net.d/70-multus.conf is copied.") {
		t.Errorf("output: %s", h.out)
	}
}

// TestOtherVersion checks that the configuration may have another version than the cluster network, and that each keeps
// its own (behaviour G8).
func TestOtherVersion(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ primary, version, file, inner string }{
		"newer":         {flannel031, "0.4.0", "net.d/00-multus.conf", flannel031},
		"newer, a list": {flannel031, "1.1.0", "net.d/00-multus.conflist", flannel031},
		"older":         {flannel100, "0.3.1", "net.d/00-multus.conf", flannel100},
		"without a version": {
			`{"name":"x","plugins":[{"type":"y"}]}`, "0.4.0", "net.d/00-multus.conf",
			`{"name":"x","plugins":[{"type":"y"}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.write(t, "net.d/10-flannel.conflist", tc.primary)
			stop := h.start(t, "--cni-version="+tc.version)
			h.eventually(t, "the configuration", func() bool { return h.exists(tc.file) })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if text := h.read(t, tc.file); !strings.HasPrefix(text, `{"cniVersion":"`+tc.version+`"`) ||
				!strings.Contains(text, tc.inner) {
				t.Errorf("configuration: %s", text)
			}
		})
	}
}

// TestForcedVersion checks that --force-cni-version changes the embedded copy only (behaviour G8).
func TestForcedVersion(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "net.d/10-flannel.conflist", flannel031)
	stop := h.start(t, "--cni-version=0.4.0", "--force-cni-version")
	h.eventually(t, "the configuration", func() bool { return h.exists("net.d/00-multus.conf") })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if text := h.read(t, "net.d/00-multus.conf"); strings.Contains(text, "0.3.1") ||
		!strings.Contains(text, `"cniVersion":"0.4.0","name":"cbr0"`) {
		t.Errorf("configuration: %s", text)
	}
	if h.read(t, "net.d/10-flannel.conflist") != flannel031 {
		t.Error("the cluster network's own file was changed")
	}
}

// TestChain checks that a list which another program, such as Istio's installer, makes of the configuration stays in
// force, and that our plugin in it is kept up to date, in either version.
func TestChain(t *testing.T) {
	t.Parallel()
	for name, primary := range map[string]string{"a plugin configuration": flannel031, "a list": flannel100} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.write(t, "net.d/10-flannel.conflist", primary)
			stop := h.start(t)
			h.eventually(t, "the watch", func() bool { return strings.Contains(h.out.String(), "Entering watch loop...") })
			own := `{"type":"multus","delegates":[]}`
			const other = `{ "type":"istio-cni" , "x":1.0}`
			h.write(t, "net.d/00-multus.conflist",
				`{"cniVersion":"0.3.1","name":"k8s-pod-network","plugins":[`+own+`,`+other+`]}`)
			h.eventually(t, "our plugin in the list", func() bool {
				text := h.read(t, "net.d/00-multus.conflist")
				return strings.Contains(text, `"flannel"`) && strings.Contains(text, other) && !h.exists("net.d/00-multus.conf")
			})
			h.write(t, "net.d/10-flannel.conflist", strings.Replace(primary, `"flannel"`, `"flannel2"`, 1))
			h.write(t, "sa/token", "token-2")
			h.eventually(t, "the change", func() bool {
				text := h.read(t, "net.d/00-multus.conflist")
				return strings.Contains(text, `"flannel2"`) && strings.Contains(text, other) && !h.exists("net.d/00-multus.conf")
			})
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(h.out.String(), "istio-cni"); n != 1 {
				t.Errorf("said %d times:\n%s", n, h.out)
			}
		})
	}
}
