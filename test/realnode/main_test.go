package realnode

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/test/cluster"
	"multus/test/leak"
)

const (
	root = "../.."
	// patience bounds every wait for pods: a second or two on an idle machine.
	patience = 2 * time.Minute
)

func TestMain(m *testing.M) {
	cluster.Main()
	flag.Parse()
	leak.Main(m)
}

// image builds the image once and returns its archive.
var image = sync.OnceValues(func() (string, error) {
	out, err := filepath.Abs(filepath.Join(root, "bin", "image"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "run", "./test/image", "-arch", runtime.GOARCH, "-out", out, "-buildvcs=false", "-version", "test")
	cmd.Dir = root
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build image: %w\n%s", err, b)
	}
	return filepath.Join(out, "multus-test-linux-"+runtime.GOARCH+".tar"), nil
})

// node is a cluster for one test.
type node struct {
	*cluster.Cluster
}

func start(t *testing.T, o cluster.Options) *node {
	t.Helper()
	if testing.Short() {
		t.Skip("a real node: not with -short")
	}
	o.Dir = t.TempDir()
	began := time.Now()
	c, err := cluster.Start(t.Context(), o)
	if errors.Is(err, cluster.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	n := &node{c}
	t.Cleanup(func() {
		if t.Failed() {
			n.explain(t)
		}
		c.Stop()
	})
	step(t, "cluster ready", began)
	return n
}

// explain logs what may say why a test failed.
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
		for _, e := range events.Items {
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

var table sync.Mutex // of the lines of the file that REALNODE_TABLE names

// step adds a line to the table: scenario, result, seconds.
func step(t *testing.T, what string, began time.Time) {
	t.Helper()
	result := "ok"
	if t.Failed() {
		result = "FAILED"
	}
	line := fmt.Sprintf("%-22s %-46s %-7s %6.1f\n", t.Name(), what, result, time.Since(began).Seconds())
	t.Log(line)
	name := os.Getenv("REALNODE_TABLE")
	if name == "" {
		return
	}
	table.Lock()
	defer table.Unlock()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, try func() error) {
	t.Helper()
	began := time.Now()
	defer func() { step(t, what, began) }()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
