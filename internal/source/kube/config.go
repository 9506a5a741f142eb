// Package kube is the client of the Kubernetes API. It reads pods (metadata only) and network definitions
// (NetworkAttachmentDefinitions), and writes the network status and the events of pods.
//
// The package is no general Kubernetes client and makes no decisions about networks. It reads no environment variables:
// Options describe the credentials. It is the only package that imports client-go, but without client-go/kubernetes
// (the types of all API groups), because the thin plugin links the package and starts for every pod. The process edges
// (internal/host, internal/cli, internal/doctor) may import it, the engine may not.
package kube

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Settings of every client (behaviour A43).
const (
	clientQPS      = 50
	clientBurst    = 50
	requestTimeout = 60 * time.Second
)

// DefaultServiceAccountDir is the directory in which the kubelet mounts the credentials of a pod's service account.
const DefaultServiceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// ErrNoCluster is returned by Load when the options name no Kubernetes API server (behaviour A40).
var ErrNoCluster = errors.New("no kubeconfig and no in-cluster service: Kubernetes is not configured")

// Config is the configuration of a client. The alias lets callers hold one without importing client-go.
type Config = rest.Config

// Options say where the credentials are (behaviour A40-A43).
type Options struct {
	// Kubeconfig is the path of a kubeconfig file, whose current context is used. It takes precedence over the service.
	Kubeconfig string
	// ServiceHost and ServicePort are the values of KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT. The in-cluster
	// configuration requires both. The host may be an IPv6 address.
	ServiceHost string
	ServicePort string
	// ServiceAccountDir has the files token and ca.crt. It defaults to DefaultServiceAccountDir.
	ServiceAccountDir string
	// Version is the version in the user agent, multus/<version>.
	Version string
}

// Load returns the client configuration: of the kubeconfig file if one is named, else of the in-cluster service, else
// ErrNoCluster (behaviour A40). It sends no request.
func Load(o Options) (*Config, error) {
	config, err := credentials(o)
	if err != nil {
		return nil, err
	}
	version := o.Version
	if version == "" {
		version = "unknown"
	}
	config.QPS = clientQPS
	config.Burst = clientBurst
	config.Timeout = requestTimeout
	config.UserAgent = "multus/" + version
	return config, nil
}

func credentials(o Options) (*Config, error) {
	switch {
	case o.Kubeconfig != "":
		config, err := fromFile(o.Kubeconfig)
		if err != nil {
			// The file may have been named by a flag, the environment or a configuration.
			return nil, fmt.Errorf("load kubeconfig %q: %w; correct the file, or name another one (--kubeconfig, KUBECONFIG, "+
				"or the key kubeconfig of the Multus configuration)", o.Kubeconfig, err)
		}
		return config, nil
	case o.ServiceHost != "" && o.ServicePort != "":
		dir := o.ServiceAccountDir
		if dir == "" {
			dir = DefaultServiceAccountDir
		}
		config, err := inCluster(o.ServiceHost, o.ServicePort, dir)
		if err != nil {
			return nil, fmt.Errorf("load in-cluster credentials: %w; mount the service account token at %s or name a kubeconfig",
				err, dir)
		}
		return config, nil
	}
	return nil, ErrNoCluster
}

// fromFile reads this file only. The default loading rules of clientcmd would silently use the in-cluster service if
// the file is empty, and so hide a half-written file.
func fromFile(path string) (*Config, error) {
	file, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, err
	}
	if file.CurrentContext == "" {
		return nil, errors.New("current-context is not set")
	}
	kubeContext, ok := file.Contexts[file.CurrentContext]
	if !ok {
		return nil, fmt.Errorf("current-context %q is not among its contexts", file.CurrentContext)
	}
	if _, ok := file.Clusters[kubeContext.Cluster]; !ok {
		return nil, fmt.Errorf("context %q names cluster %q, which is not among its clusters", file.CurrentContext,
			kubeContext.Cluster)
	}
	if err := clientcmd.ResolveLocalPaths(file); err != nil {
		return nil, fmt.Errorf("resolve relative paths: %w", err)
	}
	return clientcmd.NewNonInteractiveClientConfig(*file, file.CurrentContext, &clientcmd.ConfigOverrides{},
		nil).ClientConfig()
}

// inCluster uses the path of the token, not its content: the kubelet renews the token, and client-go reads the file
// again. A copied token expires after an hour.
func inCluster(host, port, dir string) (*Config, error) {
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt")
	for _, path := range []string{token, ca} {
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return &Config{
		Host:            "https://" + net.JoinHostPort(host, port),
		BearerTokenFile: token,
		TLSClientConfig: rest.TLSClientConfig{CAFile: ca},
	}, nil
}
