package doctor

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/link"
	"multus/internal/source/kube"
	"multus/internal/testutil/leak"
	wirev1 "multus/wire/v1"
)

func TestMain(m *testing.M) { leak.Main(m) }

// fake is a node in a directory tree. It contains everything that the checks access, so that tests can damage it.
type fake struct {
	*Node
	tb testing.TB
	// dist is the distribution of the node.
	dist        distribution
	definitions []plan.Definition
	interfaces  []link.Interface
	claimed     []plan.ClaimedDevice
	namespaces  map[string]bool
	cluster     *cluster
	notReady    atomic.Bool
	missing     atomic.Bool
	versions    map[string]string
}

// releases are the os-release files of the eight distributions.
var releases = map[string]string{
	"kubeadm":   "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n",
	"k3s":       "ID=ubuntu\nPRETTY_NAME=\"Ubuntu 24.04\"\n",
	"rke2":      "ID=\"sles\"\n",
	"microk8s":  "ID=ubuntu\n",
	"k0s":       "ID=alpine\n",
	"openshift": "ID=\"rhcos\"\n",
	"talos":     "ID=talos\n",
	"gke":       "ID=cos\n",
}

// healthy returns a node without faults.
func healthy(tb testing.TB, name string) *fake {
	tb.Helper()
	root, err := os.MkdirTemp("", "n") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(root) })
	f := &fake{
		tb: tb, namespaces: map[string]bool{"/run/netns/cni-1": true},
		cluster:  &cluster{version: "v1.36.3", crd: true, account: "system:serviceaccount:kube-system:multus"},
		versions: map[string]string{},
	}
	f.Node = &Node{
		Name: "node-1", Root: root, Arch: "amd64", Now: time.Now(),
		Interfaces:    func() ([]link.Interface, error) { return f.interfaces, nil },
		NetnsExists:   func(p string) bool { return f.namespaces[p] },
		Networks:      func(context.Context) ([]plan.Definition, error) { return f.definitions, nil },
		Claimed:       func(context.Context, string) ([]plan.ClaimedDevice, error) { return f.claimed, nil },
		Cluster:       f.cluster,
		Version:       func(file string) (string, error) { return f.versions[filepath.Base(file)], nil },
		DaemonVersion: func(context.Context, string) (string, error) { return f.versions["daemon"], nil },
	}
	f.write("/etc/os-release", releases[name])
	for _, d := range distributions {
		if d.Overlay == name {
			for _, p := range d.paths {
				f.mkdir(p)
			}
		}
	}
	f.dist = f.distribution()
	f.directories()
	f.configuration()
	f.runtime()
	f.programs("multus-shim", "passthru", "bridge", "host-local", "portmap", "macvlan", "vlan", "host-device", "static")
	f.definitions = []plan.Definition{
		{
			Ref:    plan.Ref{Namespace: "a", Name: "storage"},
			Config: `{"type":"macvlan","master":"eth1","mtu":1500,"ipam":{"type":"host-local","ranges":[[{"subnet":"192.0.2.0/24"}]]}}`,
		},
		{
			Ref:    plan.Ref{Namespace: "a", Name: "vlan5"},
			Config: `{"plugins":[{"type":"vlan","master":"eth1","vlanId":5,"ipam":{"type":"static"}}]}`,
		},
		{
			Ref: plan.Ref{Namespace: "a", Name: "nic"}, Config: `{"type":"host-device","device":"eth2"}`,
			ResourceName: "vendor.example/nic",
		},
		{Ref: plan.Ref{Namespace: "a", Name: "local"}, Config: `{"type":"bridge","bridge":"br-local"}`},
	}
	f.interfaces = []link.Interface{
		{Name: "lo", Type: "device", MTU: 65536, Up: true},
		{Name: "eth0", Type: "device", MTU: 1500, Up: true},
		{Name: "eth1", Type: "device", MTU: 9000, Up: true},
		{Name: "br-local", Type: "bridge", MTU: 1500, Up: true},
	}
	f.recordSandbox("c1", "/var/run/netns/cni-1")
	f.namespaces["/var/run/netns/cni-1"] = true
	f.reserve("/var/lib/cni/networks/storage/192.0.2.5", "c1")
	f.serve()
	return f
}

