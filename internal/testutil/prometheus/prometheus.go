// Package prometheus runs a real Prometheus for tests, on this machine or on the node of a test, and reads its API. It
// also makes the configuration that the Prometheus operator makes of a PodMonitor and a PrometheusRule. Prometheus and
// promtool are those that the Makefile builds into bin/tools. Only tests may import the package.
package prometheus

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/proc"
	"multus/internal/testutil/tool"
)

// waitLimit bounds each wait: for a first scrape, for an alert, and for its end. The times of the alerts are seconds.
const waitLimit = time.Minute

// promtoolLimit bounds one call of promtool.
const promtoolLimit = time.Minute

// Place is where a Prometheus runs.
type Place struct {
	// Dir is the directory for its files, as Prometheus sees it. Path is the same directory for this process.
	Dir, Path string
	// Address is the host and port at which Prometheus listens there.
	Address string
	// Start starts a program of bin/tools there.
	Start func(program string, args ...string) (*proc.Process, error)
	// Dial connects from there.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Here returns a place on this machine. address is one of the loopback interface on which no program listens.
func Here(t *testing.T, address string) Place {
	t.Helper()
	dir := t.TempDir()
	return Place{
		Dir: dir, Path: dir, Address: address, Dial: (&net.Dialer{}).DialContext,
		Start: func(program string, args ...string) (*proc.Process, error) {
			cmd := exec.Command(tool.Path(t, program), args...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			return proc.Start(filepath.Join(dir, program+".log"), cmd, proc.Here)
		},
	}
}

// Server is a Prometheus that scrapes, and evaluates its rules, at least once a second.
type Server struct {
	url     string
	client  *http.Client
	process *proc.Process
}

// Start starts a Prometheus that ends with the test. rules is the content of a file of rules, or nil.
func Start(t *testing.T, place Place, scrapes []Scrape, rules any) *Server {
	t.Helper()
	conf := map[string]any{
		"global": map[string]string{
			"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms",
		},
		"scrape_configs": scrapes,
	}
	files := map[string]any{"prometheus.yaml": conf}
	if rules != nil {
		conf["rule_files"], files["rules.yaml"] = []string{"rules.yaml"}, rules
	}
	for name, content := range files {
		b, err := yaml.Marshal(content)
		if err == nil {
			err = os.WriteFile(filepath.Join(place.Path, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := place.Start("prometheus", "--config.file="+filepath.Join(place.Dir, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(place.Dir, "data"), "--web.listen-address="+place.Address)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: place.Dial}
	t.Cleanup(func() {
		p.Kill()
		transport.CloseIdleConnections()
	})
	return &Server{url: "http://" + place.Address + "/api/v1/", client: &http.Client{Transport: transport}, process: p}
}

// UntilUp waits until this many targets of a job are scraped.
func (s *Server) UntilUp(t *testing.T, job string, targets int) {
	t.Helper()
	s.until(t, fmt.Sprintf("%d targets of the job %s are scraped", targets, job), func() bool {
		return len(s.Query(t, `up{job="`+job+`"} == 1`)) == targets
	})
}

// until waits for a condition.
func (s *Server) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !eventually.Is(waitLimit, ok) {
		t.Fatalf("%s: not within %s; alerts: %v\n%s", what, waitLimit, s.Alerts(t, true), s.process.Tail())
	}
}

// CheckMetrics checks metrics in the text format with promtool: their syntax, and the conventions for names and types.
func CheckMetrics(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), promtoolLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool.Path(t, "promtool"), "check", "metrics", "--lint=all")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
