package kube

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"multus/internal/engine/plan"
	"multus/internal/testutil/kubetest"
)

// TestNode checks that the runtime's version and the IP addresses of a Node object are read, and that a missing
// permission is named.
func TestNode(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api/v1/nodes/a":
			fmt.Fprint(w, `{"kind":"Node","apiVersion":"v1","metadata":{"name":"a"},"status":{"nodeInfo":{"containerRuntimeVersion":"containerd://2.1.4"},
				"addresses":[{"type":"InternalIP","address":"192.0.2.1"},{"type":"Hostname","address":"a"},{"type":"InternalIP","address":"2001:db8::1"},{"type":"ExternalIP","address":"203.0.113.1"}]}}`)
		case "/api/v1/nodes/new":
			fmt.Fprint(w, `{"kind":"Node","apiVersion":"v1","metadata":{"name":"new"}}`)
		case "/api/v1/nodes/none":
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
		default:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
		}
	}))
	t.Cleanup(server.Close)
	c := clientOf(t, &rest.Config{Host: server.URL})
	n, err := c.Node(t.Context(), "a")
	if err != nil || n.ContainerRuntimeVersion != "containerd://2.1.4" ||
		!slices.Equal(n.Addresses, []string{"192.0.2.1", "2001:db8::1", "203.0.113.1"}) {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err := c.Node(t.Context(), "new"); err != nil || n.ContainerRuntimeVersion != "" || n.Addresses != nil {
		t.Errorf("a node without a status: %+v, %v", n, err)
	}
	if _, err := c.Node(t.Context(), "none"); !errors.Is(err, plan.ErrNotFound) {
		t.Errorf("no such node: %v", err)
	}
	denied := (*ForbiddenError)(nil)
	if _, err := c.Node(t.Context(), "other"); !errors.As(err, &denied) || denied.Verb != "get" ||
		denied.Resource != "nodes" {
		t.Errorf("not allowed: %v", err)
	}
}

// TestNodeIsLimited checks that a Node object that is larger than an answer may be is refused.
func TestNodeIsLimited(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"status":{"nodeInfo":{"containerRuntimeVersion":"containerd://2.1.4"}},"x":%q}`, strings.Repeat("x", limit))
	})
	if n, err := c.Node(t.Context(), "n1"); err != nil || n.ContainerRuntimeVersion == "" {
		t.Fatalf("within the limit: %+v, %v", n, err)
	}
	c.maxObject = limit
	if n, err := c.Node(t.Context(), "n1"); !errors.Is(err, errTooLarge) {
		t.Errorf("%+v, %v", n, err)
	}
}

// TestNodeOfAPIServer checks that a real API server returns what the kubelet has written, and denies a role without
// nodes.
func TestNodeOfAPIServer(t *testing.T) {
	t.Parallel()
	cluster := kubetest.StartWith(t, kubetest.Options{RBAC: true})
	nodes := cluster.Client().CoreV1().Nodes()
	node, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}},
		metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.NodeInfo.ContainerRuntimeVersion = "containerd://2.1.4"
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "node-a"},
		{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
	}
	if _, err := nodes.UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	of := func(kubeconfig string) *Client {
		config, err := Load(Options{Kubeconfig: kubeconfig})
		if err != nil {
			t.Fatal(err)
		}
		return clientOf(t, config)
	}
	c := of(cluster.Kubeconfig(t))
	if n, err := c.Node(t.Context(), "node-a"); err != nil || n.ContainerRuntimeVersion != "containerd://2.1.4" ||
		!slices.Equal(n.Addresses, []string{"192.0.2.1"}) {
		t.Errorf("%+v, %v", n, err)
	}
	if _, err := c.Node(t.Context(), "node-b"); !errors.Is(err, plan.ErrNotFound) {
		t.Errorf("no such node: %v", err)
	}
	cluster.CreateNamespace(t, "rights")
	denied := (*ForbiddenError)(nil)
	c = of(cluster.KubeconfigFor(t, cluster.Addr(), cluster.ServiceAccountToken(t, "rights", "no-role")))
	if _, err := c.Node(t.Context(), "node-a"); !errors.As(err, &denied) {
		t.Errorf("not allowed: %v", err)
	}
}
