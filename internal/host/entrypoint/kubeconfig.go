package entrypoint

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"multus/internal/fsx"
)

// tokenFile is the file with the token, which the kubeconfig beside it names. The plugin reads it at each call, so that
// a rotated token is used at once, and the kubeconfig has no credentials (multus-cni#852).
const tokenFile = "multus.token"

// kubeconfig is a kubeconfig file with today's names (behaviour G5).
type kubeconfig struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	Clusters       []namedCluster `json:"clusters"`
	Users          []namedUser    `json:"users"`
	Contexts       []namedContext `json:"contexts"`
	CurrentContext string         `json:"current-context"`
}

type namedCluster struct {
	Name    string `json:"name"`
	Cluster struct {
		Server   string `json:"server"`
		CA       []byte `json:"certificate-authority-data,omitempty"`
		Insecure bool   `json:"insecure-skip-tls-verify,omitempty"`
	} `json:"cluster"`
}

type namedUser struct {
	Name string `json:"name"`
	User struct {
		TokenFile string `json:"tokenFile"`
	} `json:"user"`
}

type namedContext struct {
	Name    string `json:"name"`
	Context struct {
		Cluster string `json:"cluster"`
		User    string `json:"user"`
	} `json:"context"`
}

// credentials copies the pod's token and writes the kubeconfig that names it, if they have changed. It reports whether
// one of them has changed (behaviour G5, G20).
func (o *Options) credentials() (changed bool, err error) {
	token, err := os.ReadFile(filepath.Join(o.ServiceAccountDir, "token"))
	if err != nil {
		return false, fmt.Errorf("read the pod's token: %w", err)
	}
	config, err := o.kubeconfig()
	if err != nil {
		return false, err
	}
	dir := filepath.Join(o.ConfDir, "multus.d")
	for _, d := range []string{dir, o.MultusConfDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return false, fmt.Errorf("make directory: %w", err)
		}
	}
	// The token is written first, so that a kubeconfig never names a missing file.
	for _, f := range []struct {
		name string
		data []byte
	}{{tokenFile, token}, {filepath.Base(o.KubeconfigFileHost), config}} {
		wrote, err := replace(filepath.Join(dir, f.name), f.data)
		if err != nil {
			return changed, fmt.Errorf("write %s: %w", f.name, err)
		}
		changed = changed || wrote
	}
	return changed, nil
}

func (o *Options) kubeconfig() ([]byte, error) {
	host, port := o.Getenv("KUBERNETES_SERVICE_HOST"), o.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: run in a pod")
	}
	protocol := o.Getenv("KUBERNETES_SERVICE_PROTOCOL")
	if protocol == "" {
		protocol = "https"
	}
	var c namedCluster
	c.Name = "local"
	c.Cluster.Server = protocol + "://" + net.JoinHostPort(host, port)
	if o.SkipTLSVerify {
		c.Cluster.Insecure = true
	} else {
		ca, err := os.ReadFile(filepath.Join(o.ServiceAccountDir, "ca.crt"))
		if err != nil {
			return nil, fmt.Errorf("read the API server's CA: %w", err)
		}
		c.Cluster.CA = ca
	}
	var u namedUser
	u.Name = "multus"
	u.User.TokenFile = filepath.Join(filepath.Dir(o.KubeconfigFileHost), tokenFile)
	var x namedContext
	x.Name, x.Context.Cluster, x.Context.User = "multus-context", c.Name, u.Name
	return yaml.Marshal(kubeconfig{
		APIVersion: "v1", Kind: "Config", CurrentContext: x.Name,
		Clusters: []namedCluster{c}, Users: []namedUser{u}, Contexts: []namedContext{x},
	})
}

// replace writes a file atomically with mode 0600, unless it already has that content.
func replace(path string, data []byte) (bool, error) {
	return replaceIf(path, data, func() bool { return true })
}

// replaceIf is replace, except that it writes nothing if still returns false right before the file is replaced.
func replaceIf(path string, data []byte, still func() bool) (bool, error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	return fsx.WriteAtomicIf(path, data, 0o600, still)
}
