package kube

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/kubetest"
)

// TestFleet checks the calls of an uninstallation with a real API server (behaviour F36): a DaemonSet is gone only when
// its pods are, a Job that exists is left as it is, and a failed one is an error.
func TestFleet(t *testing.T) {
	t.Parallel()
	api := kubetest.Start(t)
	c, err := New(api.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	kube := api.Client()
	for name, system := range map[string]string{"n1": "linux", "n2": "windows"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/os": system}}}
		if _, err := kube.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if nodes, err := c.Nodes(t.Context()); err != nil || strings.Join(nodes, " ") != "n1" {
		t.Errorf("nodes %q, %v", nodes, err)
	}

	pod := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c", Image: "i"}},
		},
	}
	sets := kube.AppsV1().DaemonSets("default")
	if _, err := sets.Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "ds"},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: pod.Labels}, Template: pod},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the garbage collector, which is not there, removes it when its pods have ended
		if gone, err := c.DeleteDaemonSet(t.Context(), "default", "ds"); err != nil || gone {
			t.Errorf("gone %t, %v", gone, err)
		}
	}
	ds, err := sets.Get(t.Context(), "ds", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ds.Finalizers = nil
	if _, err := sets.Update(t.Context(), ds, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if gone, err := c.DeleteDaemonSet(t.Context(), "default", "ds"); err != nil || !gone {
		t.Errorf("gone %t, %v", gone, err)
	}

	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	job := &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "default"}, Spec: batchv1.JobSpec{Template: pod},
	}
	body, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.JobComplete(t.Context(), "default", "j"); err == nil {
		t.Error("a job that does not exist is no error")
	}
	for range 2 {
		if err := c.CreateJob(t.Context(), "default", "j", body); err != nil {
			t.Error(err)
		}
	}
	if err := c.CreateJob(t.Context(), "default", "j", []byte("{}")); err == nil {
		t.Error("a job without a name is accepted")
	}
	if complete, err := c.JobComplete(t.Context(), "default", "j"); err != nil || complete {
		t.Errorf("complete %t, %v", complete, err)
	}
}
