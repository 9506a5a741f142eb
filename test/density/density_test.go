package density

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/fsx"
	"multus/internal/testutil/cluster"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/page"
)

const (
	root = "../.."
	// iterations is the number of iterations of one turn. Each creates two pods, as many in all as a kubelet accepts
	// beside the daemon (110), with room to spare.
	iterations = 50
	// defaultRounds is the number of rounds without DENSITY_ROUNDS. In three rounds each subject is once the first, the
	// second and the third.
	defaultRounds = 3
	// warmUp is the number of iterations of the first turn of each subject, which is not measured.
	warmUp = 5
	// limit bounds every wait. On an idle machine none takes a third of it.
	limit = 3 * time.Minute
)

// subject is one of the compared set-ups.
type subject struct {
	name     string
	node     int // 1 for the first worker
	networks string
	attached int // networks in the network status of each pod
}

// subjects are two nodes of one cluster. The node with the control plane runs no pods, so that the two are alike except
// for Multus. One is idle while the other is measured.
var subjects = []subject{
	{without, 1, "", 0},
	{plain, 2, "", 1},
	{macvlan, 2, "default/macvlan", 2},
}

// The names of the subjects.
const (
	without = "without Multus"
	plain   = "Multus, no more network"
	macvlan = "Multus, one macvlan network more"
)

// TestDensity measures all subjects by turns. `make density` runs it. An interrupt ends the test, which removes the
// cluster.
func TestDensity(t *testing.T) {
	file := os.Getenv("DENSITY")
	if file == "" {
		t.Skip("a measurement, not a test: make density")
	}
	rounds := defaultRounds
	if s := os.Getenv("DENSITY_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("DENSITY_ROUNDS=%q: a number of rounds, at least 1", s)
		}
		rounds = n
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := start(ctx, t)
	for i, one := range subjects {
		s.turn(ctx, t, one, fmt.Sprintf("warm-up-%d", i), warmUp)
	}
	t.Log("all subjects are warm")
	r := &results{Date: time.Now().UTC().Format(time.DateOnly), Machine: page.Machine(), Rounds: rounds}
	for round := range rounds {
		for i := range subjects {
			one := subjects[(round+i)%len(subjects)]
			s.settle(ctx, t)
			t.Logf("round %d of %d", round+1, rounds)
			m := s.turn(ctx, t, one, fmt.Sprintf("density-%d-%d", round+1, i), iterations)
			m.Round = round + 1
			r.Turns = append(r.Turns, m)
		}
	}
	text := r.markdown()
	fmt.Println(text)
	if rounds < defaultRounds {
		t.Logf("%d rounds are too few: nothing is written", rounds)
		return
	}
	b, err := json.MarshalIndent(r, "", " ")
	must(t, err)
	out := os.Getenv("BENCH_OUT")
	must(t, os.MkdirAll(out, 0o755))
	must(t, fsx.WriteAtomic(filepath.Join(out, "density.json"), b, 0o644))
	must(t, page.Replace(file, "density", text))
}

// site is the cluster.
type site struct {
	*cluster.Cluster
	settled map[int]int // containers of each node without pods of the measurement
}

// jobDir is where kube-burner finds its job, on the node with the control plane.
const jobDir = "/tmp/density"

// start starts the cluster and installs Multus on the second worker.
func start(ctx context.Context, t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	t.Log("start a cluster of three nodes")
	c, err := cluster.Start(ctx, cluster.Options{Dir: dir, Nodes: 3})
	must(t, err)
	t.Cleanup(c.Stop)
	s := &site{Cluster: c, settled: map[int]int{}}
	must(t, os.MkdirAll(s.Path(jobDir), 0o755))
	must(t, os.CopyFS(s.Path(jobDir), os.DirFS("testdata")))
	b, err := os.ReadFile(filepath.Join(dir, "kubeconfig"))
	must(t, err)
	must(t, os.WriteFile(s.Path(jobDir+"/kubeconfig"), b, 0o600))
	s.install(ctx, t)
	for i := range s.Others {
		s.settled[i+1] = s.containers(t, i+1)
	}
	if s.settled[2] == 0 {
		t.Fatal("the containers of the daemon are not found, so that those of pods would not be, either")
	}
	return s
}

// install applies deploy/base for the second worker alone, and the network.
func (s *site) install(ctx context.Context, t *testing.T) {
	t.Helper()
	t.Log("install Multus on one of them")
	archive, err := cluster.MultusImage()
	must(t, err)
	must(t, s.node(2).Import(ctx, archive))
	base, err := filepath.Abs(filepath.Join(root, "deploy", "base"))
	must(t, err)
	dir := t.TempDir()
	base, err = filepath.Rel(dir, base)
	must(t, err)
	text := fmt.Sprintf(`resources: [%s]
patches:
  - target: {kind: DaemonSet, name: kube-multus-ds}
    patch: '[{"op": "add", "path": "/spec/template/spec/nodeSelector/kubernetes.io~1hostname", "value": "%s"}]'
`, base, s.node(2).Node)
	must(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600))
	must(t, s.Kustomize(ctx, dir))
	b, err := os.ReadFile("testdata/network.yml")
	must(t, err)
	must(t, s.Apply(ctx, string(b)))
	until(ctx, t, "the daemon is Ready", func() error {
		ds, err := s.Client.AppsV1().DaemonSets("kube-system").Get(ctx, "kube-multus-ds", metav1.GetOptions{})
		if err == nil && ds.Status.NumberReady != 1 {
			err = fmt.Errorf("%+v", ds.Status)
		}
		return err
	})
	for i, want := range map[int]int{1: 0, 2: 1} {
		until(ctx, t, "the CNI configuration", func() error {
			files, err := filepath.Glob(s.node(i).Path(s.Paths().Conf + "/00-multus.conf*"))
			if err == nil && len(files) != want {
				err = fmt.Errorf("%s has %q", s.node(i).Node, files)
			}
			return err
		})
	}
}

// node returns a node of the cluster, 1 for the first worker.
func (s *site) node(i int) *cluster.Cluster { return s.Others[i-1] }

// containers returns the number of containers of a node that containerd keeps, sandboxes included, running or not.
func (s *site) containers(t *testing.T, node int) int {
	t.Helper()
	dirs, err := filepath.Glob(s.node(node).Path(s.Paths().Containerd + "/io.containerd.grpc.v1.cri/*/*"))
	must(t, err)
	return len(dirs)
}

// until waits for a condition. It fails the test after limit, and when the test is interrupted.
func until(ctx context.Context, t *testing.T, what string, try func() error) {
	t.Helper()
	eventually.NoError(ctx, t, limit, "wait until "+what, try)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
