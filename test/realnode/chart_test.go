package realnode

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/cluster"
	"multus/internal/testutil/helm"
)

// helmLimit bounds one call of helm, which waits for the hook of an uninstall.
const helmLimit = 3 * time.Minute

// TestChart installs, upgrades and uninstalls the Helm chart. Pods keep their networks meanwhile, and the configuration
// directory of the runtime is at last what it was. With metrics.auth the metrics are for the account of the chart
// (behaviour F76).
func TestChart(t *testing.T) {
	n := start(t, cluster.Options{})
	before := n.configurations(t)
	kubeconfig, err := n.Outside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string { return n.helm(t, kubeconfig, args...) }
	chart := filepath.Join(root, "deploy", "chart", "multus")
	n.importImage(t)

	began := time.Now()
	notes := run("install", "multus", chart, "--wait")
	n.applyNetworks(t)
	n.apply(t, pod("stays", extra))
	n.untilAttached(t, "stays")
	t.Logf("a pod with three interfaces is Ready %.1f s after the begin of helm install", time.Since(began).Seconds())
	running, err := n.Client.CoreV1().Pods("default").Get(t.Context(), "stays", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	had, err := n.interfaces(t, running)
	if err != nil {
		t.Fatal(err)
	}

	run("test", "multus", "--logs")
	doctor := regexp.MustCompile(`kubectl (.* doctor)\n`).FindStringSubmatch(notes)
	if doctor == nil {
		t.Fatal("the notes do not name doctor")
	}
	out := n.workstation(t).kubectl(t, strings.Fields(doctor[1])...)
	if !strings.HasPrefix(out, "node "+cluster.NodeName+":") {
		t.Errorf("doctor of the notes: %s", out)
	}

	run("upgrade", "multus", chart, "--set", "config.logLevel=debug", "--set", "uninstall.wait=20s",
		"--set", "metrics.enabled=true", "--set", "metrics.auth=kubernetes")
	until(t, "DaemonSet rolled out", func() error { return n.rolledOut(t) })
	n.apply(t, pod("later", extra))
	n.untilAttached(t, "later")
	n.servesMetrics(t)
	n.remove(t, "later")

	run("uninstall", "multus")
	if d := cmp.Diff(before, n.configurations(t)); d != "" {
		t.Errorf("CNI configurations, while a pod is attached (-before +after):\n%s", d)
	}
	n.runningPlain(t, "plain")
	if has, err := n.interfaces(t, running); err != nil || fmt.Sprint(has) != fmt.Sprint(had) {
		t.Errorf("the attached pod has %v, %v; had %v", has, err, had)
	}
	_, err = n.Client.CoreV1().ServiceAccounts("kube-system").Get(t.Context(), "multus", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the service account: %v", err)
	}
	n.applyNetworks(t) // the type of network definitions is kept
	n.remove(t, "stays")
	until(t, "the plugins and the state are removed", n.uninstalled)
	n.untilHeld(t, 0)

	// The complete Job of that removal still exists, and does not count for the next one (behaviour F36).
	run("install", "multus", chart, "--wait")
	run("uninstall", "multus")
	if d := cmp.Diff(before, n.configurations(t)); d != "" {
		t.Errorf("CNI configurations, uninstalled again (-before +after):\n%s", d)
	}
	n.wantUninstalled(t)
}

// configurations returns the content of the runtime's configuration directory.
func (n *node) configurations(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(n.Path(n.paths.Conf + "/*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = string(b)
	}
	return out
}

// helm runs helm for the namespace kube-system.
func (n *node) helm(t *testing.T, kubeconfig string, args ...string) string {
	t.Helper()
	out, err := helm.Run(t, helmLimit, append(args, "--kubeconfig", kubeconfig, "--namespace", "kube-system",
		"--timeout", waitTimeout.String())...)
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return out
}

// servesMetrics checks that the daemon serves its metrics to the account of the chart, and to no other one.
func (n *node) servesMetrics(t *testing.T) {
	t.Helper()
	if code, _ := n.metrics(t, "none"); code != http.StatusUnauthorized {
		t.Errorf("metrics without a token: %d", code)
	}
	until(t, "metrics", func() error {
		token, err := n.secret(t, metricsReader, "token")
		if err != nil {
			return err
		}
		code, text := n.metrics(t, token)
		for _, want := range []string{
			"\nmultus_slot_owned 1\n", `multus_add_duration_seconds_count{result="ok"} `, "multus_build_info{",
			`multus_attachments{network="default/`, `multus_delegate_calls_total{command="ADD",network="default/`,
		} {
			if code != http.StatusOK || !strings.Contains(text, want) {
				return fmt.Errorf("%d, no %q in:\n%.4000s", code, want, text)
			}
		}
		return nil
	})
}

// metricsReader is the Secret with the token of the account that may read the metrics.
const metricsReader = "multus-metrics-reader"

// secret returns a value of a Secret in kube-system.
func (n *node) secret(t *testing.T, name, key string) (string, error) {
	t.Helper()
	secret, err := n.Client.CoreV1().Secrets("kube-system").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if len(secret.Data[key]) == 0 {
		return "", fmt.Errorf("secret %s has no %s", name, key)
	}
	return string(secret.Data[key]), nil
}

// metrics requests the metrics of the daemon with a token, by TLS.
func (n *node) metrics(t *testing.T, token string) (code int, text string) {
	t.Helper()
	transport := &http.Transport{
		DialContext:     n.Dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as Prometheus does
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://127.0.0.1:9091/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
