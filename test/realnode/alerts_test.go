package realnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"multus/internal/testutil/cluster"
	"multus/internal/testutil/prometheus"
)

// The jobs of the PodMonitor.
const (
	daemonJob    = "multus"
	admissionJob = "multus-admission"
)

// slowPlugin is a plugin whose ADD takes as long as its network says.
const slowPlugin = "slow"

// operatorType is a CRD in the place of one of the Prometheus operator. Its objects are accepted, and their fields are
// not checked.
const operatorType = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {plural: %[1]s, kind: %[2]s}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// monitored is a node whose daemon and admission server are scraped by a Prometheus on the node, as the objects of the
// component monitoring say.
type monitored struct {
	*node
	*prometheus.Server
	on map[string]string // labels of the alerts about the daemon

	alerts []string        // of the PrometheusRule
	fired  map[string]bool // those that have fired
	faulty map[string]bool // those that may fire now
}

// TestAlerts injects faults of a node and of the cluster. It checks that each alert of the component monitoring fires
// in a real Prometheus that scrapes as the PodMonitor says, that no other one fires, and that each ends when its fault
// does (behaviour F74). Seconds are in the place of the minutes of the alerts. Where docs/runbooks.md has a command
// that mends, that is what ends the fault. It also checks the metrics with promtool, and that they are not for everyone
// (behaviour F76).
func TestAlerts(t *testing.T) {
	m := newMonitored(t)
	if !inOrder(t, []scenario{
		{"no fault", m.noFault},
		{"metrics", m.checkMetrics},
		{"programs do not run", m.programsDown},
		{"pods cannot start", m.podsFail},
		{"another configuration comes first", m.shadowed},
		{"configuration is removed", m.removed},
		{"records stay", m.recordsStay},
		{"API server is away", m.apiAway},
	}) {
		return
	}
	for _, name := range m.alerts {
		if !m.fired[name] {
			t.Errorf("%s has not fired", name)
		}
	}
}