func (f *fake) directories() {
	for _, d := range []string{
		"/run/netns", "/run/multus", "/var/lib/cni/networks", "/opt/cni/bin", f.dist.ConfDir,
		f.dist.BinDir,
	} {
		f.mkdir(d)
	}
	f.symlink("/run", "/var/run")
	f.write("/proc/1/mountinfo", `22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
24 22 0:22 / /run rw,nosuid shared:2 - tmpfs tmpfs rw
`)
	f.write("/proc/sys/kernel/osrelease", "6.12.1\n")
	f.write("/lib/modules/6.12.1/modules.builtin", "kernel/net/bridge/bridge.ko\n")
	f.write("/lib/modules/6.12.1/modules.dep",
		"kernel/drivers/net/macvlan.ko.zst: \nkernel/net/8021q/8021q.ko: kernel/net/802/garp.ko\n")
	f.write(filepath.Join(f.dist.KubeletRoot, "pod-resources/kubelet.sock"), "")
}

// runtime writes the configuration of a runtime that uses the right directories.
func (f *fake) runtime() {
	f.write("/etc/containerd/config.toml",
		fmt.Sprintf("[plugins.cri.cni]\n  bin_dirs = [\"/usr/libexec/cni\", \"%s\"]\n  conf_dir = \"%s\"\n", f.dist.BinDir,
			f.dist.ConfDir))
}

// configuration writes the configuration that the daemon has with the overlay of this distribution.
func (f *fake) configuration() {
	cluster := filepath.Join(f.dist.ConfDir, "10-cluster.conflist")
	f.write(cluster, `{"cniVersion":"1.0.0","name":"cluster","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}`)
	f.json(daemonFiles[0], map[string]any{
		"cniConfigDir": f.dist.ConfDir, "multusAutoconfigDir": f.dist.ConfDir, "binDir": f.dist.BinDir,
		"socketDir":   "/run/multus",
		"kubeletRoot": f.dist.KubeletRoot, "multusConfigFile": "auto",
	})
	f.json(f.confPath(), map[string]any{
		"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus-shim", "clusterNetwork": cluster,
		"binDir":       f.dist.BinDir,
		"capabilities": map[string]bool{"io.kubernetes.cri.pod-annotations": true}, "plainPods": "local",
	})
}

func (f *fake) confPath() string { return filepath.Join(f.dist.ConfDir, "00-multus.conf") }

// programs writes ELF headers of the node's architecture.
func (f *fake) programs(names ...string) {
	for _, name := range names {
		f.write(filepath.Join(f.dist.BinDir, name), elfHeader(62))
		f.check(os.Chmod(f.path(filepath.Join(f.dist.BinDir, name)), 0o755))
	}
}

// elfHeader returns the header of a 64-bit little-endian program for a machine.
func elfHeader(machine uint16) string {
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	for _, v := range []any{
		uint16(2), machine, uint32(1), uint64(0), uint64(64), uint64(9999), uint32(0), uint16(64),
		uint16(56), uint16(1), uint16(64), uint16(9), uint16(8),
	} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	return b.String() + strings.Repeat("x", 100)
}

// recordSandbox records a sandbox that is one hour old.
func (f *fake) recordSandbox(id, netns string) {
	f.write("/var/lib/cni/multus/"+id, strings.ReplaceAll(recorded(), "NETNS", netns))
	f.age("/var/lib/cni/multus/" + id)
}

