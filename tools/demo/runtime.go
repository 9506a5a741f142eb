package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"sigs.k8s.io/yaml"
)

const (
	networksAnnotation = "k8s.v1.cni.cncf.io/networks"
	statusAnnotation   = "k8s.v1.cni.cncf.io/network-status"
	// annotationsCapability is the capability with which containerd and CRI-O pass a pod's annotations to a plugin.
	annotationsCapability = "io.kubernetes.cri.pod-annotations"
	// clusterInterface is the name that runtimes give to a pod's first interface.
	clusterInterface = "eth0"
)

// pod is what the runtime has of a pod.
type pod struct {
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		UID         string            `json:"uid"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`

	// sandbox is the ID of the container that holds the pod's namespaces.
	sandbox string
}

func readPod() (*pod, error) {
	b, err := os.ReadFile(filepath.Join(networksDir, podFile))
	if err != nil {
		return nil, err
	}
	p := &pod{}
	if err := yaml.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("%s: %w", podFile, err)
	}
	id := make([]byte, 32)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	p.sandbox = hex.EncodeToString(id)
	return p, nil
}

func (p *pod) networks() string { return p.Metadata.Annotations[networksAnnotation] }

// containerRuntime makes the CNI calls that containerd makes for a pod of the kubelet.
type containerRuntime struct {
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
	// result is the result of the last ADD.
	result *current.Result
}

// newRuntime loads the first configuration of the directory, which must be that of Multus.
func newRuntime() (*containerRuntime, error) {
	files, err := libcni.ConfFiles(confDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 || files[0] != multusConf {
		return nil, fmt.Errorf("the runtime would load the first of %q, not %s", files, multusConf)
	}
	conf, err := libcni.ConfFromFile(files[0]) //nolint:staticcheck // 00-multus.conf is of this format, and runtimes read it so
	if err != nil {
		return nil, err
	}
	list, err := libcni.ConfListFromConf(conf) //nolint:staticcheck // as above
	if err != nil {
		return nil, err
	}
	return &containerRuntime{cni: libcni.NewCNIConfigWithCacheDir([]string{binDir}, runtimeCache, nil), list: list}, nil
}

func (r *containerRuntime) add(ctx context.Context, p *pod, netns string) error {
	res, err := r.cni.AddNetworkList(ctx, r.list, runtimeConf(p, netns))
	if err != nil {
		return fmt.Errorf("ADD: %w", err)
	}
	if r.result, err = current.NewResultFromResult(res); err != nil {
		return fmt.Errorf("ADD: %w", err)
	}
	return nil
}

func (r *containerRuntime) del(ctx context.Context, p *pod, netns string) error {
	if err := r.cni.DelNetworkList(ctx, r.list, runtimeConf(p, netns)); err != nil {
		return fmt.Errorf("DEL: %w", err)
	}
	return nil
}

func runtimeConf(p *pod, netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: p.sandbox,
		NetNS:       netns,
		IfName:      clusterInterface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.Metadata.Namespace},
			{"K8S_POD_NAME", p.Metadata.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.sandbox},
			{"K8S_POD_UID", p.Metadata.UID},
		},
		CapabilityArgs: map[string]any{annotationsCapability: p.Metadata.Annotations},
	}
}

// status is one element of the network status.
type status struct {
	Name      string   `json:"name"`
	Interface string   `json:"interface"`
	IPs       []string `json:"ips"`
	MAC       string   `json:"mac"`
	Default   bool     `json:"default"`
	Gateway   []string `json:"gateway"`
}

// statusLimit is how long the daemon may take to write a network status after ADD, which does not wait for it.
const statusLimit = 5 * time.Second

// awaitFile returns the content of a file that is made within statusLimit, as a whole.
func awaitFile(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		b, err := os.ReadFile(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return b, err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// readStatus reads the network status. Without Kubernetes the daemon writes the annotations of a pod to a file.
func readStatus(ctx context.Context, p *pod) ([]status, string, error) {
	path := filepath.Join(statusDir, p.Metadata.Namespace+"_"+p.Metadata.Name+".json")
	b, err := awaitFile(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("multus-daemon wrote no status of the pod within %s: %w", statusLimit, err)
	}
	if err != nil {
		return nil, "", err
	}
	annotations := map[string]string{}
	if err := json.Unmarshal(b, &annotations); err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	text := annotations[statusAnnotation]
	var list []status
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, "", fmt.Errorf("annotation %s in %s: %w", statusAnnotation, path, err)
	}
	return list, text, nil
}

// names returns the names of the pod's networks in the order of the network status.
func (p *pod) names() ([]string, error) {
	b, err := os.ReadFile(filepath.Join(confDir, filepath.Base(clusterFile)))
	if err != nil {
		return nil, err
	}
	var cluster struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(b, &cluster); err != nil {
		return nil, fmt.Errorf("%s: %w", clusterFile, err)
	}
	names := []string{cluster.Name}
	for item := range strings.SplitSeq(p.networks(), ",") {
		names = append(names, p.Metadata.Namespace+"/"+strings.TrimSpace(item))
	}
	return names, nil
}
