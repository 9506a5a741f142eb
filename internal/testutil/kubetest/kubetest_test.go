package kubetest_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"multus/internal/testutil/kubetest"
)

const (
	agent = "client-under-test"
	// callTimeout is long enough for a busy machine. short bounds calls that must not be answered.
	callTimeout = 20 * time.Second
	short       = 300 * time.Millisecond
)

var networks = schema.GroupVersionResource{
	Group: "k8s.cni.cncf.io", Version: "v1",
	Resource: "network-attachment-definitions",
}

// config loads a kubeconfig as a client under test does.
func config(t *testing.T, kubeconfig string, timeout time.Duration) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.UserAgent, cfg.Timeout, cfg.QPS = agent, timeout, -1
	return cfg
}

func client(t *testing.T, kubeconfig string, timeout time.Duration) kubernetes.Interface {
	t.Helper()
	k, err := kubernetes.NewForConfig(config(t, kubeconfig, timeout))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func getPod(t *testing.T, k kubernetes.Interface) error {
	t.Helper()
	_, err := k.CoreV1().Pods("team-a").Get(t.Context(), "pod-1", metav1.GetOptions{})
	return err
}

func TestCluster(t *testing.T) {
	c := kubetest.Start(t)
	c.CreateNamespace(t, "team-a")
	uid := c.CreatePod(t, "team-a", "pod-1", map[string]string{"example.com/key": "value"})
	if uid == "" {
		t.Error("pod has no UID")
	}
	kubeconfig := c.Kubeconfig(t)
	k := client(t, kubeconfig, callTimeout)

	t.Run("objects", func(t *testing.T) { testObjects(t, c, kubeconfig) })
	t.Run("requests", func(t *testing.T) { testRequests(t, c, k) })
	t.Run("proxy", func(t *testing.T) { testProxy(t, c) })
	t.Run("stop", func(t *testing.T) {
		c.Stop(t)
		if err := getPod(t, client(t, kubeconfig, short)); err == nil {
			t.Error("a stopped server answered")
		}
		c.Resume(t)
		if err := getPod(t, k); err != nil {
			t.Errorf("get pod after resume: %v", err)
		}
	})
	t.Run("restart", func(t *testing.T) {
		c.Kill(t)
		if err := getPod(t, k); err == nil {
			t.Error("a killed server answered")
		}
		c.Restart(t)
		if err := getPod(t, k); err != nil {
			t.Errorf("get pod after restart: %v", err)
		}
	})
	t.Run("delete", func(t *testing.T) {
		c.DeletePod(t, "team-a", "pod-1")
		if err := getPod(t, k); err == nil {
			t.Error("the pod is still there")
		}
	})
}

func testObjects(t *testing.T, c *kubetest.Cluster, kubeconfig string) {
	const conf = `{"cniVersion":"1.0.0","type":"macvlan"}`
	c.CreateNetwork(t, "team-a", "net-1", conf, map[string]string{"example.com/a": "b"})
	d, err := dynamic.NewForConfig(config(t, kubeconfig, callTimeout))
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.Resource(networks).Namespace("team-a").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].GetName() != "net-1" ||
		list.Items[0].GetAnnotations()["example.com/a"] != "b" {
		t.Errorf("networks: got %v", list.Items)
	}
	c.DeleteNetwork(t, "team-a", "net-1")

	if v, ok := c.Annotation(t, "team-a", "pod-1", "example.com/key"); v != "value" || !ok {
		t.Errorf("annotation: got %q, %v", v, ok)
	}
	if v, ok := c.Annotation(t, "team-a", "pod-1", "example.com/none"); v != "" || ok {
		t.Errorf("missing annotation: got %q, %v", v, ok)
	}
	if ev := c.Events(t, "team-a", "pod-1"); len(ev) != 0 {
		t.Errorf("events: got %v, want none", ev)
	}
}

func testRequests(t *testing.T, c *kubetest.Cluster, k kubernetes.Interface) {
	before := c.Requests(t, agent)
	if err := getPod(t, k); err != nil {
		t.Fatal(err)
	}
	patch := []byte(`{"metadata":{"annotations":{"example.com/status":"x"}}}`)
	_, err := k.CoreV1().Pods("team-a").Patch(t.Context(), "pod-1", "application/merge-patch+json", patch,
		metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := k.CoreV1().Pods("team-a").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Stop()
	c.CreatePod(t, "team-a", "not-counted", nil)

	after := c.Requests(t, agent)
	for key, want := range map[string]int{
		"GET pods": 1, "PATCH pods/status": 1, "WATCH pods": 1, "POST pods": 0,
		"LIST pods": 0,
	} {
		if got := after[key] - before[key]; got != want {
			t.Errorf("%s: got %d requests, want %d", key, got, want)
		}
	}
	all := c.Requests(t)
	if all["POST pods"] != 0 || all["GET pods"] != after["GET pods"] {
		t.Errorf("requests of everyone but the fixtures: got %v", all)
	}
	if got := c.Requests(t, kubetest.Agent)["POST pods"]; got != 2 {
		t.Errorf("pods created by the fixtures: got %d, want 2", got)
	}
}

func testProxy(t *testing.T, c *kubetest.Cluster) {
	p := c.Proxy(t)
	k := client(t, p.Kubeconfig(t), callTimeout)
	if err := getPod(t, k); err != nil {
		t.Fatalf("get pod by way of the proxy: %v", err)
	}
	p.Down()
	if err := getPod(t, k); err == nil {
		t.Error("got an answer through a proxy that is down")
	}
	if conn, err := net.DialTimeout("tcp", p.Addr(), short); err == nil {
		_ = conn.Close()
		t.Error("connected to a proxy that is down")
	}
	if _, ok := c.Annotation(t, "team-a", "pod-1", "example.com/key"); !ok {
		t.Error("the others are cut off too")
	}
	p.Up()
	if err := getPod(t, k); err != nil {
		t.Errorf("get pod after up: %v", err)
	}
}

func TestRBAC(t *testing.T) {
	c := kubetest.StartWith(t, kubetest.Options{RBAC: true})
	c.CreateNamespace(t, "team-a")
	c.CreatePod(t, "team-a", "pod-1", nil)
	if err := getPod(t, client(t, c.Kubeconfig(t), callTimeout)); err != nil {
		t.Errorf("get pod as administrator: %v", err)
	}
	token := c.ServiceAccountToken(t, "team-a", "without-role")
	err := getPod(t, client(t, c.KubeconfigFor(t, c.Addr(), token), callTimeout))
	if err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("get pod without a role: got %v, want forbidden", err)
	}
}

// TestStartFor checks that two clusters can run at the same time, as with two packages.
func TestStartFor(t *testing.T) {
	c, stop, err := kubetest.StartFor(t.TempDir())
	if err != nil {
		t.Skip(err)
	}
	other := kubetest.Start(t)
	if c.Addr() == other.Addr() {
		t.Errorf("two clusters on %s", c.Addr())
	}
	stop()
	if conn, err := net.DialTimeout("tcp", c.Addr(), short); err == nil {
		_ = conn.Close()
		t.Error("the server runs after stop")
	}
	if len(other.CA()) == 0 || other.Token() == "" {
		t.Error("no CA or token")
	}
	if _, err := other.Client().CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Errorf("get namespace from the other cluster: %v", err)
	}
}
