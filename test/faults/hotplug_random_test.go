package faults

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"multus/internal/testutil/node"
)

const (
	// plugPods is the number of pods that run at the same time.
	plugPods = 4
	// settleLimit bounds the time in which a pod gets what it requests after the last fault. After an outage it may take
	// 20 s until pods are watched again. A runner is started 5 s after another one was killed, and the pause after
	// failures doubles.
	settleLimit = 2 * maxPause
	// outage is the longest time for which the API server is away. A daemon that was started right before it has no
	// definitions, and attaches no pod until its end.
	outage = 20 * time.Second
	// statusPause is the pause between two STATUS of the runtime, which start the runners.
	statusPause = 200 * time.Millisecond
)

// plugOperations is the number of changes that the random test makes.
func plugOperations() int {
	if n, err := strconv.Atoi(os.Getenv("FAULTS_PLUGS")); err == nil {
		return n
	}
	if long() {
		return 1000
	}
	return 20
}

// plugPod is a running pod with networks that no other pod uses.
type plugPod struct {
	*node.Pod
	own   []string
	wants networks
	// undefined has the networks whose definitions are deleted.
	undefined map[string]bool
}

// plugging is the state of the random test.
type plugging struct {
	*hotPlugSite
	row    *row
	pods   []*plugPod
	counts map[string]int
}

// hotPlugRandom plugs and unplugs networks of several pods, while runners and daemon are killed, definitions are
// deleted before networks are unplugged, pods are deleted and created, and the API server cannot be reached for some
// time. At last each pod has what it requests, and nothing else, and DEL leaves nothing.
func hotPlugRandom(t *testing.T, s *hotPlugSite) {
	p := &plugging{hotPlugSite: s, row: table.row("networks plugged and unplugged at random"), counts: map[string]int{}}
	for n := range plugPods {
		pod := &plugPod{wants: networks{}, undefined: map[string]bool{}}
		for i, network := range hotPlugNetworks {
			pod.own = append(pod.own, fmt.Sprintf("%s-%d", network, n))
			s.cluster.CreateNetwork(t, s.ns, pod.own[i], s.bridged(100+i), nil)
		}
		p.pods = append(p.pods, pod)
		p.create(t, pod)
	}
	stop := p.runtime(t)
	defer stop()
	for n := range plugOperations() {
		p.row.try()
		p.operation(t, p.pods[rand.IntN(len(p.pods))], fmt.Sprintf("operation %d", n))
	}
	for _, pod := range p.pods {
		p.settle(t, pod, "at the end")
	}
	stop()
	s.idle(t)
	t.Logf("%v", p.counts)
	for _, pod := range p.pods {
		s.pod = pod.Pod
		s.del(t, p.row, "at the end")
	}
	s.clean(t, p.row, "at the end")
	if !waitFor(t, "no report waits", func() bool { return len(s.waiting(t)) == 0 }) {
		p.row.bad(t, &p.row.records, len(s.waiting(t)), "reports left: %v", s.waiting(t))
	}
}

