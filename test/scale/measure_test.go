package scale

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
	"multus/internal/testutil/page"
	"multus/internal/testutil/proc"
	"multus/internal/testutil/testnet"
)

const (
	// pods is the number of pods on a node: the default limit of the kubelet.
	pods = 110
	// starts is how often a daemon is started for one row. The median counts.
	starts = 3
)

// sizes are the numbers of definitions, without the two that the pods use.
var sizes = []int{0, 1000, 10_000}

// results are the results of one run. Times depend on the machine and show only proportions. The other figures hold on
// every machine.
type results struct {
	Date, Machine           string
	ConfigBytes, ObjectSize int
	Starts                  []started
	Plain, Two              perPod
	Failing                 traffic // of Tries ADDs and DELs
	Tries                   int
	Update, Create, Delete  traffic // of Changed definitions
	Changed                 int
	Reconnect               traffic
	IdleFor                 time.Duration
	Idle                    traffic
	Lists                   []transport
	Server                  server
	Largest                 largest
	Herd                    herd
}

// started is a daemon that started with this number of definitions.
type started struct {
	Definitions int
	Ready       time.Duration
	Cost        traffic
	// ServerCPU and DaemonCPU are the processor time of the start.
	ServerCPU, DaemonCPU time.Duration
	Fresh, Pods, Churned memory
	ChurnedDefinitions   int
}

// perPod are the costs of ADD and DEL of pods.
type perPod struct {
	Pods    int
	Cost    traffic
	Answers map[string]int // by verb, resource and code, from the API server's metrics
}

// server is the memory of the API server and of etcd, and the size of the database, with sizes[0] definitions and with
// all of them.
type server struct {
	APIBefore, APIAfter, EtcdBefore, EtcdAfter, DatabaseBefore, DatabaseAfter int
}

// TestScale measures everything and writes the results into docs/scale.md. `make scale` runs it.
func TestScale(t *testing.T) {
	file := os.Getenv("SCALE")
	if file == "" {
		t.Skip("a measurement, not a test: make scale")
	}
	testnet.RequireRoot(t)
	r := &results{Date: time.Now().UTC().Format(time.DateOnly), Machine: page.Machine()}
	t.Run("herd", func(t *testing.T) { r.Herd = measureHerd(t); fmt.Printf("herd: %+v\n", r.Herd) })
	t.Run("node", func(t *testing.T) { r.measureNode(t) })
	if t.Failed() {
		t.Fatal("nothing is written")
	}
	text := r.markdown()
	fmt.Println(text)
	must(t, page.Replace(file, "scale", text))
}

func (r *results) measureNode(t *testing.T) {
	cluster := kubetest.Start(t)
	s := newSite(t, cluster, "pods")
	d := &definitions{cluster: cluster}
	r.Server.before(t, cluster)
	for _, n := range sizes {
		d.upTo(t, n)
		r.Starts = append(r.Starts, s.measureStart(t, d))
	}
	r.Server.after(t, cluster)
	r.ConfigBytes, r.ObjectSize = len(config(d.have/2, 0)), d.size(t, d.have/2)

	r.Plain = s.measurePods(t, "plain")
	r.Two = s.measurePods(t, "two", "noop-1", "noop-2")
	r.Tries = 20
	wrong := s.pod(t, "wrong", "nowhere")
	r.Failing = s.traffic(t, func() { s.fail(t, wrong, r.Tries) }, requests(map[string]int{lookup: r.Tries, events: 1}))
	r.measureChanges(t, s, d)
	r.IdleFor = 2 * time.Minute
	r.Idle = s.traffic(t, func() { time.Sleep(r.IdleFor) }, requests(nil))
	r.Lists = measureLists(t, cluster)
	r.Largest = measureLargest(t, s)
	r.Reconnect = s.traffic(t, func() { s.proxy.Down(); s.proxy.Up() }, requests(map[string]int{watch: 1}))
}

