package doctor

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"multus/internal/agent/cniconfig"
	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/fsx"
	"multus/internal/link"
	"multus/internal/source/kube"
)

// Node is the doctor's access to a node. A function that is nil is not available, and the checks that need it return an
// error.
type Node struct {
	Name string
	// Root is the root of the node's file system: / on the node, and another directory elsewhere.
	Root string
	// Arch is the node's architecture, as Go names it.
	Arch string
	// ConfDir is the configuration directory of the runtime, if it is neither that of the distribution nor in the daemon's
	// configuration.
	ConfDir string
	// InPod reports whether Root is that of a container, which has only the mounted parts of the node.
	InPod bool
	// Interfaces returns the interfaces of the node's own network namespace.
	Interfaces func() ([]link.Interface, error)
	// NetnsExists reports whether a network namespace of the node exists.
	NetnsExists func(path string) bool
	// Networks returns the network definitions of the cluster.
	Networks func(ctx context.Context) ([]plan.Definition, error)
	// Claimed returns the devices of ResourceClaims that the pods of the node have, as the kubelet lists them. Its
	// directory is given.
	Claimed func(ctx context.Context, kubeletRoot string) ([]plan.ClaimedDevice, error)
	// Cluster is the API server.
	Cluster Cluster
	// Version returns the version of a program file, and DaemonVersion that of the daemon at a socket.
	Version       func(file string) (string, error)
	DaemonVersion func(ctx context.Context, socket string) (string, error)
	// Handshake returns the certificates of a TLS server at an address, for a name, without checking them.
	Handshake func(ctx context.Context, addr, name string) ([]*x509.Certificate, error)
	Now       time.Time
}

// Cluster is the part of the API server that the checks use. kube.Client and kube.Expiry implement it.
type Cluster interface {
	Version(ctx context.Context) (string, error)
	HasDefinitions(ctx context.Context) (bool, error)
	HasClaims(ctx context.Context) (bool, error)
	// HasSlices reports whether a driver publishes devices: for a node, or for no node in particular.
	HasSlices(ctx context.Context, driver, node string) (bool, error)
	Allowed(ctx context.Context, a kube.Access) (bool, error)
	Policy(ctx context.Context, name string) (*kube.Policy, error)
	Webhooks(ctx context.Context, kind, name string) (*kube.Webhooks, error)
	ServiceAddress(ctx context.Context, ref plan.Ref) (string, error)
	Node(ctx context.Context, name string) (*kube.Node, error)
	// Expiry returns when the credentials expire, and their kind. The time is zero if they do not expire.
	Expiry() (time.Time, string, error)
	// Account returns the user of the credentials, or "" if it is unknown.
	Account() string
}

// path returns the local path of a path of the node. It resolves links inside the root, as the node does, so that an
// absolute link does not lead out of it. A path that does not exist is resolved as far as possible.
func (n *Node) path(p string) string {
	const mostLinks = 40
	rest, at := strings.Split(filepath.Clean("/"+p), "/"), "/"
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == "" {
			continue
		}
		next := filepath.Join(at, part)
		target, err := os.Readlink(filepath.Join(n.Root, next))
		if err != nil || links == mostLinks {
			at = next
			continue
		}
		links++
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(filepath.Clean(target), "/"), rest...)
	}
	return filepath.Join(n.Root, at)
}

// real returns a path of the node with its links resolved, as the node names it.
func (n *Node) real(p string) string {
	return "/" + strings.TrimPrefix(strings.TrimPrefix(n.path(p), strings.TrimSuffix(n.Root, "/")), "/")
}

// asNode replaces local paths in a text with the paths of the node. Errors contain the local ones.
func (n *Node) asNode(text string) string {
	if root := strings.TrimSuffix(n.Root, "/"); root != "" {
		return strings.ReplaceAll(text, root+"/", "/")
	}
	return text
}

