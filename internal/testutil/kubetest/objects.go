package kubetest

import (
	"context"
	"encoding/json"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var (
	networks = schema.GroupVersionResource{
		Group: "k8s.cni.cncf.io", Version: "v1",
		Resource: "network-attachment-definitions",
	}
	crds = schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1",
		Resource: "customresourcedefinitions",
	}
)

// callContext bounds one call. It is not cancelled when the test ends, because cleanup functions make calls, too.
func callContext(tb testing.TB) (context.Context, context.CancelFunc) {
	tb.Helper()
	return context.WithTimeout(context.WithoutCancel(tb.Context()), callTimeout)
}

// CreateNamespace creates a namespace. Tests that share a cluster use one namespace each. A namespace cannot be deleted
// because no controller runs.
func (c *Cluster) CreateNamespace(tb testing.TB, name string) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := c.kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		tb.Fatalf("create namespace: %v", err)
	}
}

// CreateNetwork creates a network definition. If config is empty, the configuration is a file on the node.
func (c *Cluster) CreateNetwork(tb testing.TB, namespace, name, config string, annotations map[string]string) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(networks.GroupVersion().String())
	u.SetKind("NetworkAttachmentDefinition")
	u.SetName(name)
	u.SetAnnotations(annotations)
	if config != "" {
		u.Object["spec"] = map[string]any{"config": config}
	}
	if _, err := c.dyn.Resource(networks).Namespace(namespace).Create(ctx, u, metav1.CreateOptions{}); err != nil {
		tb.Fatalf("create network: %v", err)
	}
}

// UpdateNetwork replaces the configuration of a network definition.
func (c *Cluster) UpdateNetwork(tb testing.TB, namespace, name, config string) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"spec": map[string]string{"config": config}})
	if err != nil {
		tb.Fatalf("update network: %v", err)
	}
	if _, err := c.dyn.Resource(networks).Namespace(namespace).Patch(ctx, name, types.MergePatchType, patch,
		metav1.PatchOptions{}); err != nil {
		tb.Fatalf("update network: %v", err)
	}
}

// DeleteNetwork deletes a network definition.
func (c *Cluster) DeleteNetwork(tb testing.TB, namespace, name string) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	if err := c.dyn.Resource(networks).Namespace(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		tb.Fatalf("delete network: %v", err)
	}
}

// CreatePod creates a pod that is bound to Node, with readiness gates if there are some, and returns its UID. The pod
// never runs because there is no kubelet.
func (c *Cluster) CreatePod(tb testing.TB, namespace, name string, annotations map[string]string, gates ...string,
) (uid string) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
		Spec: corev1.PodSpec{
			NodeName:   Node,
			Containers: []corev1.Container{{Name: "app", Image: "registry.example/app:1"}},
		},
	}
	for _, gate := range gates {
		pod.Spec.ReadinessGates = append(pod.Spec.ReadinessGates,
			corev1.PodReadinessGate{ConditionType: corev1.PodConditionType(gate)})
	}
	got, err := c.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		tb.Fatalf("create pod: %v", err)
	}
	return string(got.UID)
}

// Annotate sets an annotation of a pod.
func (c *Cluster) Annotate(tb testing.TB, namespace, pod, key, value string) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}})
	if err == nil {
		_, err = c.kube.CoreV1().Pods(namespace).Patch(ctx, pod, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		tb.Fatalf("annotate pod: %v", err)
	}
}

// DeletePod deletes a pod without grace period, because no kubelet confirms the deletion.
func (c *Cluster) DeletePod(tb testing.TB, namespace, name string) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	var grace int64
	if err := c.kube.CoreV1().Pods(namespace).Delete(ctx, name,
		metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		tb.Fatalf("delete pod: %v", err)
	}
}

// Annotation returns the current value of an annotation of a pod, and whether it exists.
func (c *Cluster) Annotation(tb testing.TB, namespace, pod, key string) (string, bool) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	got, err := c.kube.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		tb.Fatalf("get pod: %v", err)
	}
	v, ok := got.Annotations[key]
	return v, ok
}

// Events returns the events about a pod, including those of earlier pods of the same name.
func (c *Cluster) Events(tb testing.TB, namespace, pod string) []corev1.Event {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	about := fields.Set{"involvedObject.kind": "Pod", "involvedObject.name": pod}.AsSelector().String()
	list, err := c.kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: about})
	if err != nil {
		tb.Fatalf("list events: %v", err)
	}
	return list.Items
}

// ServiceAccountToken creates a service account and returns a token of it, for use with KubeconfigFor. With
// Options.RBAC, tests of roles use it.
func (c *Cluster) ServiceAccountToken(tb testing.TB, namespace, name string) string {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	accounts := c.kube.CoreV1().ServiceAccounts(namespace)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil {
		tb.Fatalf("create service account: %v", err)
	}
	req, err := accounts.CreateToken(ctx, name, &authv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatalf("create token: %v", err)
	}
	return req.Status.Token
}
