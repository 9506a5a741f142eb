package admission

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clocktesting "k8s.io/utils/clock/testing"

	host "multus/internal/host/admission"
	"multus/internal/testutil/cluster"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/module"
	"multus/internal/testutil/proc"
)

const (
	certManagerModule = "github.com/cert-manager/cert-manager"
	// authority is the name of the authority's certificate and secret in deploy/components/admission-cert-manager.
	authority = "multus-admission-ca"
)

var (
	issuers      = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "issuers"}
	certificates = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
)

// certManager runs one part of cert-manager, the controller or cainjector, until the test ends or stop is called.
func (s *site) certManager(part string, args ...string) (stop func()) {
	s.tb.Helper()
	root, err := module.Root()
	if err != nil {
		s.tb.Fatal(err)
	}
	binary := filepath.Join(root, "bin", "tools", "certmanager")
	if _, err := os.Stat(binary); err != nil {
		s.tb.Skipf("run `make bin/tools/certmanager`: %v", err)
	}
	cmd := exec.Command(binary, append([]string{part, "--kubeconfig", s.Kubeconfig(s.tb)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p, err := proc.Start(filepath.Join(s.tb.TempDir(), part), cmd, proc.Here)
	if err != nil {
		s.tb.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if p.Exited() || s.tb.Failed() {
			s.tb.Errorf("%s of cert-manager: %s", part, p.Tail())
		}
		p.Kill()
	})
	s.tb.Cleanup(stop)
	return stop
}

// installCertManager creates the CRDs of the release that tools/certmanager pins, and waits until they are served.
func (s *site) installCertManager() {
	s.tb.Helper()
	root, err := module.Root()
	if err != nil {
		s.tb.Fatal(err)
	}
	cmd := exec.CommandContext(s.tb.Context(), "go", "mod", "download", "-json", certManagerModule)
	cmd.Dir = filepath.Join(root, "tools", "certmanager")
	out, err := cmd.Output()
	if err != nil {
		s.tb.Skipf("no source of cert-manager: %v", err)
	}
	var source struct{ Dir string }
	if err := json.Unmarshal(out, &source); err != nil {
		s.tb.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(source.Dir, "deploy", "crds", "cert-manager.io_*.yaml"))
	if err != nil || len(files) == 0 {
		s.tb.Fatalf("no definitions in the module of cert-manager: %v", err)
	}
	for _, file := range files {
		for _, u := range documents(s.tb, file) {
			s.create(u)
		}
	}
	for _, r := range []schema.GroupVersionResource{issuers, certificates} {
		eventually.True(s.tb, r.Resource+" are served", func() bool {
			_, err := s.dyn.Resource(r).List(contextFor(s.tb), metav1.ListOptions{})
			return err == nil
		})
	}
}

// applyComponents applies what the two components add to base. The API server calls an address in the place of the
// service, and the certificate is also for its name.
func (s *site) applyComponents(webhook string) {
	s.tb.Helper()
	// kustomize reads no absolute paths.
	dir, err := filepath.EvalSymlinks(s.tb.TempDir())
	if err != nil {
		s.tb.Fatal(err)
	}
	deploy, err := filepath.Abs("../../deploy")
	if err != nil {
		s.tb.Fatal(err)
	}
	up, err := filepath.Rel(dir, deploy)
	if err != nil {
		s.tb.Fatal(err)
	}
	text := fmt.Sprintf("resources: [%[1]s/base]\ncomponents: [%[1]s/components/admission, "+
		"%[1]s/components/admission-cert-manager]\n", up)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	all, err := cluster.Render(dir)
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, u := range all {
		if !strings.HasPrefix(u.GetName(), host.Name) || u.GetKind() == "ServiceAccount" { // of base, or it exists
			continue
		}
		switch names, found, _ := unstructured.NestedStringSlice(u.Object, "spec", "dnsNames"); {
		case strings.HasSuffix(u.GetKind(), "WebhookConfiguration"):
			redirect(s.tb, u, webhook)
		case found:
			if err := unstructured.SetNestedStringSlice(u.Object, append(names, "localhost"), "spec", "dnsNames"); err != nil {
				s.tb.Fatal(err)
			}
		}
		_, err := s.dyn.Resource(kinds[u.GetKind()]).Namespace(u.GetNamespace()).Apply(contextFor(s.tb), u.GetName(), u,
			metav1.ApplyOptions{FieldManager: "test", Force: true})
		if err != nil {
			s.tb.Fatalf("apply %s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// secret returns the Secret with this name. It returns nil if there is no such Secret yet.
func (s *site) secret(name string) *corev1.Secret {
	s.tb.Helper()
	found, err := s.Client().CoreV1().Secrets("kube-system").Get(contextFor(s.tb), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		s.tb.Fatal(err)
	}
	return found
}

// renewed waits until a secret has another certificate than the given one, and returns it.
func (s *site) renewed(name string, old *corev1.Secret) *corev1.Secret {
	s.tb.Helper()
	var now *corev1.Secret
	eventually.True(s.tb, "a certificate in the secret "+name, func() bool {
		now = s.secret(name)
		return now != nil && len(now.Data["tls.crt"]) > 0 &&
			(old == nil || !bytes.Equal(now.Data["tls.crt"], old.Data["tls.crt"]))
	})
	return now
}

// renew makes cert-manager renew a certificate, as `cmctl renew` does.
func (s *site) renew(name string) {
	s.tb.Helper()
	client := s.dyn.Resource(certificates).Namespace("kube-system")
	eventually.NoError(contextFor(s.tb), s.tb, eventually.Timeout, "renew "+name, func() error {
		c, err := client.Get(contextFor(s.tb), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(c.Object, "status", "conditions")
		if err != nil {
			return err
		}
		conditions = append(conditions, map[string]any{
			"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "the test renews it",
			"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
			"observedGeneration": c.GetGeneration(),
		})
		if err := unstructured.SetNestedSlice(c.Object, conditions, "status", "conditions"); err != nil {
			return err
		}
		_, err = client.UpdateStatus(contextFor(s.tb), c, metav1.UpdateOptions{})
		return err
	})
}

// trusts waits until all webhooks have a caBundle.
func (s *site) trusts(bundle []byte) {
	s.tb.Helper()
	want := base64.StdEncoding.EncodeToString(bundle)
	eventually.True(s.tb, "the API server trusts the authority", func() bool {
		return !slices.ContainsFunc(s.bundles(), func(got string) bool { return got != want })
	})
}

// bundles returns the caBundles of all webhooks.
func (s *site) bundles() (out []string) {
	s.tb.Helper()
	for _, kind := range []string{"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"} {
		u, err := s.dyn.Resource(kinds[kind]).Get(contextFor(s.tb), host.Name, metav1.GetOptions{})
		if err != nil {
			s.tb.Fatal(err)
		}
		hooks, _, err := unstructured.NestedSlice(u.Object, "webhooks")
		if err != nil {
			s.tb.Fatal(err)
		}
		for _, h := range hooks {
			bundle, _, _ := unstructured.NestedString(h.(map[string]any), "clientConfig", "caBundle")
			out = append(out, bundle)
		}
	}
	return out
}

// kubelet writes a secret into a directory as the kubelet does: each state has a directory of its own, and one link,
// which is replaced, makes all files visible at once.
type kubelet struct {
	dir    string
	states int
}

// write makes a state of the secret visible.
func (k *kubelet) write(tb testing.TB, secret *corev1.Secret) {
	tb.Helper()
	old, _ := os.Readlink(filepath.Join(k.dir, "..data")) // none at first
	k.states++
	state := fmt.Sprintf("..state-%d", k.states)
	check := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	check(os.Mkdir(filepath.Join(k.dir, state), 0o750))
	for name, data := range secret.Data {
		check(os.WriteFile(filepath.Join(k.dir, state, name), data, 0o640))
	}
	check(os.Symlink(state, filepath.Join(k.dir, "..data_tmp")))
	check(os.Rename(filepath.Join(k.dir, "..data_tmp"), filepath.Join(k.dir, "..data")))
	for name := range secret.Data {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(k.dir, name)); !os.IsExist(err) {
			check(err)
		}
	}
	if old != "" {
		check(os.RemoveAll(filepath.Join(k.dir, old)))
	}
}

// certificate returns the first certificate of a secret.
func certificate(tb testing.TB, secret *corev1.Secret) *x509.Certificate {
	tb.Helper()
	block, _ := pem.Decode(secret.Data["tls.crt"])
	if block == nil {
		tb.Fatalf("no certificate in %s", secret.Name)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// managed are two replicas whose certificate cert-manager maintains.
type managed struct {
	*site
	clock    *clocktesting.FakeClock
	kubelets [2]kubelet
	replicas [2]*replica
	load     *load
}

// serve makes the files of a replica those of the secret, and waits until the replica serves its certificate.
func (m *managed) serve(i int, secret *corev1.Secret) {
	m.tb.Helper()
	m.kubelets[i].write(m.tb, secret)
	want := certificate(m.tb, secret)
	eventually.True(m.tb, "the replica serves the certificate of the files", func() bool {
		m.clock.Step(time.Minute)
		c := leaf(m.tb, m.replicas[i].webhook)
		return c != nil && c.Equal(want)
	})
}

// replace renews the certificate with do, and lets the replicas serve the new one, one after the other. It fails the
// test if a call fails meanwhile, with new connections at each moment.
func (m *managed) replace(tb testing.TB, do func()) {
	tb.Helper()
	old, failed := m.secret(host.Secret), m.load.failed.Load()
	do()
	secret := m.renewed(host.Secret, old)
	for i := range m.replicas {
		m.reconnect()
		m.serve(i, secret)
	}
	m.reconnect()
	if n := m.load.failed.Load() - failed; n > 0 {
		tb.Errorf("%d calls failed", n)
	}
}

// reconnect ends the connections of the API server several times, so that both replicas get new ones.
func (m *managed) reconnect() {
	m.tb.Helper()
	for range 3 {
		m.load.reconnect()
		m.load.more()
	}
}

// own creates what the component admission has without cert-manager: a secret with the certificate that a replica has
// made, and its authority in the webhook configurations.
func (s *site) own() *corev1.Secret {
	s.tb.Helper()
	r := s.start(`{}`, nil)
	s.point(port(r.webhook))
	s.await()
	r.stop()
	return s.secret(host.Secret)
}

// TestCertManager checks with the controllers of cert-manager that the component replaces the certificate that the
// webhook has made before, and that no call fails while cert-manager renews the certificate: not before or after the
// kubelets write the files, and whatever cainjector does. (behaviour S26.)
func TestCertManager(t *testing.T) {
	s := newSite(t)
	s.installCertManager()
	s.certManager("controller")
	stop := s.certManager("cainjector")
	m := &managed{site: s, clock: clocktesting.NewFakeClock(time.Now())}
	for i := range m.replicas {
		dir := t.TempDir()
		m.kubelets[i].dir = dir
		m.replicas[i] = s.start(`{}`, m.clock, func(o *host.Options) { o.CertManager, o.CertDir = true, dir })
	}
	b := newBalancer(t, m.replicas[0].webhook, m.replicas[1].webhook)
	own := s.own()
	begin := time.Now()
	s.applyComponents(port(b.addr))
	secret := s.renewed(host.Secret, own)
	for i := range m.replicas {
		m.serve(i, secret)
	}
	s.await()
	t.Logf("a broken definition is denied %s after the components were applied", time.Since(begin))
	ca := s.renewed(authority, nil)
	s.trusts(slices.Concat(own.Data["ca.crt"], ca.Data["tls.crt"]))

	m.load = s.load(b)
	renew := func() { s.renew(host.Name) }
	t.Run("as cmctl renew does", func(t *testing.T) { m.replace(t, renew) })
	t.Run("the secret is deleted", func(t *testing.T) {
		m.replace(t, func() {
			err := s.Client().CoreV1().Secrets("kube-system").Delete(t.Context(), host.Secret, metav1.DeleteOptions{})
			if err != nil {
				t.Fatal(err)
			}
		})
	})
	stop()
	t.Run("cainjector does not run", func(t *testing.T) { m.replace(t, renew) })
	// Before version 1.19 the caBundle is replaced, and not extended.
	stop = s.certManager("cainjector", "--feature-gates=CAInjectorMerging=false")
	t.Run("the caBundle is replaced", func(t *testing.T) {
		s.trusts(ca.Data["tls.crt"])
		m.replace(t, renew)
	})
	s.trusts(ca.Data["tls.crt"])
	t.Run("the authority is renewed", func(t *testing.T) {
		s.renew(authority)
		ca = s.renewed(authority, ca)
		m.reconnect()
		m.replace(t, func() {
			renew()
			s.trusts(ca.Data["tls.crt"])
		})
	})
	stop()
	m.load.end()
	t.Logf("%d calls, %d failed", m.load.calls.Load(), m.load.failed.Load())
}
