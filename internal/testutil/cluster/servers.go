package cluster

import (
	"context"
	"fmt"
	"net"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func state(name string) string { return stateDir + "/" + name }

const (
	apiserver = "kube-apiserver"
	etcdURL   = "http://127.0.0.1:2379"
)

func etcdArgs() []string {
	const peer = "http://127.0.0.1:2380"
	return []string{
		"--data-dir=" + state("etcd"), "--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
		"--unsafe-no-fsync", "--log-level=error",
	}
}

func apiserverArgs() []string {
	return []string{
		"--etcd-servers=" + etcdURL,
		// The service address and its port. Pods reach the server there without a kube-proxy.
		"--bind-address=" + serviceIP, "--secure-port=443", "--advertise-address=" + nodeIP,
		"--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file=" + state("server.crt"), "--tls-private-key-file=" + state("server.key"),
		"--client-ca-file=" + state("ca.crt"), "--token-auth-file=" + state("tokens.csv"),
		"--authorization-mode=Node,RBAC",
		"--service-account-key-file=" + state("server.key"), "--service-account-signing-key-file=" + state("server.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--allow-privileged=true",
		// Webhooks are called at the addresses of their pods: there is no kube-proxy.
		"--enable-aggregator-routing=true",
	}
}

func controllerManagerArgs() []string {
	return []string{
		"--kubeconfig=" + state("controller.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		"--service-account-private-key-file=" + state("server.key"), "--root-ca-file=" + state("ca.crt"),
		"--use-service-account-credentials=true", "--kube-api-qps=200", "--kube-api-burst=200",
		"--allocate-node-cidrs=false",
	}
}

func schedulerArgs() []string {
	return []string{
		"--kubeconfig=" + state("scheduler.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		"--kube-api-qps=200", "--kube-api-burst=200",
	}
}

func (c *Cluster) kubeletArgs() []string {
	return []string{
		"--config=" + state("kubelet.yaml"), "--kubeconfig=" + state("node.kubeconfig"), "--hostname-override=" + c.Node,
		"--node-ip=" + c.address(), "--root-dir=" + c.options.Paths.Kubelet,
	}
}

// startServers starts the servers of the node and waits until it can run pods.
func (c *Cluster) startServers(ctx context.Context) error {
	if err := c.start("etcd", etcdArgs()...); err != nil {
		return err
	}
	if err := c.start(apiserver, apiserverArgs()...); err != nil {
		return err
	}
	if err := c.startContainerd(ctx); err != nil {
		return err
	}
	if err := c.importOwn(ctx); err != nil {
		return err
	}
	if err := c.untilServed(ctx); err != nil {
		return err
	}
	if err := c.start("kube-controller-manager", controllerManagerArgs()...); err != nil {
		return err
	}
	if err := c.start("kube-scheduler", schedulerArgs()...); err != nil {
		return err
	}
	return c.register(ctx)
}

// untilServed waits until the API server is ready.
func (c *Cluster) untilServed(ctx context.Context) error {
	return c.poll(ctx, "the API server", func() error {
		return c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// StopAPI kills the API server. Nothing listens at its address until StartAPI. The other servers and the pods go on.
func (c *Cluster) StopAPI() {
	c.servers[apiserver].Kill()
	delete(c.servers, apiserver) // so that poll does not report its exit
}

// StartAPI starts the API server again. It returns when the server is ready.
func (c *Cluster) StartAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := c.start(apiserver, apiserverArgs()...); err != nil {
		return err
	}
	return c.untilServed(ctx)
}

// register starts the kubelet and waits until the node is ready.
func (c *Cluster) register(ctx context.Context) error {
	if err := c.startKubelet(ctx); err != nil {
		return err
	}
	if err := c.poll(ctx, "the node", func() error { return c.nodeReady(ctx) }); err != nil {
		return fmt.Errorf("%w\n%s", err, c.Logs("kubelet", "containerd"))
	}
	return nil
}

func (c *Cluster) startContainerd(ctx context.Context) error {
	if err := c.start("containerd", "--config="+state("containerd.toml")); err != nil {
		return err
	}
	return c.poll(ctx, "containerd", func() error {
		// The existence of the file proves nothing: a server that was killed leaves its socket behind.
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Path(c.options.Paths.Run+"/containerd.sock"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// startKubelet returns when the kubelet answers. The kubelet exits if containerd listens but does not serve pods yet.
// It is then started again, as a node's service manager does.
func (c *Cluster) startKubelet(ctx context.Context) error {
	const attempts, health = 10, "127.0.0.1:10248"
	for attempt := 1; ; attempt++ {
		if err := c.start("kubelet", c.kubeletArgs()...); err != nil {
			return err
		}
		err := c.poll(ctx, "the kubelet", func() error {
			conn, err := c.Dial(ctx, "tcp", health)
			if err != nil {
				return err
			}
			return conn.Close()
		})
		if err == nil || attempt == attempts || !c.servers["kubelet"].Exited() {
			return err
		}
	}
}

func (c *Cluster) nodeReady(ctx context.Context) error {
	// A pod is not admitted before its namespace has the service account.
	if _, err := c.Client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default",
		metav1.GetOptions{}); err != nil {
		return err
	}
	node, err := c.Client.CoreV1().Nodes().Get(ctx, c.Node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type != corev1.NodeReady {
			continue
		}
		if cond.Status == corev1.ConditionTrue && len(node.Spec.Taints) == 0 {
			return nil
		}
		return fmt.Errorf("node is not ready: %s, taints %v", cond.Message, node.Spec.Taints)
	}
	return fmt.Errorf("node has no condition %s", corev1.NodeReady)
}
