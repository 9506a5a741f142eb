package kubetest

import (
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig writes a kubeconfig of the administrator into a temporary folder of the test and returns its path.
func (c *Cluster) Kubeconfig(tb testing.TB) string {
	tb.Helper()
	return c.KubeconfigFor(tb, c.addr, c.token)
}

// KubeconfigFor is like Kubeconfig, for another address (that of a proxy) or another token (that of a service account).
func (c *Cluster) KubeconfigFor(tb testing.TB, addr, token string) string {
	tb.Helper()
	const name = "test"
	cfg := api.NewConfig()
	cfg.Clusters[name] = &api.Cluster{Server: "https://" + addr, CertificateAuthorityData: c.ca}
	cfg.AuthInfos[name] = &api.AuthInfo{Token: token}
	cfg.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	cfg.CurrentContext = name
	path := filepath.Join(tb.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		tb.Fatalf("write kubeconfig: %v", err)
	}
	return path
}
