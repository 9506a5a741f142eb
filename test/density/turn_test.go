package density

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/proc"
)

// measured is what one turn of one subject has shown.
type measured struct {
	Subject string `json:"subject"`
	Round   int    `json:"round"`
	Pods    []seen `json:"pods"`
	// Sandboxes is the mean time of the kubelet's calls that create a sandbox.
	Sandboxes time.Duration `json:"sandboxes"`
	// Failures are the calls that failed.
	Failures int `json:"failures"`
	// Restarts are those of the containers of the measured pods, DaemonRestarts those of the daemon since its start.
	Restarts       int `json:"restarts"`
	DaemonRestarts int `json:"daemonRestarts"`
	// Machine is the processor time of the machine until the last pod was Ready.
	Machine time.Duration `json:"machine"`
	// DaemonCPU is that of the daemon, DaemonPeak its largest resident memory (VmHWM) in the turn.
	DaemonCPU  time.Duration `json:"daemonCPU"`
	DaemonPeak int           `json:"daemonPeak"`
}

// turn measures the pods of one subject and removes them.
func (s *site) turn(ctx context.Context, t *testing.T, one subject, namespace string, iterations int) measured {
	t.Helper()
	w := s.watch(ctx, t, namespace, 2*iterations)
	defer w.stop()
	before := s.sample(ctx, t, one, true)
	s.burn(ctx, t, one, namespace, iterations)
	m := measured{Subject: one.name, Pods: w.wait(ctx, t)}
	after := s.sample(ctx, t, one, false)
	m.Machine, m.DaemonCPU, m.DaemonPeak = after.machine-before.machine, after.daemon-before.daemon, after.peak
	m.Failures = int(after.failed - before.failed)
	m.Sandboxes = time.Duration((after.seconds - before.seconds) / (after.calls - before.calls) * float64(time.Second))
	s.check(ctx, t, one, namespace, &m)
	t.Log(m)
	s.remove(ctx, t, namespace)
	return m
}

// burn runs kube-burner on the node with the control plane. It returns when all objects are created.
func (s *site) burn(ctx context.Context, t *testing.T, one subject, namespace string, iterations int) {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"namespace": namespace, "iterations": iterations, "dir": jobDir, "node": s.node(one.node).Node,
		"networks": one.networks,
	})
	must(t, err)
	must(t, os.WriteFile(s.Path(jobDir+"/values.json"), b, 0o600))
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := s.Run(ctx, "kube-burner", "init", "--config="+jobDir+"/density.yml", "--user-data="+jobDir+"/values.json",
		"--kubeconfig="+jobDir+"/kubeconfig", "--skip-log-file", "--timeout="+limit.String())
	must(t, err)
	// kube-burner retries a failed request, and reports it only in its log.
	if strings.Contains(out, "level=error") {
		t.Fatalf("kube-burner: %s", out)
	}
}

// check checks that the pods are what their subject says, and counts restarts.
func (s *site) check(ctx context.Context, t *testing.T, one subject, namespace string, m *measured) {
	t.Helper()
	var pods *corev1.PodList
	until(ctx, t, "each pod has its network status", func() (err error) {
		if pods, err = s.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{}); err != nil {
			return err
		}
		for i := range pods.Items {
			if err := attached(&pods.Items[i], one.attached); err != nil {
				return err
			}
		}
		return nil
	})
	if len(pods.Items) != len(m.Pods) {
		t.Fatalf("%d pods, %d were measured", len(pods.Items), len(m.Pods))
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName != s.node(one.node).Node {
			t.Errorf("pod %s is on %s", p.Name, p.Spec.NodeName)
		}
		m.Restarts += int(p.Status.ContainerStatuses[0].RestartCount)
	}
	daemons, err := s.Client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "app=multus"})
	must(t, err)
	for _, p := range daemons.Items {
		for _, c := range p.Status.ContainerStatuses {
			m.DaemonRestarts += int(c.RestartCount)
		}
	}
}

