package realnode

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/cluster"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/leak"
)

const (
	root = "../.."
	// waitTimeout bounds every wait for pods, which takes a second or two on an idle machine.
	waitTimeout = 2 * time.Minute
)

func TestMain(m *testing.M) {
	cluster.Main()
	flag.Parse()
	leak.Main(m)
}

// node is a cluster for one test, or for several tests that run one after another.
type node struct {
	*cluster.Cluster
	paths cluster.Paths
}

// start starts a node if REALNODE is set. Real nodes take minutes, so plain `go test ./...` leaves them out.
func start(t *testing.T, o cluster.Options) *node {
	t.Helper()
	if os.Getenv("REALNODE") == "" {
		t.Skip("a real node is not requested: run make e2e, or set REALNODE=1")
	}
	o.Dir = t.TempDir()
	began := time.Now()
	c, err := cluster.Start(t.Context(), o)
	if err != nil {
		// A skip would look like success, because the test was requested.
		t.Fatal(err)
	}
	n := &node{c, c.Paths()}
	t.Cleanup(func() {
		if t.Failed() {
			n.explain(t)
		}
		c.Stop()
	})
	t.Logf("cluster ready after %.1f s", time.Since(began).Seconds())
	return n
}

// explain logs the state of the cluster for a failed test.
func (n *node) explain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if pods, err := n.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); err == nil {
		for _, p := range pods.Items {
			t.Logf("pod %s/%s: %s %+v", p.Namespace, p.Name, p.Status.Phase, p.Status.ContainerStatuses)
		}
	}
	if events, err := n.Client.CoreV1().Events("").List(ctx, metav1.ListOptions{}); err == nil {
		for _, e := range events.Items[max(0, len(events.Items)-50):] {
			t.Logf("event %s %s: %s %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	logs, _ := filepath.Glob(n.Path("/var/log/pods/kube-system_*/*/*.log"))
	for _, log := range logs {
		if b, err := os.ReadFile(log); err == nil {
			t.Logf("%s:\n%s", log, b[max(0, len(b)-3000):])
		}
	}
	t.Log(n.Logs("kubelet", "containerd"))
}

// until waits for a condition and logs how long that took.
func until(t *testing.T, what string, try func() error) {
	t.Helper()
	began := time.Now()
	wait(t, what, try)
	t.Logf("%s: %.1f s", what, time.Since(began).Seconds())
}

// wait repeats try until it returns no error. If that takes longer than waitTimeout, the test fails with the last
// error.
func wait(t *testing.T, what string, try func() error) {
	t.Helper()
	eventually.NoError(context.Background(), t, waitTimeout, what, try) // also when the test has ended: a clean-up waits
}
