package deploy

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"multus/internal/testutil/kubectl"
	"multus/internal/testutil/kubetest"
)

// TestReplaceToday checks that `kubectl apply` over today's objects, if they were applied in the same way, leaves
// nothing of them. With --server-side over objects that another tool created, their fields stay. docs/upgrade.md warns
// of that.
func TestReplaceToday(t *testing.T) {
	c := kubetest.Start(t)
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	at := func(u *unstructured.Unstructured) dynamic.ResourceInterface {
		r := client.Resource(resources[u.GetKind()])
		if ns := u.GetNamespace(); ns != "" {
			return r.Namespace(ns)
		}
		return r
	}
	now := func() []string {
		ds, err := c.Client().AppsV1().DaemonSets("kube-system").Get(t.Context(), "kube-multus-ds", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return violations(served(ds))
	}
	for _, u := range todays(t) {
		if err := kubectl.Apply(t.Context(), at(u), u); err != nil {
			t.Fatal(err)
		}
	}
	before := now()
	if len(before) < 5 {
		t.Fatalf("today's DaemonSet violates only %q: this test shows nothing", before)
	}
	for _, u := range render(t, base).objects {
		if err := kubectl.Apply(t.Context(), at(u), u); err != nil {
			t.Fatal(err)
		}
	}
	if left := now(); len(left) != 0 {
		t.Errorf("client side: left of today's: %q", left)
	}

	for _, u := range todays(t) {
		if err := at(u).Delete(t.Context(), u.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := at(u).Create(t.Context(), u, metav1.CreateOptions{FieldManager: "chart"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range render(t, base).objects {
		if err := apply(t, client, u, false); err != nil {
			t.Fatal(err)
		}
	}
	if left := strings.Join(now(), " "); !strings.Contains(left, "unexpected init containers") {
		t.Errorf("server side: nothing is left of today's (%q), contrary to docs/upgrade.md", left)
	}
}

func todays(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	all, err := kubectl.Read("../realnode/testdata/today.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// served removes a default of the API server that the security check would report.
func served(ds *appsv1.DaemonSet) *appsv1.DaemonSet {
	for i := range ds.Spec.Template.Spec.Volumes {
		if h := ds.Spec.Template.Spec.Volumes[i].HostPath; h != nil && h.Type != nil && *h.Type == "" {
			h.Type = nil
		}
	}
	return ds
}