// recorded returns a record of the ledger. It is made once, because each write needs an fsync.
var recorded = sync.OnceValue(func() string {
	l, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"nic","type":"host-device","device":"eth2"}`))
	dir := filepath.Join(os.TempDir(), "ledger")
	s := &ledger.Store{Dir: dir, Log: slog.New(slog.DiscardHandler)}
	if err == nil {
		err = s.Write(&ledger.Record{
			ContainerID: "c", Netns: "NETNS",
			Attachments: []ledger.Attachment{{Name: "a/nic", IfName: "net1", Config: l}},
		})
	}
	b, readErr := os.ReadFile(filepath.Join(dir, "c"))
	if err = errors.Join(err, readErr); err != nil {
		panic(err)
	}
	return string(b)
})

// reserve reserves an address as host-local does, one hour ago.
func (f *fake) reserve(file, container string) {
	f.write(file, container+"\r\neth0")
	f.age(file)
}

func (f *fake) age(file string) {
	then := f.Now.Add(-time.Hour)
	f.check(os.Chtimes(f.path(file), then, then))
}

// serve serves the daemon's socket.
func (f *fake) serve() {
	l, err := net.Listen("unix", f.path("/run/multus/multus.sock"))
	f.check(err)
	s := &http.Server{Handler: http.HandlerFunc(f.answer), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	f.tb.Cleanup(func() {
		_ = s.Close()
		<-done
	})
}

// answer serves like the daemon.
func (f *fake) answer(w http.ResponseWriter, r *http.Request) {
	body, status := "", http.StatusOK
	switch {
	case f.notReady.Load():
		body, status = `{"code":50,"msg":"network definitions are not read yet"}`, http.StatusServiceUnavailable
	case r.URL.Path == wirev1.PathMissing && f.missing.Load():
		body = `{"pods":[{"pod":{"namespace":"team","name":"web"},"networks":["lan"],"repair":"report"}]}`
	case r.URL.Path == wirev1.PathMissing:
		body, status = `{"code":6,"msg":"not served"}`, http.StatusNotFound
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func (f *fake) check(err error) {
	f.tb.Helper()
	if err != nil {
		f.tb.Fatal(err)
	}
}

func (f *fake) mkdir(p string) { f.check(os.MkdirAll(f.path(p), 0o755)) }

func (f *fake) write(p, data string) {
	f.tb.Helper()
	f.mkdir(filepath.Dir(p))
	f.check(os.WriteFile(f.path(p), []byte(data), 0o644))
}

func (f *fake) json(p string, v any) {
	b, err := json.Marshal(v)
	f.check(err)
	f.write(p, string(b))
}

// change edits a JSON file.
func (f *fake) change(p, key string, value any) {
	b, err := f.read(p)
	f.check(err)
	var m map[string]any
	f.check(json.Unmarshal(b, &m))
	m[key] = value
	f.json(p, m)
}

func (f *fake) remove(p string) { f.check(os.RemoveAll(f.path(p))) }

func (f *fake) rename(from, to string) { f.check(os.Rename(f.path(from), f.path(to))) }

func (f *fake) symlink(target, p string) {
	f.mkdir(filepath.Dir(p))
	f.check(os.Symlink(target, filepath.Join(f.Root, p)))
}

func (f *fake) chmod(p string, mode fs.FileMode) { f.check(os.Chmod(f.path(p), mode)) }

// mount adds a line to the mounts.
func (f *fake) mount(point, options string) { f.addMount(point, options, "rw") }

// addMount adds a mount with the options of its file system.
func (f *fake) addMount(point, options, super string) {
	b, err := f.read("/proc/1/mountinfo")
	f.check(err)
	f.write("/proc/1/mountinfo", string(b)+fmt.Sprintf("90 22 0:90 / %s %s - ext4 /dev/vdb1 %s\n", point, options, super))
}

// cluster is an API server.
type cluster struct {
	version string
	err     error
	crd     bool
	denied  string
	account string
	runtime string
	// unbound, missing and hidden are names of policies.
	unbound, missing, hidden string
	expires                  time.Time
	// unpublished is a driver without ResourceSlices.
	unpublished string
	// webhooks are the webhook configurations by kind, and service the error of their service.
	webhooks map[string]*kube.Webhooks
	service  error
}

func (c *cluster) Webhooks(_ context.Context, kind, _ string) (*kube.Webhooks, error) {
	if w := c.webhooks[kind]; w != nil {
		return w, nil
	}
	return nil, plan.ErrNotFound
}

func (c *cluster) ServiceAddress(context.Context, plan.Ref) (string, error) {
	return "10.96.0.7:443", c.service
}

func (c *cluster) Version(context.Context) (string, error)      { return c.version, c.err }
func (c *cluster) HasDefinitions(context.Context) (bool, error) { return c.crd, nil }
func (c *cluster) HasClaims(context.Context) (bool, error)      { return true, nil }
func (c *cluster) HasSlices(_ context.Context, driver, _ string) (bool, error) {
	return driver != c.unpublished, nil
}

func (c *cluster) Expiry() (time.Time, string, error) { return c.expires, "token", nil }
func (c *cluster) Account() string                    { return c.account }
func (c *cluster) Policy(_ context.Context, name string) (*kube.Policy, error) {
	if name == c.hidden {
		return nil, errors.New("forbidden")
	}
	accounts := []string{"request.userInfo.username == 'system:serviceaccount:kube-system:multus'"}
	return &kube.Policy{Exists: name != c.missing, Bound: name != c.missing && name != c.unbound, Accounts: accounts}, nil
}

func (c *cluster) Node(context.Context, string) (*kube.Node, error) {
	return &kube.Node{ContainerRuntimeVersion: c.runtime}, nil
}

func (c *cluster) Allowed(_ context.Context, a kube.Access) (bool, error) {
	return a.String() != c.denied, nil
}
