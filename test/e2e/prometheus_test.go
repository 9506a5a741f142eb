package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/node"
)

// alertWait bounds the wait for an alert, whose times are seconds.
const alertWait = time.Minute

// prometheus is a Prometheus that scrapes once a second.
type prometheus struct {
	address string
	log     string
}

// freeAddress returns an address of the loopback that no program listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// tool returns the path of a tool, or skips the test if it was not built.
func tool(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(node.Root(t), "bin", "tools", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not built: make tools", name)
	}
	return path
}

// scrapeJob is what Prometheus scrapes: with a token it uses TLS, and does not verify the certificate.
type scrapeJob struct{ target, token string }

// startPrometheus starts a Prometheus that scrapes jobs and has the alerts of the manifests, with short times.
func startPrometheus(t *testing.T, jobs map[string]scrapeJob) *prometheus {
	t.Helper()
	dir := t.TempDir()
	p := &prometheus{address: freeAddress(t), log: filepath.Join(dir, "log")}
	var scrapes []any
	for name, job := range jobs {
		scrape := map[string]any{"job_name": name, "honor_labels": true, "static_configs": []any{
			map[string]any{"targets": []string{job.target}, "labels": map[string]string{"node": "node-a"}},
		}}
		if job.token != "" {
			scrape["scheme"], scrape["tls_config"] = "https", map[string]bool{"insecure_skip_verify": true}
			scrape["authorization"] = map[string]string{"credentials": job.token}
		}
		scrapes = append(scrapes, scrape)
	}
	for name, content := range map[string]any{
		"rules.yaml": shortAlerts(t),
		"prometheus.yaml": map[string]any{
			"global": map[string]string{
				"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms",
			},
			"scrape_configs": scrapes, "rule_files": []string{"rules.yaml"},
		},
	} {
		b, err := yaml.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(tool(t, "prometheus"), "--config.file="+filepath.Join(dir, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for job := range jobs {
		p.until(t, "the first scrape of "+job, func() bool { return len(p.query(t, `up{job="`+job+`"} == 1`)) == 1 })
	}
	return p
}

// shortAlerts returns the rules of the manifests, with seconds in the place of their times.
func shortAlerts(t *testing.T) map[string]any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(node.Root(t), "deploy/components/monitoring/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`\[[0-9]+[mh]\]`).ReplaceAllString(string(b), "[10s]")
	text = regexp.MustCompile(`(?m)^( +for:) [0-9]+[mh]$`).ReplaceAllString(text, "$1 1s")
	if n := strings.Count(text, "[10s]"); n < 7 || strings.Count(text, "for: 1s") != 9 {
		t.Fatalf("%d times in brackets in\n%s", n, text)
	}
	var rule struct {
		Spec map[string]any `json:"spec"`
	}
	if err := yaml.Unmarshal([]byte(text), &rule); err != nil {
		t.Fatal(err)
	}
	return rule.Spec
}

// until waits for a condition.
func (p *prometheus) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !eventually.Is(alertWait, ok) {
		log, _ := os.ReadFile(p.log)
		t.Fatalf("%s: not within %s\n%s", what, alertWait, log)
	}
}

// get decodes the data of an answer of the API. It reports whether there is one.
func (p *prometheus) get(t *testing.T, path string, data any) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.address+"/api/v1/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false // it starts
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return false
	}
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if json.Unmarshal(b, &answer) != nil || resp.StatusCode == http.StatusServiceUnavailable {
		return false
	}
	if answer.Status != "success" {
		t.Fatalf("%s: %s", path, answer.Error)
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return true
}

// sample is one element of an instant vector.
type sample struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
}

// query returns the result of an instant query.
func (p *prometheus) query(t *testing.T, expr string) []sample {
	t.Helper()
	var data struct {
		Result []sample `json:"result"`
	}
	p.get(t, "query?query="+url.QueryEscape(expr), &data)
	return data.Result
}

// alert is an alert that is pending or fires.
type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"`
}

// alerts returns the alerts by name that fire, or that are pending, too.
func (p *prometheus) alerts(t *testing.T, pending bool) map[string]alert {
	t.Helper()
	var data struct {
		Alerts []alert `json:"alerts"`
	}
	p.until(t, "the list of alerts", func() bool { return p.get(t, "alerts", &data) })
	out := map[string]alert{}
	for _, a := range data.Alerts {
		if a.State == "firing" || pending {
			out[a.Labels["alertname"]] = a
		}
	}
	return out
}

// fires waits for an alert, calling meanwhile what causes it, and checks its labels and its summary.
func (p *prometheus) fires(t *testing.T, name string, labels map[string]string, summary string, cause func()) {
	t.Helper()
	var got alert
	begin := time.Now()
	p.until(t, name, func() (ok bool) {
		if cause != nil {
			cause()
		}
		got, ok = p.alerts(t, false)[name]
		return ok
	})
	t.Logf("%s fires after %s: %s", name, time.Since(begin).Round(time.Second), got.Annotations["summary"])
	for key, want := range labels {
		if got.Labels[key] != want {
			t.Errorf("%s: labels %v, want %s=%s", name, got.Labels, key, want)
		}
	}
	if !strings.Contains(got.Annotations["summary"], summary) || strings.Contains(fmt.Sprint(got.Annotations), "{{") {
		t.Errorf("%s: annotations %v, want %q", name, got.Annotations, summary)
	}
}

// ends waits until an alert is neither firing nor pending.
func (p *prometheus) ends(t *testing.T, name string) {
	t.Helper()
	p.until(t, "the end of "+name, func() bool {
		_, there := p.alerts(t, true)[name]
		return !there
	})
}
