package admission

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	host "multus/internal/host/admission"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/module"
	"multus/internal/testutil/proc"
)

const (
	manyDefinitions = 1000
	podsPerSecond   = 50
	loadTime        = 4 * time.Second
	// maxMemory is the limit of the resident memory of a replica with manyDefinitions.
	maxMemory = 40 << 20
)

// usual is a configuration of usual size; %d makes each one different.
const usual = `{
  "cniVersion": "0.3.1",
  "name": "network-%d",
  "plugins": [
    {
      "type": "macvlan", "master": "eth1.%d", "mode": "bridge", "mtu": 1500,
      "capabilities": {"ips": true},
      "ipam": {
        "type": "whereabouts", "range": "10.%d.0.0/16", "range_start": "10.%d.0.10", "range_end": "10.%d.255.250",
        "routes": [{"dst": "192.168.0.0/16", "gw": "10.%d.0.1"}]
      }
    },
    {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "capabilities": {"mac": true}}
  ]
}`

// TestLoad measures a replica as a process of its own: its memory with a thousand definitions, and the time of its
// answers at fifty pods a second, as a client of the webhook sees it. (behaviour S29.)
func TestLoad(t *testing.T) {
	s := newSite(t)
	for i := range manyDefinitions {
		n := i % 250
		s.CreateNetwork(t, "default", fmt.Sprint("network-", i), fmt.Sprintf(usual, i, n, n, n, n, n), nil)
	}
	r := s.process()
	eventually.True(t, "all definitions are read", func() bool {
		return strings.Contains(r.scrape(t), fmt.Sprintf(`multus_definitions{state="valid"} %d`, manyDefinitions))
	})
	eventually.True(t, "ready", func() bool { return get(t, "http://"+r.health+"/readyz") == "ok\n" })
	took := r.load(t, s.authority(t))
	slices.Sort(took)
	at := func(share float64) time.Duration { return took[int(share*float64(len(took)-1))] }
	now, peak, err := proc.Memory(r.pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d reviews of pods, %d a second, with %d definitions: p50 %s, p99 %s (budget 10ms, %.0f %%), largest %s; "+
		"memory %.1f MiB, at most %.1f MiB (limit 40 MiB)", len(took), podsPerSecond, manyDefinitions, at(.5), at(.99),
		100*at(.99).Seconds()/.01, at(1), float64(now)/(1<<20), float64(peak)/(1<<20))
	if peak > maxMemory {
		t.Errorf("%d bytes of memory", peak)
	}
}

// process is a replica in a process of its own.
type process struct {
	replica
	pid int
}

var serves = regexp.MustCompile(`webhook=(\S+) probes=(\S+)`)

// process builds the program and starts a replica, with the environment of the manifest.
func (s *site) process() *process {
	s.tb.Helper()
	root, err := module.Root()
	if err != nil {
		s.tb.Fatal(err)
	}
	dir := s.tb.TempDir()
	binary, log := filepath.Join(dir, "multus-daemon"), filepath.Join(dir, "log")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./cmd/multus-daemon")
	build.Dir = root
	if b, err := build.CombinedOutput(); err != nil {
		s.tb.Fatalf("build: %v\n%s", err, b)
	}
	cmd := exec.Command(binary, "admission", "--config", filepath.Join(dir, "none"), "--kubeconfig", s.kubeconfig,
		"--listen", "127.0.0.1:0", "--health", "127.0.0.1:0", "--service", "admission-test", "--namespace", "kube-system")
	cmd.Env = []string{"GOGC=50", "GOMEMLIMIT=48MiB"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p, err := proc.Start(log, cmd, proc.Here)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(p.Kill)
	r := &process{pid: p.Pid}
	eventually.True(s.tb, "the server serves", func() bool {
		if p.Exited() {
			s.tb.Fatal(p.Tail())
		}
		m := serves.FindStringSubmatch(p.Tail())
		if m != nil {
			r.webhook, r.health = m[1], m[2]
		}
		return m != nil
	})
	return r
}

// authority returns the bundle of the certificate's secret.
func (s *site) authority(t *testing.T) *x509.CertPool {
	t.Helper()
	secret, err := s.Client().CoreV1().Secrets("kube-system").Get(t.Context(), host.Secret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		t.Fatal("no authority")
	}
	return pool
}

// load sends reviews of pods at a steady rate, and returns how long each took.
func (r *process) load(t *testing.T, pool *x509.CertPool) []time.Duration {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, ServerName: "admission-test.kube-system.svc"},
		DialContext:       (&net.Dialer{}).DialContext,
	}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second / podsPerSecond)
	defer tick.Stop()
	for i := range int(loadTime.Seconds() * podsPerSecond) {
		<-tick.C
		wg.Go(func() {
			body := podReview(t, i)
			begin := time.Now()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+r.webhook+host.PathValidate,
				bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Contains(b, []byte(`"allowed":true`)) || bytes.Contains(b, []byte("warnings")) {
				t.Errorf("%v %s", err, b)
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(begin))
		})
	}
	wg.Wait()
	return took
}

// podReview returns the review of a pod of usual size with three networks.
func podReview(t *testing.T, i int) []byte {
	t.Helper()
	u := pod("default", fmt.Sprint("web-", i), map[string]any{networksKey: fmt.Sprintf(
		`[{"name":"network-%d","ips":["10.%d.0.7/16"]},{"name":"network-%d","mac":"02:00:00:00:00:%02x"},{"name":"network-%d"}]`,
		i%1000, i%250, (i+7)%1000, i%256, (i+13)%1000)})
	env := []any{}
	for n := range 60 {
		env = append(env, map[string]any{"name": fmt.Sprint("VARIABLE_", n), "value": strings.Repeat("x", 60)})
	}
	u.Object["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["env"] = env
	raw, err := json.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: "admission.k8s.io/v1"},
		Request: &admissionv1.AdmissionRequest{
			UID: "u", Namespace: "default", Name: u.GetName(), Operation: admissionv1.Create,
			Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Object: runtime.RawExtension{Raw: raw},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}
