package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"multus/internal/engine/plan"
	"multus/internal/source/dra"
	"multus/internal/source/file"
	"multus/internal/source/kube"
	"multus/internal/source/podresources"
	"multus/internal/version"
)

// sourceFlags are the flags of the source of network definitions and pods.
type sourceFlags struct {
	kubeconfig  string
	networksDir string
}

func (s *sourceFlags) add(flags *pflag.FlagSet) {
	s.addKubeconfig(flags)
	flags.StringVar(&s.networksDir, "networks-dir", "",
		"read definitions and pods from the YAML files of this `directory`, not from a cluster")
}

func (s *sourceFlags) addKubeconfig(flags *pflag.FlagSet) {
	flags.StringVar(&s.kubeconfig, "kubeconfig", "",
		"kubeconfig `file` (default: KUBECONFIG, ~/.kube/config, or the cluster that this runs in)")
}

// source provides network definitions and pods.
type source struct {
	plan.Networks
	plan.Pods
	hostNetwork func(context.Context, plan.Ref) (bool, error)
	networks    func(context.Context) ([]plan.Definition, error)
	pods        func(ctx context.Context, node string) ([]plan.Pod, error)
	// name describes the source in messages.
	name string
}

// errNoSource is returned when the flags and the environment name neither a cluster nor a directory.
var errNoSource = errors.New("no cluster and no directory of definitions: give --kubeconfig or --networks-dir")

func fileSource(o file.Options) *source {
	s := file.New(o)
	return &source{
		Networks: s, Pods: s, hostNetwork: s.HostNetwork, networks: s.Networks, name: o.String(),
		pods: func(ctx context.Context, _ string) ([]plan.Pod, error) { return s.Pods(ctx) },
	}
}

// open opens the source that the flags name. It sends no request.
func (a *app) open() (*source, error) {
	if a.source.networksDir != "" {
		return fileSource(file.Options{Dir: a.source.networksDir}), nil
	}
	client, host, err := a.kubeClient()
	if err != nil {
		return nil, err
	}
	return &source{
		Networks: client, Pods: client, hostNetwork: client.HostNetwork, networks: client.Networks,
		pods: client.Pods, name: "cluster at " + host,
	}, nil
}

// allocated returns what lists the devices of the pods of this node: those of device plugins and, with a cluster, those
// of claims.
func (a *app) allocated() plan.Devices {
	kubelet := podresources.New(podresources.Options{})
	client, _, err := a.kubeClient()
	if err != nil || a.source.networksDir != "" {
		return kubelet
	}
	return &dra.Devices{Kubelet: kubelet, Slices: kube.NewSlices(client), API: client}
}

// kubeClient returns a client of the API server that kubectl would use, and its address. It sends no request.
func (a *app) kubeClient() (*kube.Client, string, error) {
	c, err := a.cluster()
	if err != nil {
		return nil, "", err
	}
	client, err := kube.New(c)
	return client, c.Host, err
}

// cluster returns the API server that kubectl would use: of the flag, KUBECONFIG, ~/.kube/config or the pod's service
// account.
func (a *app) cluster() (*kube.Config, error) {
	o := kube.Options{
		Kubeconfig: a.source.kubeconfig, Version: version.Release(),
		ServiceHost: a.Getenv("KUBERNETES_SERVICE_HOST"), ServicePort: a.Getenv("KUBERNETES_SERVICE_PORT"),
	}
	if o.Kubeconfig == "" {
		o.Kubeconfig = a.userKubeconfig()
	}
	c, err := kube.Load(o)
	if errors.Is(err, kube.ErrNoCluster) {
		return nil, errNoSource
	}
	return c, err
}

// userKubeconfig returns the first file of KUBECONFIG, or ~/.kube/config if it exists.
func (a *app) userKubeconfig() string {
	if list := filepath.SplitList(a.Getenv("KUBECONFIG")); len(list) > 0 {
		return list[0]
	}
	home := cmp.Or(a.Getenv("HOME"), a.Getenv("USERPROFILE"))
	if home == "" {
		return ""
	}
	path := filepath.Join(home, ".kube", "config")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// layeredSource reads the files first, and the other source for what the files do not have.
type layeredSource struct {
	files *source
	rest  *source
}

// Network returns the definition of the files, or else of the other source.
func (l layeredSource) Network(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	def, err := l.files.Network(ctx, ref)
	if err == nil || l.rest == nil || !errors.Is(err, plan.ErrNotFound) {
		return def, err
	}
	return l.rest.Network(ctx, ref)
}

// Pod returns the pod of the files, or else of the other source.
func (l layeredSource) Pod(ctx context.Context, ref plan.Ref) (*plan.Pod, error) {
	pod, err := l.files.Pod(ctx, ref)
	if err == nil || l.rest == nil || !errors.Is(err, plan.ErrNotFound) {
		return pod, err
	}
	return l.rest.Pod(ctx, ref)
}

func (l layeredSource) hostNetwork(ctx context.Context, ref plan.Ref) (bool, error) {
	host, err := l.files.hostNetwork(ctx, ref)
	if err == nil || l.rest == nil || !errors.Is(err, plan.ErrNotFound) {
		return host, err
	}
	return l.rest.hostNetwork(ctx, ref)
}

// parseRef parses NAMESPACE/NAME. The namespace defaults to default.
func parseRef(s string) (plan.Ref, error) {
	ns, name, ok := strings.Cut(s, "/")
	if !ok {
		ns, name = file.DefaultNamespace, s
	}
	if ns == "" || name == "" || strings.Contains(name, "/") {
		return plan.Ref{}, usageError{fmt.Errorf("%q is not a pod name: want NAMESPACE/NAME", s)}
	}
	return plan.Ref{Namespace: ns, Name: name}, nil
}

// parseRefs parses the pods of a command line.
func parseRefs(names []string) ([]plan.Ref, error) {
	var out []plan.Ref
	for _, name := range names {
		ref, err := parseRef(name)
		if err != nil {
			return nil, err
		}
		out = append(out, ref)
	}
	return out, nil
}
