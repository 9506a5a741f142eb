package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// TestNetworksMissing checks that a pod whose sandbox was attached while the CNI configuration file was missing, so
// that the runtime called the cluster network alone, gets an event that names its networks, and that a pod that Multus
// attached gets none (behaviour R14).
func TestNetworksMissing(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, node.Thick, node.Options{Dir: dir, DaemonConf: map[string]any{
		"hotPlug": true, "hotPlugLinger": "1s", "repairAfter": "1ms",
		"cniResultsDir": filepath.Join(dir, "runtime", "results"),
	}})
	annotations := map[string]string{networks: "mac, br"}
	missed := s.pod(t, "missed", annotations, true)
	if _, err := s.Add(t, []byte(s.Bridge("10.244.0.0/24")), missed); err != nil {
		t.Fatal(err)
	}
	attached := s.pod(t, "attached", annotations, true)
	if _, err := s.Add(t, s.Conf(), attached); err != nil {
		t.Fatal(err)
	}
	var messages []string
	s.eventually(t, "the event", func() bool {
		messages = nil
		for _, e := range s.api.Events(t, s.ns, "missed") {
			if e.Reason == "NetworksMissing" {
				messages = append(messages, e.Message)
			}
		}
		return len(messages) > 0
	})
	if len(messages) != 1 || !strings.Contains(messages[0], "(mac, br)") {
		t.Errorf("events: %q", messages)
	}
	ctl := ctl{site: s, kubeconfig: s.api.Kubeconfig(t)}
	for pod, want := range map[string]string{
		"missed": s.ns + "/missed runs without the networks that it requests (mac, br)", "attached": "",
	} {
		s.eventually(t, "the status of "+pod, func() bool { // the list follows the events
			as, out := ctl.run(t, "status", s.ns+"/"+pod, "--state-dir", s.State(), "--socket-dir", s.SocketDir())
			return as == (want == "") && strings.Contains(out, want)
		})
	}
	for _, e := range s.api.Events(t, s.ns, "attached") {
		if e.Reason == "NetworksMissing" {
			t.Errorf("a pod with its networks is reported: %s", e.Message)
		}
	}
	if err := s.Del(t, []byte(s.Bridge("10.244.0.0/24")), missed); err != nil {
		t.Error(err)
	}
	s.delete(t, attached)
}

// TestNetworksAttachedLate checks that a pod which runs without its networks gets them without a restart, and that its
// DEL frees them and the cluster network (behaviour R15).
func TestNetworksAttachedLate(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, node.Thick, node.Options{
		Dir: dir, Conf: map[string]any{"cniVersion": "1.1.0"}, DaemonConf: map[string]any{
			"hotPlug": true, "hotPlugLinger": "1s", "repair": "attach", "repairAfter": "1ms",
			"cniResultsDir": filepath.Join(dir, "runtime", "results"),
		},
	})
	p := s.pod(t, "missed", map[string]string{networks: "mac, br@data0"}, true)
	bypass := []byte(s.Bridge("10.244.0.0/24"))
	res, err := s.Add(t, bypass, p)
	if err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the networks", func() bool {
		if err := s.Status(t, s.Conf()); err != nil {
			t.Fatalf("STATUS: %v", err)
		}
		_, attached := s.api.Annotation(t, s.ns, "missed", status)
		return attached
	})
	if d := cmp.Diff([]string{"data0", "eth0", "net1"}, testnet.Interfaces(t, p.NS)); d != "" {
		t.Errorf("interfaces (-want +got):\n%s", d)
	}
	got := s.status(t, "missed")
	if len(got) != 3 || !got[0].Default || got[0].Interface != "eth0" ||
		!slices.Equal(got[0].IPs, []string{res.IPs[0].Address.IP.String()}) {
		t.Errorf("network status: %+v", got)
	}
	s.eventually(t, "the event", func() bool {
		return slices.ContainsFunc(s.api.Events(t, s.ns, "missed"), func(e corev1.Event) bool {
			return e.Reason == "NetworksAttachedLate"
		})
	})
	if err := s.Del(t, s.Conf(), p); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if err := s.Del(t, bypass, p); err != nil { // for what the runtime has cached about it
		t.Errorf("DEL without Multus: %v", err)
	}
	if left := s.Left(t); len(left) > 0 {
		t.Errorf("left after DEL: %v", left)
	}
}

// bypass attaches the sandbox of a pod to the cluster network alone, as a runtime does that has no configuration of
// Multus.
func (s *site) bypass(t *testing.T, p *node.Pod) {
	t.Helper()
	if _, err := s.Add(t, []byte(s.Bridge("10.244.0.0/24")), p); err != nil {
		t.Fatal(err)
	}
}

// TestEvictedForNetworks checks that, with an annotation of the namespace, a pod with a controller is evicted and one
// without is not, that a PodDisruptionBudget is respected, and that the annotation of a pod has priority (behaviour
// R16, R17).
func TestEvictedForNetworks(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, node.Thick, node.Options{Dir: dir, DaemonConf: map[string]any{
		"hotPlug": true, "repairAfter": "1ms", "cniResultsDir": filepath.Join(dir, "runtime", "results"),
	}})
	kube := s.api.Client()
	_, err := kube.CoreV1().Namespaces().Patch(t.Context(), s.ns, types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"v1.multus-cni.io/repair":"evict"}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	protected := map[string]string{"app": "protected"}
	budget, err := kube.PolicyV1().PodDisruptionBudgets(s.ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "budget"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: protected}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]string{
		"controlled": `"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"rs","uid":"1","controller":true}]`,
		"protected": `"labels":{"app":"protected"},` +
			`"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"rs","uid":"1","controller":true}]`,
		"alone":    `"labels":{}`,
		"reported": `"annotations":{"v1.multus-cni.io/repair":"report"}`,
	} {
		p := s.pod(t, name, map[string]string{networks: "mac"}, true)
		if _, err := kube.CoreV1().Pods(s.ns).Patch(t.Context(), name, types.MergePatchType,
			[]byte(`{"metadata":{`+edit+`}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		// Budgets are for pods that run.
		if _, err := kube.CoreV1().Pods(s.ns).Patch(t.Context(), name, types.StrategicMergePatchType, []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`), metav1.PatchOptions{},
			"status"); err != nil {
			t.Fatal(err)
		}
		s.bypass(t, p)
	}
	events := func(pod string) (out []string) {
		for _, e := range s.api.Events(t, s.ns, pod) {
			out = append(out, e.Reason+": "+e.Message)
		}
		return out
	}
	for pod, want := range map[string]string{
		"controlled": "EvictedForNetworks", "protected": "It is not repaired:", "alone": "it has no controller",
		"reported": "Delete the pod",
	} {
		s.eventually(t, "the event of "+pod, func() bool { return strings.Contains(strings.Join(events(pod), "\n"), want) })
	}
	exists := func(pod string) bool {
		o, err := kube.CoreV1().Pods(s.ns).Get(t.Context(), pod, metav1.GetOptions{})
		return err == nil && o.DeletionTimestamp == nil
	}
	if exists("controlled") || !exists("protected") || !exists("alone") || !exists("reported") {
		t.Errorf("left: %t, %t, %t, %t", exists("controlled"), exists("protected"), exists("alone"), exists("reported"))
	}
	budget.Status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: budget.Generation, DisruptionsAllowed: 1, CurrentHealthy: 1, ExpectedPods: 1,
	}
	if _, err := kube.PolicyV1().PodDisruptionBudgets(s.ns).UpdateStatus(t.Context(), budget,
		metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the budget permits it", func() bool { return !exists("protected") })
}
