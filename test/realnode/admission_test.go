package realnode

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"multus/internal/testutil/cluster"
)

// TestAdmission installs deploy/components/admission on a real node: the pods run as in the manifest, without privilege
// and with attached networks of their own node agent, the API server calls them, and a pod with networks starts as
// before. (behaviour S1, S21, S28.)
func TestAdmission(t *testing.T) {
	n := start(t, cluster.Options{})
	n.installWith(t, "admission")
	n.untilAdmission(t)
	broken := strings.Replace(network("broken", 3), `"type":"macvlan"`, `"type":"macvlan","mode":"brigde"`, 1)
	until(t, "a broken definition is denied", func() error {
		err := n.once(t, broken)
		if err == nil || !strings.Contains(err.Error(), `spec.config line 1, column 63: macvlan: mode "brigde" is unknown [value]`) {
			return fmt.Errorf("%w, no denial", err)
		}
		return nil
	})
	err := n.once(t, pod("bad", `{k8s.v1.cni.cncf.io/networks: "net-a,net-b@a-name-that-is-too-long"}`))
	if err == nil || !strings.Contains(err.Error(), "line 1, column 7: ") {
		t.Errorf("%v", err)
	}
	n.twoNetworks(t)
	pods, err := n.Client.CoreV1().Pods("kube-system").List(t.Context(),
		metav1.ListOptions{LabelSelector: "app=multus-admission"})
	if err != nil || len(pods.Items) != 2 {
		t.Fatalf("%v, %v", pods, err)
	}
	for i := range pods.Items {
		for _, s := range pods.Items[i].Status.ContainerStatuses {
			if s.RestartCount > 0 {
				t.Errorf("%s: %d restarts", pods.Items[i].Name, s.RestartCount)
			}
		}
	}
}

// untilAdmission waits until both replicas of the webhook are ready.
func (n *node) untilAdmission(t *testing.T) {
	t.Helper()
	until(t, "Deployment Ready", func() error {
		d, err := n.Client.AppsV1().Deployments("kube-system").Get(t.Context(), "multus-admission", metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != 2 {
			err = fmt.Errorf("%+v", d.Status)
		}
		return err
	})
}

// once applies an object without the retries of Apply, so that it returns the error of the API server.
func (n *node) once(t *testing.T, text string) error {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return n.ApplyClientSide(t.Context(), u)
}