// maxRead limits the size of a file of the node, such as its table of mounts.
const maxRead = 16 << 20

func (n *Node) read(p string) ([]byte, error) { return fsx.ReadFile(n.path(p), maxRead) }

func (n *Node) exists(p string) bool {
	_, err := os.Stat(n.path(p))
	return err == nil
}

// notMounted returns an error if this container does not have a directory of the node.
func (n *Node) notMounted(dir string) error {
	if !n.InPod || n.exists(dir) {
		return nil
	}
	return fmt.Errorf("%s is not mounted here", dir)
}

// list returns the names in a directory in order. A directory that does not exist has none.
func (n *Node) list(p string) ([]string, error) {
	entries, err := os.ReadDir(n.path(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", p, err)
	}
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Name()
	}
	return out, nil
}

// setup is the configuration of Multus on the node, as far as it can be read.
type setup struct {
	// daemon is the daemon's configuration, or nil.
	daemon *config.Daemon
	// file is the file in the configuration directory that calls Multus, or "". conf is its content.
	file string
	raw  []byte // as the runtime passes it to the plugin
	conf *config.Plugin
}

// daemonFiles are the paths at which manifests mount the daemon's configuration into its pod: ours, and today's. On the
// node itself, such a file exists only if an administrator has created it.
var daemonFiles = []string{"/etc/multus/daemon-config.json", "/etc/cni/net.d/multus.d/daemon-config.json"}

// daemonFile returns the path that exists, or else the first one.
func (n *Node) daemonFile() string {
	if i := slices.IndexFunc(daemonFiles, n.exists); i >= 0 {
		return daemonFiles[i]
	}
	return daemonFiles[0]
}

// Configuration returns the input of an ADD on the node: the CNI configuration that calls Multus, with the name of its
// file, and the daemon's configuration, which the daemon merges into it. A value is nil if it does not exist or is not
// visible.
func (n *Node) Configuration() (file string, conf, daemon []byte) {
	s := n.setup()
	if s.conf.Type == shim && s.daemon != nil {
		daemon = s.daemon.Raw
	}
	return s.file, s.raw, daemon
}

func (n *Node) setup() *setup {
	s := &setup{conf: &config.Plugin{}}
	if b, err := n.read(n.daemonFile()); err == nil {
		s.daemon, _ = config.ParseDaemon(b) // the configuration check reports its errors
	}
	files, _ := n.confFiles()
	for _, f := range files {
		if cniconf.CallsMultus(f.data) {
			s.file, s.raw = f.path, cniconf.PluginConfig(f.data)
			break
		}
	}
	raw := s.raw
	if raw == nil {
		raw = []byte("{}")
	}
	if c, err := config.ParsePlugin(raw); err == nil {
		s.conf = c
	}
	return s
}

// confDir returns the configuration directory of the runtime.
func (n *Node) confDir() string {
	if n.ConfDir != "" {
		return n.ConfDir
	}
	if b, err := n.read(n.daemonFile()); err == nil {
		if d, err := config.ParseDaemon(b); err == nil && d.CNIConfigDir != "" &&
			strings.Contains(string(b), "cniConfigDir") {
			return d.HostPath(d.CNIConfigDir)
		}
	}
	return n.distribution().ConfDir
}

// binDir returns the directory of the plugins.
func (n *Node) binDir() string {
	s := n.setup()
	if s.raw != nil && s.conf.BinDir != config.DefaultBinDir {
		return s.conf.BinDir
	}
	if s.daemon != nil && s.daemon.BinDir != "" {
		return s.daemon.HostPath(s.daemon.BinDir)
	}
	return n.distribution().BinDir
}

// stateDir returns the directory of the ledger.
func (n *Node) stateDir() string {
	if c := n.setup().conf; c.CNIDir != "" {
		return c.CNIDir
	}
	return config.DefaultCNIDir
}

