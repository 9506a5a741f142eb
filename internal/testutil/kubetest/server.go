package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"multus/internal/testutil/pki"
	"multus/internal/testutil/proc"
)

// auditPolicy logs every request when it is received. So a request whose answer a client has seen is always logged. The
// server's requests to itself are left out.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules:
- level: None
  users: ["system:apiserver"]
- level: Metadata
`

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *Cluster) writeFiles() error {
	keys, err := pki.New("127.0.0.1", "::1", "10.96.0.1", advertised)
	if err != nil {
		return err
	}
	c.ca = keys.CA
	files := map[string][]byte{"server.crt": keys.Cert, "server.key": keys.Key}
	files["audit-policy.yaml"] = []byte(auditPolicy)
	for name, b := range files {
		if err := os.WriteFile(c.path(name), b, 0o600); err != nil {
			return fmt.Errorf("write file of the API server: %w", err)
		}
	}
	return c.writeTokens()
}

func (c *Cluster) writeTokens() error {
	tokens := []byte(c.token + ",admin,admin,\"system:masters\"\n")
	if err := os.WriteFile(c.path("tokens.csv"), tokens, 0o600); err != nil {
		return fmt.Errorf("write tokens of the API server: %w", err)
	}
	return nil
}

func etcdArgs(dir, url, peerPort string) []string {
	peer := "http://127.0.0.1:" + peerPort
	return []string{
		"--data-dir=" + filepath.Join(dir, "etcd"),
		"--listen-client-urls=" + url,
		"--advertise-client-urls=" + url,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=default=" + peer,
		// Tests kill processes, not machines. The page cache survives.
		"--unsafe-no-fsync",
		"--log-level=error",
	}
}

func (c *Cluster) apiserverArgs(etcdURL, port string, o Options) []string {
	mode := "AlwaysAllow"
	if o.RBAC {
		mode = "RBAC"
	}
	return []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=127.0.0.1",
		"--secure-port=" + port,
		"--advertise-address=" + advertised,
		"--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file=" + c.path("server.crt"),
		"--tls-private-key-file=" + c.path("server.key"),
		"--token-auth-file=" + c.path("tokens.csv"),
		"--authorization-mode=" + mode,
		"--watch-cache=" + strconv.FormatBool(!o.Uncached),
		"--service-account-key-file=" + c.path("server.key"),
		"--service-account-signing-key-file=" + c.path("server.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		// The plugin requires a service account for every pod, and no controller creates one.
		"--disable-admission-plugins=ServiceAccount",
		"--allow-privileged=true",
		"--audit-policy-file=" + c.path("audit-policy.yaml"),
		"--audit-log-path=" + c.path("audit.log"),
		// In MB. Requests reads one file, so it must not be rotated.
		"--audit-log-maxsize=100000",
	}
}

// advertised is an address outside of the loopback network, which the API server requires. The address does not have to
// exist.
const advertised = "10.255.255.1"

// startServer starts a server that is killed when this process ends, even if this process crashes.
func startServer(log, path string, args []string) (*proc.Process, error) {
	cmd := exec.Command(path, args...)
	cmd.Dir = filepath.Dir(log)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return proc.Start(log, cmd, proc.Here)
}

func (c *Cluster) startAPI() (*proc.Process, error) {
	return startServer(c.path("apiserver.log"), c.apiPath, c.apiArgs)
}

// waitReady waits until the API server answers and has created the namespaces that every cluster has.
func (c *Cluster) waitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	err := c.poll(ctx, func() error {
		if err := c.get(ctx, "/readyz"); err != nil {
			return err
		}
		for _, ns := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem} {
			if err := c.get(ctx, "/api/v1/namespaces/"+ns); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for the API server: %w\n%s\n%s", err, c.etcd.Tail(), c.api.Tail())
	}
	return nil
}

// poll calls try until it succeeds, a server has exited, or the context ends.
func (c *Cluster) poll(ctx context.Context, try func() error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-c.api.Done():
			return fmt.Errorf("kube-apiserver: %w", errExited)
		case <-c.etcd.Done():
			return fmt.Errorf("etcd: %w", errExited)
		case <-tick.C:
		}
	}
}

func (c *Cluster) get(ctx context.Context, path string) error {
	return c.kube.Discovery().RESTClient().Get().AbsPath(path).Do(ctx).Error()
}

// installCRD installs the CRD of the manifests and waits until network definitions are served.
func (c *Cluster) installCRD(root string) error {
	b, err := os.ReadFile(filepath.Join(root, "deploy", "base", "crd.yaml"))
	if err != nil {
		return fmt.Errorf("read CRD: %w", err)
	}
	if b, err = yaml.YAMLToJSONStrict(b); err != nil {
		return fmt.Errorf("parse CRD: %w", err)
	}
	crd := &unstructured.Unstructured{}
	if err := crd.UnmarshalJSON(b); err != nil {
		return fmt.Errorf("parse CRD: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if _, err := c.dyn.Resource(crds).Create(ctx, crd, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create CRD: %w", err)
	}
	err = c.poll(ctx, func() error {
		_, err := c.dyn.Resource(networks).Namespace(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the CRD: %w", err)
	}
	return c.backdate(ctx, crd.GetName())
}

// backdate makes the CRD look older than it is. The API server delays the creation of objects by 2 s while their CRD is
// younger than that, so that other API servers notice the CRD. Here is no other one.
func (c *Cluster) backdate(ctx context.Context, name string) error {
	err := c.poll(ctx, func() error {
		crd, err := c.dyn.Resource(crds).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(crd.Object, "status", "conditions")
		if err != nil {
			return err
		}
		for _, cond := range conditions {
			if m, ok := cond.(map[string]any); ok {
				m["lastTransitionTime"] = time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
			}
		}
		if err := unstructured.SetNestedSlice(crd.Object, conditions, "status", "conditions"); err != nil {
			return err
		}
		_, err = c.dyn.Resource(crds).UpdateStatus(ctx, crd, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("backdate CRD: %w", err)
	}
	return nil
}

// Stop freezes the API server and returns when it is frozen. Connections stay open and get no answers, as on a machine
// that hangs. Answers that were already sent may still arrive.
func (c *Cluster) Stop(tb testing.TB) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	if err := c.api.Freeze(ctx); err != nil {
		tb.Fatal(err)
	}
}

// Resume continues the API server after Stop.
func (c *Cluster) Resume(tb testing.TB) {
	tb.Helper()
	if err := c.api.Signal(syscall.SIGCONT); err != nil {
		tb.Fatal(err)
	}
}

// Kill ends the API server but not etcd. Connections are refused from then on.
func (c *Cluster) Kill(tb testing.TB) {
	tb.Helper()
	c.api.Kill()
}

// Restart starts the API server again with the same address and data. It returns when the server is ready.
func (c *Cluster) Restart(tb testing.TB) {
	tb.Helper()
	c.api.Kill()
	for attempt := 1; ; attempt++ {
		p, err := c.startAPI()
		if err != nil {
			tb.Fatal(err)
		}
		c.api = p
		if err = c.waitReady(); err == nil {
			return
		}
		if !errors.Is(err, errExited) || attempt == startAttempts {
			tb.Fatal(err)
		}
	}
}

// Pids returns the PIDs of the API server and of etcd, for measurements of their resource usage.
func (c *Cluster) Pids() (api, etcd int) { return c.api.Pid, c.etcd.Pid }

// EtcdBytes returns the size of etcd's database file.
func (c *Cluster) EtcdBytes(tb testing.TB) int {
	tb.Helper()
	info, err := os.Stat(c.path("etcd/member/snap/db"))
	if err != nil {
		tb.Fatalf("look at etcd's database: %v", err)
	}
	return int(info.Size())
}