// runtime calls STATUS until the returned function is called.
func (p *plugging) runtime(t *testing.T) (stop func()) {
	t.Helper()
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(statusPause):
				_ = p.startWith(t, &node.Pod{NS: p.Node.NS}, "STATUS", p.conf).end() // it fails while the daemon starts
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// operation makes one change of a pod, and one fault.
func (p *plugging) operation(t *testing.T, pod *plugPod, what string) {
	t.Helper()
	away := rand.IntN(15) == 0
	if away {
		p.counts["API server away"]++
		p.proxy.Down()
		end := time.AfterFunc(outage, p.proxy.Up)
		defer end.Stop()
	}
	switch rand.IntN(20) {
	case 0:
		p.recreate(t, pod)
	case 1:
		p.change(t, pod)
		p.counts["deleted during a change"]++
		p.recreate(t, pod)
	default:
		p.change(t, pod)
	}
	switch x := rand.IntN(12); {
	case x < 3:
		p.killRunners(t, rand.N(150*time.Millisecond))
	case x == 3:
		p.counts["daemon killed"]++
		time.Sleep(rand.N(150 * time.Millisecond)) // a random moment of the change
		p.StopDaemon(t)
		p.StartDaemon(t)
	}
	p.proxy.Up()
	if rand.IntN(2) == 0 {
		p.settle(t, pod, what)
	}
}

// change plugs or unplugs one network. The definition of every second network that is unplugged is deleted first.
func (p *plugging) change(t *testing.T, pod *plugPod) {
	t.Helper()
	i := rand.IntN(len(pod.own))
	name := pod.own[i]
	_, has := pod.wants[name]
	switch {
	case has:
		if rand.IntN(2) == 0 {
			p.counts["definition deleted"]++
			p.cluster.DeleteNetwork(t, p.ns, name)
			pod.undefined[name] = true
		}
		p.counts["unplugged"]++
		delete(pod.wants, name)
	case pod.undefined[name]:
		return
	default:
		p.counts["plugged"]++
		pod.wants[name] = []string{"", fmt.Sprintf("data%d", i)}[rand.IntN(2)]
	}
	p.request(t, pod.Pod, pod.wants)
}

// settle waits until a pod has what it requests. Then the deleted definitions are created again.
func (p *plugging) settle(t *testing.T, pod *plugPod, what string) {
	t.Helper()
	start := time.Now()
	p.settles(t, p.row, pod.Pod, pod.wants, settleLimit, what)
	p.counts["slowest in ms"] = max(p.counts["slowest in ms"], int(time.Since(start).Milliseconds()))
	for name := range pod.undefined {
		i := slices.Index(pod.own, name)
		p.cluster.CreateNetwork(t, p.ns, name, p.bridged(100+i), nil)
	}
	clear(pod.undefined)
}

// recreate deletes a pod, and creates another one that requests the same networks.
func (p *plugging) recreate(t *testing.T, pod *plugPod) {
	t.Helper()
	p.counts["pod created again"]++
	p.pod = pod.Pod
	p.del(t, p.row, "DEL")
	if left := interfaces(t, pod.NS); len(left) > 0 {
		p.row.bad(t, &p.row.interfaces, len(left), "after DEL: %v", left)
	}
	if left := p.reserved(t, pod.Pod); len(left) > 0 {
		p.row.bad(t, &p.row.addresses, len(left), "after DEL: %v", left)
	}
	p.cluster.DeletePod(t, p.ns, pod.Name)
	for name := range pod.undefined {
		delete(pod.wants, name)
	}
	p.create(t, pod)
}

// create creates and attaches a pod. As a container runtime, it repeats a failed ADD in another sandbox.
func (p *plugging) create(t *testing.T, pod *plugPod) {
	t.Helper()
	p.podCount++
	name := fmt.Sprintf("pod-%d", p.podCount)
	annotations := map[string]string{networksKey: pod.wants.annotation()}
	uid := p.cluster.CreatePod(t, p.ns, name, annotations)
	var err error
	if !within(t, "ADD", settleLimit, func() bool {
		pod.Pod = p.NewPod(t, p.ns, name, uid, maps.Clone(annotations))
		p.pod, p.prev = pod.Pod, nil
		if err = p.call(t, "ADD"); err != nil {
			p.del(t, p.row, "DEL of a failed ADD")
		}
		return err == nil
	}) {
		p.row.bad(t, &p.row.stuck, 1, "ADD: %v", err)
	}
}

// killRunners kills the runners of the site after some time. In half of the cases another one is started at once.
func (p *plugging) killRunners(t *testing.T, after time.Duration) {
	t.Helper()
	time.Sleep(after) // a random moment of the change
	killed := p.runners(t)
	for _, pid := range killed {
		p.counts["runner killed"]++
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	if len(killed) > 0 && rand.IntN(2) == 0 {
		if err := p.runnerFor(t, p.config, "20ms").end(); err != nil {
			t.Errorf("runner: %v", err)
		}
	}
}

// runners returns the processes of the site's runners. They are found by the directory of plugins in their environment,
// which is that of this site alone.
func (s *site) runners(t *testing.T) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	for _, f := range files {
		line, _ := os.ReadFile(f) // the process may have ended
		if !bytes.Contains(line, []byte("/multus-shim\x00runner\x00")) {
			continue
		}
		env, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "environ"))
		if !bytes.Contains(env, []byte(s.Dir+"/plugins")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