func (m *server) before(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	m.APIBefore, m.EtcdBefore, m.DatabaseBefore = serverMemory(t, c)
}

func (m *server) after(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	m.APIAfter, m.EtcdAfter, m.DatabaseAfter = serverMemory(t, c)
}

func serverMemory(t *testing.T, c *kubetest.Cluster) (api, etcd, database int) {
	t.Helper()
	apiPid, etcdPid := c.Pids()
	api, _, err := proc.Memory(apiPid)
	must(t, err)
	etcd, _, err = proc.Memory(etcdPid)
	must(t, err)
	return api, etcd, c.EtcdBytes(t)
}

// measureStart starts the daemon several times. To the last one it adds pods, and then it changes definitions.
func (s *site) measureStart(t *testing.T, d *definitions) started {
	t.Helper()
	apiPid, _ := s.cluster.Pids()
	var all []started
	for range starts {
		s.StopDaemon(t)
		one := started{Definitions: d.have, ServerCPU: -cpu(t, apiPid)}
		one.Cost = s.traffic(t, func() { one.Ready = s.start(t) }, requests(map[string]int{list: 1, watch: 1}))
		one.ServerCPU += cpu(t, apiPid)
		one.DaemonCPU = cpu(t, s.Daemon().Pid)
		one.Fresh = s.memory(t)
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b started) int { return int(a.Ready - b.Ready) })
	out := all[len(all)/2]

	var attached []*node.Pod
	for i := range pods {
		p := s.pod(t, fmt.Sprintf("n%d-%d", d.have, i), "noop-1", "noop-2")
		_, err := s.Add(t, s.conf(t), p)
		must(t, err)
		attached = append(attached, p)
	}
	s.settle(t)
	out.Pods = s.memory(t)
	out.ChurnedDefinitions = min(d.have, 2000)
	for i := range out.ChurnedDefinitions {
		d.change(t, i, 2)
	}
	s.settle(t)
	out.Churned = s.memory(t)
	for _, p := range attached {
		must(t, s.Del(t, s.conf(t), p))
	}
	s.settle(t)
	fmt.Printf("%d definitions: ready in %v\n", d.have, out.Ready)
	return out
}

func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	used, err := proc.CPU(pid)
	must(t, err)
	return used
}

func (s *site) measurePods(t *testing.T, name string, networks ...string) perPod {
	t.Helper()
	out := perPod{Pods: 20}
	var all []*node.Pod
	for i := range out.Pods {
		all = append(all, s.pod(t, fmt.Sprintf("%s-%d", name, i), networks...))
	}
	before := s.cluster.Answers(t)
	out.Cost = s.traffic(t, func() {
		for _, p := range all {
			_, err := s.Add(t, s.conf(t), p)
			must(t, err)
			must(t, s.Del(t, s.conf(t), p))
		}
	}, requests(map[string]int{status: out.Pods, events: out.Pods * (1 + len(networks))}))
	out.Answers = map[string]int{}
	for what, n := range minus(s.cluster.Answers(t), before) {
		// Leave out the API server's own requests, which are for other resources.
		if strings.Contains(what, " pods") || strings.Contains(what, " events ") ||
			strings.Contains(what, " network-attachment-definitions ") {
			out.Answers[what] = n
		}
	}
	return out
}

func (r *results) measureChanges(t *testing.T, s *site, d *definitions) {
	t.Helper()
	r.Changed = 200
	all := func(do func(i int)) traffic {
		return s.traffic(t, func() {
			for i := range r.Changed {
				do(i)
			}
		}, bytes(r.Changed*r.ObjectSize/2))
	}
	// Use other definitions than measureStart, because an update without a change causes no event.
	r.Update = all(func(i int) { d.change(t, d.have/2+i, 1) })
	r.Delete = all(func(i int) {
		ns, name := where(d.have/2 + i)
		s.cluster.DeleteNetwork(t, ns, name)
	})
	r.Create = all(func(i int) { d.create(t, d.have/2+i) })
}
