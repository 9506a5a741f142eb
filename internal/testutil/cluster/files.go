package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"multus/internal/testutil/pki"
)

// The tokens of the API server's static users.
const (
	adminToken      = "cluster-admin"
	controllerToken = "cluster-controller-manager"
	schedulerToken  = "cluster-scheduler"
)

const tokens = adminToken + `,admin,admin,"system:masters"
` + controllerToken + `,system:kube-controller-manager,controller-manager,
` + schedulerToken + `,system:kube-scheduler,scheduler,
`

// nodeTokens returns the lines of the token file for the nodes.
func nodeTokens() string {
	var b strings.Builder
	for i := range maxNodes {
		fmt.Fprintf(&b, "%[1]s,system:node:%[2]s,%[2]s,\"system:nodes\"\n", nodeToken(i), nodeName(i))
	}
	return b.String()
}

func nodeToken(i int) string { return "cluster-" + nodeName(i) }

// kubeletConfig requires nothing that a machine may lack: swap off, control groups v2, the right to lower OOM scores.
// Images are never garbage-collected.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: {{cgroup}}
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
resolvConf: ""
staticPodPath: {{kubelet}}/static
volumePluginDir: {{kubelet}}/volume-plugins
containerRuntimeEndpoint: unix://{{run}}/containerd.sock
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
syncFrequency: 10s
registerWithTaints: []
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 200
`

const containerdConfig = `version = 3
root = "{{containerd}}"
state = "{{run}}"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.erofs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{{run}}/containerd.sock"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "` + PauseImage + `"

[plugins."io.containerd.cri.v1.runtime"]
  # Lowering it needs CAP_SYS_RESOURCE, which not every machine gives.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{{bin}}"]
    conf_dir = "{{conf}}"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "` + toolDir + `/runc"
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.` + PlainRuntime + `]
    runtime_type = "io.containerd.runc.v2"
    cni_conf_dir = "` + plainDir + `"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.` + PlainRuntime + `.options]
      BinaryName = "` + toolDir + `/runc"
      SystemdCgroup = false
