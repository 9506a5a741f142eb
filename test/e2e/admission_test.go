package e2e

import (
	"context"
	"crypto/tls"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/eventually"
)

// admissionServer is a process of `multus-daemon admission`.
type admissionServer struct {
	address string
	stop    func()
}

// startAdmission starts the admission server, whose probes and metrics are at an address. No webhook configuration
// makes the API server call it.
func (s *site) startAdmission(t *testing.T, health string) *admissionServer {
	t.Helper()
	secrets := s.api.Client().CoreV1().Secrets("kube-system")
	_, err := secrets.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "multus-admission-tls"},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	a := &admissionServer{address: freeAddress(t)}
	cmd := exec.Command(filepath.Join(s.BinDirs[0], "multus-daemon"), "admission", "--kubeconfig", s.api.Kubeconfig(t),
		"--listen", a.address, "--health", health, "--config", filepath.Join(t.TempDir(), "none"))
	log, err := os.Create(filepath.Join(s.Dir, "admission.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
	})
	t.Cleanup(a.stop)
	eventually.True(t, "the admission server answers", func() bool { return a.review(t) })
	return a
}

// review sends a review of a pod, as the API server does, and returns whether it was answered.
func (a *admissionServer) review(t *testing.T) bool {
	t.Helper()
	const review = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","namespace":"team",` +
		`"operation":"CREATE","resource":{"version":"v1","resource":"pods"},"object":{"apiVersion":"v1","kind":"Pod",` +
		`"metadata":{"name":"p","annotations":{"k8s.v1.cni.cncf.io/networks":"["}}}}}`
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the caBundle is not looked up here
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	url := "https://" + a.address + "/validate"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(review))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}