func attached(p *corev1.Pod, want int) error {
	var status []nadv1.NetworkStatus
	if text := p.Annotations[nadv1.NetworkStatusAnnot]; text != "" {
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			return fmt.Errorf("network status of %s: %w", p.Name, err)
		}
	}
	if len(status) != want {
		return fmt.Errorf("pod %s has the networks %+v, want %d", p.Name, status, want)
	}
	return nil
}

// remove removes the pods.
func (s *site) remove(ctx context.Context, t *testing.T, namespace string) {
	t.Helper()
	must(t, s.Client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}))
	until(ctx, t, "the namespace is gone", func() error {
		_, err := s.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("namespace %s is there: %w", namespace, err)
	})
}

// settle waits until nothing of removed pods is left on the nodes, so that the next turn starts with an idle machine.
// The kubelet removes their sandboxes once a minute.
func (s *site) settle(ctx context.Context, t *testing.T) {
	t.Helper()
	until(ctx, t, "the containers and sandboxes are gone", func() error {
		for node, want := range s.settled {
			if n := s.containers(t, node); n > want {
				return fmt.Errorf("%s has %d, %d without the pods", s.node(node).Node, n, want)
			}
		}
		return nil
	})
}

// sample is the state of counters.
type sample struct {
	machine, daemon time.Duration
	peak            int
	// seconds and calls are the time and the number of the kubelet's calls that create a sandbox, failed those that
	// failed.
	seconds, calls, failed float64
}

// sample reads the counters. reset sets the peak of the daemon's memory to its current memory.
func (s *site) sample(ctx context.Context, t *testing.T, one subject, reset bool) sample {
	t.Helper()
	metrics := s.kubeletMetrics(ctx, t, one.node)
	r := sample{
		machine: machineCPU(t),
		seconds: metrics["kubelet_run_podsandbox_duration_seconds_sum"],
		calls:   metrics["kubelet_run_podsandbox_duration_seconds_count"],
		failed:  metrics["kubelet_run_podsandbox_errors_total"],
	}
	pids, err := s.node(one.node).Contained("multus-daemon")
	must(t, err)
	if len(pids) != one.node-1 {
		t.Fatalf("%s has the daemons %v, want %d", s.node(one.node).Node, pids, one.node-1)
	}
	for _, pid := range pids {
		if reset {
			must(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0))
		}
		r.daemon, err = proc.CPU(pid)
		must(t, err)
		_, r.peak, err = proc.Memory(pid)
		must(t, err)
	}
	return r
}

// series matches one value of a metric, with or without labels.
var series = regexp.MustCompile(`(?m)^(\w+)(?:\{.*\})? (\S+)$`)

// kubeletMetrics returns the kubelet's metrics, each summed over its labels.
func (s *site) kubeletMetrics(ctx context.Context, t *testing.T, node int) map[string]float64 {
	t.Helper()
	client := &http.Client{Timeout: limit, Transport: &http.Transport{
		DialContext: s.node(node).Dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the kubelet has made its certificate itself
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:10250/metrics", nil)
	must(t, err)
	res, err := client.Do(req)
	must(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("metrics of the kubelet of %s: %s: %s", s.node(node).Node, res.Status, b)
	}
	all := map[string]float64{}
	for _, m := range series.FindAllSubmatch(b, -1) {
		v, err := strconv.ParseFloat(string(m[2]), 64)
		must(t, err)
		all[string(m[1])] += v
	}
	return all
}

// machineCPU returns the time that the processors of the machine were busy.
func machineCPU(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile("/proc/stat")
	must(t, err)
	var user, nice, system, idle, iowait, irq, softirq int
	_, err = fmt.Sscanf(string(b), "cpu %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq)
	must(t, err)
	const tick = time.Second / 100 // USER_HZ, the same on every architecture of Linux that Go has
	return time.Duration(user+nice+system+irq+softirq) * tick
}