`

// fill inserts the node's paths into a configuration.
func (c *Cluster) fill(text string) []byte {
	p := c.options.Paths
	return []byte(strings.NewReplacer(
		"{{conf}}", p.Conf, "{{bin}}", p.Bin, "{{kubelet}}", p.Kubelet, "{{containerd}}", p.Containerd, "{{run}}", p.Run,
		"{{cgroup}}", c.cgroup,
	).Replace(text))
}

// PrimaryFile is the name of the cluster network's configuration file.
const PrimaryFile = "10-primary.conflist"

// Primary is the cluster network's configuration: a bridge, with addresses from host-local.
const Primary = `{
  "cniVersion": "1.0.0",
  "name": "primary",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
  ]
}
`

// file returns the path of a file of the node before the node runs.
func (c *Cluster) file(name string) string {
	for _, dir := range writable {
		if rest, ok := strings.CutPrefix(name, "/"+dir+"/"); ok {
			return filepath.Join(c.dir, "volumes", strings.ReplaceAll(dir, "/", "-"), rest)
		}
	}
	return filepath.Join(c.dir, "root", name)
}

// writeFiles creates the node's directories and the files in them.
func (c *Cluster) writeFiles() error {
	p := c.options.Paths
	if err := c.makeTree(); err != nil {
		return err
	}
	files, err := c.credentials()
	if err != nil {
		return err
	}
	put := map[string][]byte{
		c.file(p.Conf + "/" + PrimaryFile):   []byte(c.primary()),
		c.file(plainDir + "/" + PrimaryFile): []byte(c.primary()),
		c.file("/etc/passwd"):                []byte("root:x:0:0:root:/root:/bin/sh\n"),
		c.file("/etc/group"):                 []byte("root:x:0:\n"),
		c.file("/etc/hosts"):                 []byte("127.0.0.1 localhost\n" + c.address() + " " + c.Node + "\n"),
		c.file("/etc/resolv.conf"):           nil,
	}
	files["kubelet.yaml"] = c.fill(kubeletConfig)
	files["containerd.toml"] = c.fill(containerdConfig)
	accounts := map[string]string{
		"admin": adminToken, "controller": controllerToken, "scheduler": schedulerToken, "node": nodeToken(c.index),
	}
	if c.first != nil {
		accounts = map[string]string{"node": nodeToken(c.index)}
	}
	for name, token := range accounts {
		b, err := c.kubeconfig(token)
		if err != nil {
			return err
		}
		files[name+".kubeconfig"] = b
		if token == adminToken {
			put[filepath.Join(c.dir, "kubeconfig")] = b
		}
	}
	for name, b := range files {
		put[c.file(state(name))] = b
	}
	for name, b := range put {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			return fmt.Errorf("write file: %w", err)
		}
	}
	return errors.Join(c.linkRun(), c.copyPlugins())
}

// makeTree creates the node's directories.
func (c *Cluster) makeTree() error {
	p := c.options.Paths
	dirs := []string{
		filepath.Join(c.dir, "log"), filepath.Join(c.dir, "volumes/etc-cni"), filepath.Join(c.dir, "volumes/opt-cni"),
		c.file("/etc"),
	}
	if p.Current != "" {
		dirs = append(dirs, c.file(filepath.Dir(p.Current)+"/1"))
	}
	if err := makeDirs(dirs...); err != nil {
		return err
	}
	if p.Current != "" {
		if err := os.Symlink("1", c.file(p.Current)); err != nil {
			return fmt.Errorf("make link: %w", err)
		}
	}
	return makeDirs(c.file(p.Kubelet+"/static"), c.file(p.Kubelet+"/volume-plugins"), c.file("/var/lib/cni"),
		c.file("/var/log/pods"), c.file("/var/log/containers"), c.file(p.Conf), c.file(plainDir), c.file(p.Bin),
		c.file(p.Plugins), c.file(stateDir))
}

// credentials returns the files of the API server. A further node uses the certificate authority of the first one.
func (c *Cluster) credentials() (map[string][]byte, error) {
	if c.first != nil {
		c.ca = c.first.ca
		return map[string][]byte{"ca.crt": c.ca}, nil
	}
	keys, err := pki.New(serviceIP, nodeIP)
	if err != nil {
		return nil, err
	}
	c.ca = keys.CA
	return map[string][]byte{
		"ca.crt": keys.CA, "server.crt": keys.Cert, "server.key": keys.Key, "tokens.csv": []byte(tokens + nodeTokens()),
	}, nil
}

func makeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}

// linkRun creates /var/run. It is a link to /run on most systems and a directory on some.
func (c *Cluster) linkRun() error {
	path := filepath.Join(c.dir, "volumes/var/run")
	if c.options.VarRunDir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.Symlink("../run", path); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make link: %w", err)
	}
	return nil
}

func (c *Cluster) kubeconfig(token string) ([]byte, error) {
	const name = "test"
	cfg := api.NewConfig()
	cfg.Clusters[name] = &api.Cluster{Server: "https://" + serviceIP, CertificateAuthorityData: c.ca}
	cfg.AuthInfos[name] = &api.AuthInfo{Token: token}
	cfg.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	cfg.CurrentContext = name
	b, err := clientcmd.Write(*cfg)
	if err != nil {
		return nil, fmt.Errorf("write kubeconfig: %w", err)
	}
	return b, nil
}

// copyPlugins copies the reference CNI plugins of the options into the node's plugin directory.
func (c *Cluster) copyPlugins() error {
	for _, name := range c.options.Plugins {
		b, err := os.ReadFile(filepath.Join(c.root, "bin", "cni", name))
		if err != nil {
			return fmt.Errorf("%w: run `make bin/cni`: %w", ErrUnavailable, err)
		}
		p := c.options.Paths
		if err := os.WriteFile(filepath.Join(c.file(p.Plugins), name), b, 0o755); err != nil {
			return fmt.Errorf("copy plugin: %w", err)
		}
		if p.Plugins == p.Bin {
			continue
		}
		if err := os.Symlink(filepath.Join(p.Plugins, name), filepath.Join(c.file(p.Bin), name)); err != nil {
			return fmt.Errorf("link plugin: %w", err)
		}
	}
	return nil
}

// makeCgroups creates the node's control group in every hierarchy of the machine, or in the only one.
func (c *Cluster) makeCgroups() error {
	for _, dir := range c.cgroups() {
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			return fmt.Errorf("make control group: %w", err)
		}
		// A new cpuset group of version 1 cannot run processes until its CPUs and memory nodes are set.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
			if err == nil {
				_ = os.WriteFile(filepath.Join(dir, name), b, 0o600) // without it containers do not start and report the reason
			}
		}
	}
	return nil
}

func (c *Cluster) cgroups() []string {
	const top = "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.controllers"); err == nil {
		return []string{top + c.cgroup}
	}
	links, _ := filepath.Glob(top + "/*") // the pattern is fine
	var dirs []string
	for _, l := range links {
		if info, err := os.Lstat(l); err == nil && info.IsDir() {
			dirs = append(dirs, l+c.cgroup)
		}
	}
	return dirs
}

// removeCgroups removes the node's control groups, the deepest first.
func (c *Cluster) removeCgroups() {
	for _, top := range c.cgroups() {
		if !strings.HasSuffix(top, c.cgroup) {
			continue
		}
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			_ = os.Remove(dir) // a group that is still in use stays
		}
	}
}
