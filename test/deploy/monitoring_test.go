package deploy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"multus/internal/agent/metrics"
	"multus/internal/source/kube"
	"multus/internal/testutil/tool"
)

// promtoolLimit bounds one call of promtool.
const promtoolLimit = time.Minute

// monitoringTypes are CRDs in the place of those of the Prometheus operator. Objects are accepted, and their fields are
// not checked.
func monitoringTypes(t *testing.T, client dynamic.Interface) {
	t.Helper()
	for plural, kind := range map[string]string{"podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule"} {
		stub := &unstructured.Unstructured{}
		text := strings.NewReplacer("security.openshift.io", "monitoring.coreos.com", `"Cluster"`, `"Namespaced"`,
			"securitycontextconstraints", plural, "SecurityContextConstraints", kind).Replace(scc)
		if err := stub.UnmarshalJSON([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := apply(t, client, stub, false); err != nil {
			t.Fatal(err)
		}
	}
}

// promtool runs promtool, and returns what it prints.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), promtoolLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool.Path(t, "promtool"), args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("promtool: %w", errors.Join(err, errors.New(out.String())))
	}
	return out.String(), nil
}

// alertRules writes the rules of the component into a file that Prometheus reads, and returns it with the names of the
// alerts.
func alertRules(t *testing.T, dir string) (file string, names []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "components/monitoring/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var rule struct {
		Spec struct {
			Groups []struct {
				Name  string           `json:"name"`
				Rules []map[string]any `json:"rules"`
			} `json:"groups"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(b, &rule); err != nil {
		t.Fatal(err)
	}
	for _, g := range rule.Spec.Groups {
		for _, r := range g.Rules {
			names = append(names, fmt.Sprint(r["alert"]))
		}
	}
	text, err := yaml.Marshal(rule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "alerts-rules.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, names
}

// TestAlerts checks the alerts with promtool: their syntax, and with its unit tests when each of them fires and when
// not (behaviour F74). Each alert has a unit test in which it fires, and a section in docs/runbooks.md to which it
// links.
func TestAlerts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, names := alertRules(t, dir)
	if out, err := promtool(t, "check", "rules", "--lint=all", "--lint-fatal", file); err != nil ||
		!strings.Contains(out, "9 rules found") {
		t.Errorf("%s %v", out, err)
	}
	tests, err := os.ReadFile("testdata/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "alerts.yaml")
	if err := os.WriteFile(copied, tests, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(t, "test", "rules", copied); err != nil {
		t.Error(out)
	}
	page, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.Contains(string(page), "\n## "+name+"\n") {
			t.Errorf("docs/runbooks.md has no section for %s", name)
		}
		if !strings.Contains(string(rules), "runbook_url: docs/runbooks.md#"+strings.ToLower(name)+"\n") {
			t.Errorf("%s does not link to its section", name)
		}
		fires := regexp.MustCompile(`alertname: ` + name + `\n +exp_alerts:\n +- `)
		quiet := regexp.MustCompile(`alertname: ` + name + `(, exp_alerts: \[\]|\n +exp_alerts: \[\])`)
		if !fires.Match(tests) || !quiet.Match(tests) {
			t.Errorf("testdata/alerts.yaml has no test in which %s fires, or none in which it does not", name)
		}
	}
	if n := len(regexp.MustCompile(`(?m)^## Multus`).FindAll(page, -1)); n != len(names) {
		t.Errorf("%d sections, %d alerts", n, len(names))
	}
}