// newMonitored installs Multus with all that has an alert, and starts Prometheus.
func newMonitored(t *testing.T) *monitored {
	t.Helper()
	m := &monitored{
		node: start(t, cluster.Options{}), fired: map[string]bool{}, faulty: map[string]bool{},
		on: map[string]string{"node": cluster.NodeName, "job": daemonJob},
	}
	for plural, kind := range map[string]string{"podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule"} {
		m.apply(t, fmt.Sprintf(operatorType, plural, kind))
	}
	m.installSlow(t)
	m.installWith(t, "hotplug", "admission", "monitoring", "metrics-auth")
	m.untilAdmission(t)
	m.twoNetworks(t) // the first pod creates the cluster network's bridge, which stays

	rules, alerts, err := prometheus.Shorten(m.operator(t, "prometheusrules"))
	if err != nil {
		t.Fatal(err)
	}
	m.alerts = alerts
	jobs, err := prometheus.PodMonitor(m.operator(t, "podmonitors"), "/var/lib/cluster/admin.kubeconfig",
		func(name, key string) (token string, err error) {
			wait(t, "token of the Secret "+name, func() error {
				token, err = m.secret(t, name, key)
				return err
			})
			return token, err
		})
	if err != nil {
		t.Fatal(err)
	}
	const dir = "/var/lib/prometheus"
	if err := os.Mkdir(m.Path(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	m.Server = prometheus.Start(t, prometheus.Place{
		Dir: dir, Path: m.Path(dir), Address: "127.0.0.1:9090", Start: m.Launch, Dial: m.Dial,
	}, jobs, rules)
	m.UntilUp(t, daemonJob, 1)
	m.UntilUp(t, admissionJob, 2)
	return m
}

// operator returns the object multus of a type of the Prometheus operator.
func (m *monitored) operator(t *testing.T, plural string) *unstructured.Unstructured {
	t.Helper()
	o, err := m.Dynamic.Resource(schema.GroupVersionResource{
		Group: "monitoring.coreos.com", Version: "v1", Resource: plural,
	}).Namespace("kube-system").Get(t.Context(), "multus", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// installSlow installs the slow plugin on the node.
func (m *monitored) installSlow(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o",
		m.Path(m.paths.Bin+"/"+slowPlugin), "./internal/testutil/fakeplugin")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build plugin: %v\n%s", err, out)
	}
}

// slowNetwork returns the manifest of a network whose ADD takes some time.
func slowNetwork(name, takes string) string {
	return fmt.Sprintf(`apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: %[1]s, namespace: default}
spec:
  config: '{"cniVersion":"1.0.0","name":"%[1]s","type":"`+slowPlugin+`","fake":{"sleep":{"ADD":"%[2]s"},"result":{"cniVersion":"1.0.0","interfaces":[{"name":"{ifname}","sandbox":"{netns}"}]}}}'
`, name, takes)
}

// fires waits until an alert fires, and checks that no alert fires without a fault.
func (m *monitored) fires(t *testing.T, name string, labels map[string]string, summary string, cause func()) {
	t.Helper()
	m.faults(name)
	m.Fires(t, name, labels, summary, cause)
	m.fired[name] = true
	m.only(t)
}

// ends waits until an alert has ended, and checks that no alert fires without a fault.
func (m *monitored) ends(t *testing.T, name string) {
	t.Helper()
	m.Ends(t, name)
	delete(m.faulty, name)
	m.only(t)
}

// faults allows alerts to fire from now on.
func (m *monitored) faults(names ...string) {
	for _, name := range names {
		m.faulty[name] = true
	}
}

// only checks that no alert fires without a fault.
func (m *monitored) only(t *testing.T) {
	t.Helper()
	for _, name := range m.Firing(t) {
		if !m.faulty[name] {
			t.Errorf("%s fires without its fault", name)
		}
	}
}

// noFault checks that no alert fires or is pending when each expression has enough samples.
func (m *monitored) noFault(t *testing.T) {
	if len(m.alerts) != 9 {
		t.Errorf("alerts %q", m.alerts)
	}
	const enough = 3
	until(t, "samples", func() error {
		got := m.Query(t, fmt.Sprintf("count_over_time(up[10s]) >= %d", enough))
		if len(got) != 3 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	m.UntilEvaluated(t)
	if got := m.Alerts(t, true); len(got) > 0 {
		t.Errorf("alerts without a fault: %v", got)
	}
}

// checkMetrics checks the metrics of the daemon and of the admission server with promtool, and that the daemon refuses
// the token of no user.
func (m *monitored) checkMetrics(t *testing.T) {
	if code, _ := m.metrics(t, "of-another-cluster"); code != http.StatusUnauthorized {
		t.Errorf("with a wrong token: %d", code)
	}
	token, err := m.secret(t, metricsReader, "token")
	if err != nil {
		t.Fatal(err)
	}
	code, text := m.metrics(t, token)
	if code != http.StatusOK {
		t.Errorf("with the token of the PodMonitor: %d", code)
	}
	prometheus.CheckMetrics(t, text)
	replicas, err := m.Client.CoreV1().Pods("kube-system").List(t.Context(),
		metav1.ListOptions{LabelSelector: "app=" + admissionJob})
	if err != nil || len(replicas.Items) != 2 {
		t.Fatalf("%v, %v", replicas, err)
	}
	b, err := m.ask(t, &replicas.Items[0], "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	prometheus.CheckMetrics(t, string(b))
}

// programsDown kills the replicas of the admission server until the kubelet waits before it starts them again, and
// meanwhile sets an image of the daemon that does not exist.
func (m *monitored) programsDown(t *testing.T) {
	const admission, daemon = "MultusAdmissionDown", "MultusDaemonDown"
	m.fires(t, admission, map[string]string{"job": admissionJob}, "No replica", func() {
		pids, err := m.Commands("multus-daemon", "admission")
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
	})
	const none = "localhost/multus:none"
	m.edit(t, hotPlugLine, hotPlugLine+`, "repairAfter": "1s"`) // takes effect when the daemon starts again
	m.setImage(t, none)
	until(t, "the daemon's pod has that image", func() error {
		p, err := m.onlyPod(t, "kube-system", "name=multus")
		if err == nil && p.Spec.Containers[0].Image != none {
			err = fmt.Errorf("%s", p.Spec.Containers[0].Image)
		}
		return err
	})
	m.fires(t, daemon, m.on, "daemon of node "+cluster.NodeName, nil)
	m.setImage(t, "localhost/multus:latest")
	until(t, "DaemonSet rolled out", func() error { return m.rolledOut(t) })
	m.ends(t, daemon)
	m.ends(t, admission)
	m.untilAdmission(t)
}

// podsFail starts a pod with a network whose plugin is slow, and requests more addresses of another network than it
// has: for pods that start, and for one that runs.
func (m *monitored) podsFail(t *testing.T) {
	const slow, failing, stuck = "MultusAttachSlow", "MultusDelegateFailing", "MultusHotPlugStuck"
	const one = "one"
	m.apply(t, strings.Replace(network(one, 5), ".0/24", ".0/30", 1)) // the gateway and one address
	m.apply(t, slowNetwork("slow", "10.5s"))
	annotation := "{k8s.v1.cni.cncf.io/networks: " + one + "}"
	waits := func(replicas int) { m.apply(t, controller("Deployment", "waits", replicas, annotation, "")) }
	m.scale(t, controller("Deployment", "holds", 1, annotation, ""), "holds", 1)

	m.faults(slow, failing, stuck)
	waits(1)
	m.apply(t, pod("slow", "{k8s.v1.cni.cncf.io/networks: slow}"))
	m.scale(t, controller("Deployment", "runs", 1, "{}", ""), "runs", 1)
	m.annotate(t, m.pods(t, "runs")[0].Name, one)
	waits(3)
	m.fires(t, failing, map[string]string{"network": "default/" + one}, "of the attachments", nil)
	m.fires(t, stuck, m.on, "1 running pods of node "+cluster.NodeName, nil)
	waits(0)
	m.apply(t, controller("Deployment", "holds", 0, annotation, ""))
	m.fires(t, slow, map[string]string{"node": cluster.NodeName}, "on node "+cluster.NodeName, nil)
	m.ends(t, stuck)
	m.ends(t, failing)
	m.ends(t, slow)
	m.apply(t, controller("Deployment", "runs", 0, "{}", ""))
	m.remove(t, "slow")
}

// shadowed writes a configuration of another program that comes before that of Multus.
func (m *monitored) shadowed(t *testing.T) {
	above := m.Path(m.paths.Conf + "/00-another.conflist")
	if err := os.WriteFile(above, []byte(cluster.Primary), 0o600); err != nil {
		t.Fatal(err)
	}
	m.fires(t, "MultusSlotLost", m.on, "node "+cluster.NodeName+" does not call Multus", nil)
	if err := os.Remove(above); err != nil {
		t.Fatal(err)
	}
	m.ends(t, "MultusSlotLost")
}

// removed renames the configuration of Multus again and again, as Cilium does if it is exclusive, until the daemon
// gives up. A pod starts meanwhile. Then the daemon's pod is deleted, and that pod.
func (m *monitored) removed(t *testing.T) {
	const lost, without = "MultusSlotLost", "MultusPodsWithoutNetworks"
	conf := m.Path(m.paths.Conf + "/00-multus.conf")
	m.fires(t, lost, m.on, "node "+cluster.NodeName+" does not call Multus", func() {
		if err := os.Rename(conf, conf+".cilium_bak"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	})
	missed := func() { m.scale(t, controller("Deployment", "missed", 1, extra, ""), "missed", 1) }
	missed()
	reports := func() {
		m.fires(t, without, map[string]string{"namespace": "default"}, "1 pods of namespace default", nil)
	}
	reports()

	if err := os.Remove(conf + ".cilium_bak"); err != nil {
		t.Fatal(err)
	}
	m.faults("MultusDaemonDown") // for a moment
	m.deletePod(t, "kube-system", "name=multus")
	until(t, "DaemonSet Ready", func() error { return m.rolledOut(t) })
	m.ends(t, lost)
	m.ends(t, "MultusDaemonDown")
	reports() // by the next daemon
	m.deletePod(t, "default", "app=missed")
	m.ends(t, without)
	missed()
	m.complete(t, "missed")
	m.scale(t, controller("Deployment", "missed", 0, extra, ""), "missed", 0)
}

// onlyPod returns the only pod with a label.
func (m *monitored) onlyPod(t *testing.T, namespace, label string) (*corev1.Pod, error) {
	t.Helper()
	l, err := m.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: label})
	if err != nil {
		return nil, err
	}
	if len(l.Items) != 1 {
		return nil, fmt.Errorf("%d pods", len(l.Items))
	}
	return &l.Items[0], nil
}

// deletePod deletes the only pod with a label, and waits until it is gone.
func (m *monitored) deletePod(t *testing.T, namespace, label string) {
	t.Helper()
	pods := m.Client.CoreV1().Pods(namespace)
	p, err := m.onlyPod(t, namespace, label)
	if err == nil {
		err = pods.Delete(t.Context(), p.Name, metav1.DeleteOptions{})
	}
	if err != nil {
		t.Fatalf("delete the pod %s: %v", label, err)
	}
	until(t, "the pod "+label+" is gone", func() error {
		if _, err := pods.Get(t.Context(), p.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}

// recordsStay leaves the records of sandboxes that are gone without a DEL: copies of the record of a pod.
func (m *monitored) recordsStay(t *testing.T) {
	m.apply(t, slowNetwork("quick", "0s"))
	m.apply(t, pod("recorded", "{k8s.v1.cni.cncf.io/networks: quick}"))
	m.untilRunning(t, "recorded")
	held, left := len(m.held(t)), 0
	record := m.recordOf(t, "recorded")
	leave := func() {
		left++
		id := fmt.Sprintf("left%08d", left)
		for i := range record {
			record[i]["netnsPath"] = json.RawMessage(`"/var/run/netns/` + id + `"`)
		}
		b, err := json.Marshal(record)
		if err == nil {
			err = os.WriteFile(filepath.Join(m.Path(filepath.Dir(ledger)), id), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 300 {
		leave()
	}
	m.fires(t, "MultusLedgerGrowing", m.on, "Node "+cluster.NodeName+" has the records of", leave)

	out := m.ctl(t, "multusctl gc --grace=1ms")
	if !strings.Contains(out, fmt.Sprintf("%d freed", left)) {
		t.Errorf("%d records were left: …%s", left, out[max(0, len(out)-300):])
	}
	m.wantHeld(t, held)
	m.ends(t, "MultusLedgerGrowing")
	m.remove(t, "recorded")
}

// ctl runs a command line on the node, with the function multusctl of docs/runbooks.md.
func (m *monitored) ctl(t *testing.T, line string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "runbooks.md"))
	if err != nil {
		t.Fatal(err)
	}
	function := regexp.MustCompile("(?s)```sh\n(multusctl\\(\\) .*?)```").FindSubmatch(page)
	if function == nil {
		t.Fatal("docs/runbooks.md has no function multusctl")
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	out, err := m.Run(ctx, "/bin/sh", "-c", string(function[1])+line)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// recordOf returns the elements of the record of a pod, the only one with its name.
func (m *monitored) recordOf(t *testing.T, pod string) []map[string]json.RawMessage {
	t.Helper()
	files, err := filepath.Glob(m.Path(ledger))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(b), fmt.Sprintf("%q", pod)) {
			continue
		}
		var record []map[string]json.RawMessage
		if err := json.Unmarshal(b, &record); err != nil {
			t.Fatal(err)
		}
		return record
	}
	t.Fatalf("no record of %s", pod)
	return nil
}

// apiAway ends the API server while a plugin attaches a pod.
func (m *monitored) apiAway(t *testing.T) {
	m.apply(t, slowNetwork("brief", "3s"))
	m.apply(t, pod("unwritten", "{k8s.v1.cni.cncf.io/networks: brief}"))
	until(t, "the plugin runs", func() error {
		pids, err := m.Commands(slowPlugin)
		if err == nil && len(pids) == 0 {
			err = errors.New("it does not")
		}
		return err
	})
	m.StopAPI()
	m.fires(t, "MultusStatusQueueStuck", m.on, "the network-status of 1 pods", nil)
	if err := m.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.ends(t, "MultusStatusQueueStuck")
}
