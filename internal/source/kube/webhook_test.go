package kube

import (
	"errors"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/testutil/kubetest"
)

// TestWebhookObjects checks on a real API server what the admission server reads and writes: its secret and webhook
// configurations with a compare-and-swap, the state of a namespace, a service, and one event for a state of a
// definition. (behaviour S16, S22, S24.)
func TestWebhookObjects(t *testing.T) {
	cluster := kubetest.Start(t)
	c, ctx := clientOf(t, cluster.RESTConfig()), t.Context()
	t.Run("secret", func(t *testing.T) {
		ref := plan.Ref{Namespace: "kube-system", Name: "tls"}
		if _, err := c.Secret(ctx, ref); !errors.Is(err, plan.ErrNotFound) {
			t.Errorf("%v", err)
		}
		empty := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: ref.Name}}
		if _, err := cluster.Client().CoreV1().Secrets(ref.Namespace).Create(ctx, empty, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		first, err := c.Secret(ctx, ref)
		if err != nil || len(first.Data) > 0 {
			t.Fatalf("%+v, %v", first, err)
		}
		stale := first.Version
		first.Data = map[string][]byte{"a": []byte("1"), "b": []byte("2")}
		if err := c.UpdateSecret(ctx, ref, first); err != nil {
			t.Fatal(err)
		}
		if err := c.UpdateSecret(ctx, ref, &Secret{Version: stale}); !errors.Is(err, publish.ErrRetry) {
			t.Errorf("%v: no conflict", err)
		}
		second, err := c.Secret(ctx, ref)
		if err != nil || string(second.Data["b"]) != "2" {
			t.Fatalf("%+v, %v", second, err)
		}
		second.Data = map[string][]byte{"a": []byte("3"), "b": nil}
		if err := c.UpdateSecret(ctx, ref, second); err != nil {
			t.Fatal(err)
		}
		if third, err := c.Secret(ctx, ref); err != nil || len(third.Data) != 1 || string(third.Data["a"]) != "3" {
			t.Errorf("%+v, %v", third, err)
		}
	})
	t.Run("webhooks", func(t *testing.T) { webhookConfigurations(t, cluster, c) })
	t.Run("namespace", func(t *testing.T) {
		cluster.CreateNamespace(t, "ending")
		for name, want := range map[string]bool{"default": false, "none": true, "ending": false} {
			if is, err := c.Terminating(ctx, name); err != nil || is != want {
				t.Errorf("%s: %v, %v", name, is, err)
			}
		}
		if err := cluster.Client().CoreV1().Namespaces().Delete(ctx, "ending", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if is, err := c.Terminating(ctx, "ending"); err != nil || !is {
			t.Errorf("%v, %v", is, err)
		}
	})
	t.Run("service", func(t *testing.T) {
		addr, err := c.ServiceAddress(ctx, plan.Ref{Namespace: "default", Name: "kubernetes"})
		if err != nil || addr != "10.96.0.1:443" {
			t.Errorf("%s, %v", addr, err)
		}
		if _, err := c.ServiceAddress(ctx, plan.Ref{Namespace: "default", Name: "none"}); !errors.Is(err, plan.ErrNotFound) {
			t.Errorf("%v", err)
		}
	})
	t.Run("event", func(t *testing.T) {
		ref := plan.Ref{Namespace: "default", Name: "net"}
		for _, version := range []string{"1", "1", "2"} {
			if err := c.EmitDefinition(ctx, ref, "uid", version, "InvalidConfiguration", "m"); err != nil {
				t.Error(err)
			}
		}
		list, err := cluster.Client().CoreV1().Events("default").List(ctx,
			metav1.ListOptions{FieldSelector: "involvedObject.name=net"})
		if err != nil || len(list.Items) != 2 || list.Items[0].InvolvedObject.APIVersion != "k8s.cni.cncf.io/v1" {
			t.Errorf("%d events, %v", len(list.Items), err)
		}
	})
}

// webhookConfigurations checks that the bundles of all webhooks are set, and that a change of another program is not
// overwritten.
func webhookConfigurations(t *testing.T, cluster *kubetest.Cluster, c *Client) {
	t.Helper()
	const name = "multus-admission"
	ctx, path, none := t.Context(), "/validate", admissionv1.SideEffectClassNone
	configurations := cluster.Client().AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := c.Webhooks(ctx, Validating, name); !errors.Is(err, plan.ErrNotFound) {
		t.Errorf("%v", err)
	}
	conf := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, hook := range []string{"a.example.org", "b.example.org"} {
		conf.Webhooks = append(conf.Webhooks, admissionv1.ValidatingWebhook{
			Name: hook, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admissionv1.WebhookClientConfig{
				Service: &admissionv1.ServiceReference{Namespace: "kube-system", Name: name, Path: &path},
			},
		})
	}
	if _, err := configurations.Create(ctx, conf, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	first, err := c.Webhooks(ctx, Validating, name)
	if err != nil || len(first.Names) != 2 || first.Services[1] != "kube-system/"+name || len(first.Bundles[0]) > 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	bundle := cluster.CA()
	if err := c.SetBundle(ctx, first, bundle); err != nil {
		t.Fatal(err)
	}
	if err := c.SetBundle(ctx, first, bundle); !errors.Is(err, publish.ErrRetry) {
		t.Errorf("%v: no conflict", err)
	}
	second, err := c.Webhooks(ctx, Validating, name)
	if err != nil || string(second.Bundles[0]) != string(bundle) || string(second.Bundles[1]) != string(bundle) {
		t.Fatalf("%+v, %v", second, err)
	}
	if err := c.SetBundle(ctx, second, bundle); err != nil {
		t.Errorf("nothing to change: %v", err)
	}
	if got, err := configurations.Get(ctx, name, metav1.GetOptions{}); err != nil || got.Generation != 2 {
		t.Errorf("generation %d, %v", got.Generation, err)
	}
}