// TestChartMonitoring checks the values of the chart for the objects of the Prometheus operator and for the dashboard.
func TestChartMonitoring(t *testing.T) {
	t.Parallel()
	m, err := template(t, "metrics.enabled=true", "metrics.port=9999", "metrics.address=127.0.0.1",
		"metrics.podMonitor.enabled=true", "metrics.podMonitor.interval=7s", "metrics.podMonitor.labels.release=prom",
		"metrics.prometheusRule.enabled=true", "metrics.prometheusRule.labels.release=prom", "commonLabels.c=d",
		"metrics.prometheusRule.disabled[0]=MultusSlotLost", "metrics.prometheusRule.runbooks=https://x.example/r",
		"grafanaDashboard.enabled=true", "grafanaDashboard.annotations.folder=Networks", "namespaceOverride=team")
	if err != nil {
		t.Fatal(err)
	}
	_, names := alertRules(t, t.TempDir())
	seen := map[string]*unstructured.Unstructured{}
	for _, u := range m.objects {
		seen[u.GetKind()+" "+u.GetName()] = u
	}
	monitor, rule, board := seen["PodMonitor multus"], seen["PrometheusRule multus"], seen["ConfigMap multus-dashboard"]
	if monitor == nil || rule == nil || board == nil {
		t.Fatalf("%s", m.text)
	}
	var left []string
	groups, _, _ := unstructured.NestedSlice(rule.Object, "spec", "groups")
	for _, match := range regexp.MustCompile(`alert:(\w+)`).FindAllStringSubmatch(fmt.Sprint(groups), -1) {
		left = append(left, match[1])
	}
	slices.Sort(left)
	want := slices.DeleteFunc(slices.Sorted(slices.Values(names)), func(n string) bool { return n == "MultusSlotLost" })
	data, _, _ := unstructured.NestedString(board.Object, "data", "multus.json")
	dashboard, err := os.ReadFile(filepath.Join(root, "dashboards/multus.json"))
	if err != nil {
		t.Fatal(err)
	}
	has, text := strings.Contains, string(m.text)
	for what, ok := range map[string]bool{
		"labels": monitor.GetLabels()["release"] == "prom" && monitor.GetLabels()["app"] == "multus" &&
			rule.GetLabels()["release"] == "prom" && rule.GetLabels()["c"] == "d",
		"interval": strings.Count(fmt.Sprint(monitor.Object), "interval:7s") == 2,
		"alerts":   slices.Equal(left, want),
		"runbooks": has(text, "runbook_url: https://x.example/r#multusdaemondown") && !has(text, "docs/runbooks.md"),
		"port":     has(text, "--metrics-port=9999") && has(text, "containerPort: 9999"),
		"address":  has(text, `\"metricsAddress\": \"127.0.0.1\"`),
		"dashboard": data == string(dashboard) && board.GetLabels()["grafana_dashboard"] == "1" &&
			board.GetLabels()["c"] == "d",
		"annotation": board.GetAnnotations()["folder"] == "Networks",
		"namespace":  monitor.GetNamespace() == "team" && rule.GetNamespace() == "team" && board.GetNamespace() == "team",
	} {
		if !ok {
			t.Errorf("%s:\n%s", what, m.text)
		}
	}
}

// TestScrapeConfig checks that Prometheus accepts the configuration in docs/metrics.md.
func TestScrapeConfig(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatal("no configuration")
	}
	file := filepath.Join(t.TempDir(), "prometheus.yaml")
	if err := os.WriteFile(file, block[1], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(t, "check", "config", file); err != nil {
		t.Errorf("%s %v", out, err)
	}
}

// TestMetricsAuth checks, with a real API server and the token of a daemon's pod, that the daemon of the component
// metrics-auth serves its metrics to the account that the component has for that, and to no other one (behaviour F76).
func TestMetricsAuth(t *testing.T) {
	i := installManifest(t, with(t, base, "metrics-auth"))
	client, err := kube.New(i.config(i.token(t, nodeA)))
	if err != nil {
		t.Fatal(err)
	}
	account := func(name string) string {
		r, err := i.Client().CoreV1().ServiceAccounts("kube-system").CreateToken(t.Context(), name,
			&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Token
	}
	reader, other := account("multus-metrics-reader"), account("multus")
	wait(t, "the roles", func() error {
		known, allowed, err := client.MayGet(t.Context(), reader, "/metrics")
		if err == nil && (!known || !allowed) {
			err = fmt.Errorf("known %t, allowed %t", known, allowed)
		}
		return err
	})
	server, err := metrics.New(true).Guarded(true, client, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(server.Handler)
	s.TLS = server.TLSConfig
	s.StartTLS()
	defer s.Close()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // as Prometheus does
	defer transport.CloseIdleConnections()
	for name, tc := range map[string]struct {
		path, token string
		want        int
	}{
		"the reader":         {"/metrics", reader, http.StatusOK},
		"another account":    {"/metrics", other, http.StatusForbidden},
		"no token":           {"/metrics", "", http.StatusUnauthorized},
		"a wrong token":      {"/metrics", reader + "x", http.StatusUnauthorized},
		"profiles, loopback": {"/debug/pprof/cmdline", "", http.StatusOK},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tc.token != "" {
			req.Header.Set("Authorization", "Bearer "+tc.token)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, tc.want)
		}
	}
}