// kubeletRoot returns the kubelet's root directory, as Multus is configured.
func (n *Node) kubeletRoot() string {
	s := n.setup()
	if s.daemon != nil && s.daemon.KubeletRoot != "" {
		return s.daemon.HostPath(s.daemon.KubeletRoot)
	}
	switch {
	case s.conf.KubeletRoot != "":
		return s.conf.KubeletRoot
	case s.daemon == nil:
		return n.distribution().KubeletRoot // no configuration sets another one
	}
	return defaultKubeletRoot
}

// confFile is one file of the configuration directory.
type confFile struct {
	path string
	data []byte
}

// confFiles returns the files that the runtime considers, in its order.
func (n *Node) confFiles() ([]confFile, error) {
	dir := n.confDir()
	names, err := n.list(dir)
	var out []confFile
	for _, name := range names {
		if !cniconf.IsFileName(name) {
			continue
		}
		path := filepath.Join(dir, name)
		b, err := n.read(path)
		if err == nil {
			out = append(out, confFile{path, b})
		}
	}
	return out, err
}

// network is a network to which pods of this node can be attached. owner describes its origin.
type network struct {
	owner string
	list  *cniconf.List
	// definition is nil for the cluster network.
	definition *plan.Definition
}

// networks returns the cluster network and the networks of all definitions that can be read. If the definitions cannot
// be listed, it returns the known networks and an error.
func (n *Node) networks(ctx context.Context) ([]network, error) {
	var out []network
	s := n.setup()
	if strings.Contains(s.conf.ClusterNetwork, "/") {
		read, _ := cniconfig.ClusterNetworkFiles(n.path(s.conf.ClusterNetwork))
		if l, err := cniconf.LoadFile(read); err == nil {
			out = append(out, network{owner: "the cluster network (" + s.conf.ClusterNetwork + ")", list: l})
		}
	}
	for i, raw := range s.conf.Delegates {
		if l, err := cniconf.Parse(raw); err == nil {
			out = append(out, network{owner: fmt.Sprintf("delegates[%d] of %s", i, s.file), list: l})
		}
	}
	if n.Networks == nil {
		return out, errors.New("cannot read network definitions: give --kubeconfig or --networks-dir")
	}
	defs, err := n.Networks(ctx)
	for i := range defs {
		l, err := cniconf.Parse([]byte(defs[i].Config))
		if err == nil {
			l, err = l.WithDefaults(defs[i].Name, "")
		}
		if err == nil {
			out = append(out, network{owner: "network-attachment-definition " + defs[i].String(), list: l, definition: &defs[i]})
		}
	}
	if err != nil {
		err = fmt.Errorf("some network definitions cannot be read: %w", err)
	}
	return out, err
}

// plugin is the part of a plugin's configuration that the checks use.
type plugin struct {
	Type            string          `json:"type"`
	Master          string          `json:"master"`
	Device          string          `json:"device"`
	Bridge          string          `json:"bridge"`
	MTU             json.RawMessage `json:"mtu"`
	LinkInContainer bool            `json:"linkInContainer"`
	IPAM            struct {
		Type    string `json:"type"`
		DataDir string `json:"dataDir"`
	} `json:"ipam"`
}

// plugins returns the plugins of the chain that can be decoded.
func (w network) plugins() []plugin {
	var out []plugin
	for i := range w.list.Types() {
		var p plugin
		if w.list.Decode(i, &p) == nil {
			out = append(out, p)
		}
	}
	return out
}

// ledger returns the node's ledger, for reading.
func (n *Node) ledger() *ledger.Store {
	return &ledger.Store{Dir: n.path(n.stateDir()), Log: slog.New(slog.DiscardHandler)}
}

// claimed returns the devices of ResourceClaims that the pods of the node have.
func (n *Node) claimed(ctx context.Context) ([]plan.ClaimedDevice, error) {
	if n.Claimed == nil {
		return nil, nil
	}
	return n.Claimed(ctx, n.path(n.kubeletRoot()))
}
