package faults

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"multus/internal/engine/request"
	"multus/internal/testutil/node"
	"multus/internal/testutil/proc"
	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

const (
	// maxRSS bounds the memory of the daemon in a storm. It is also the limit of its cgroup.
	maxRSS = 40 << 20
	// maxGrowth bounds how much memory a soak may add.
	maxGrowth = 4 << 20
)

// rss returns the current resident memory of a process and its peak.
func rss(t *testing.T, pid int) (now, peak int) {
	t.Helper()
	now, peak, err := proc.Memory(pid)
	check(t, err)
	return now, peak
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	check(t, err)
	return len(fds)
}

// TestStorm attaches many pods at once through one daemon in a cgroup of 40 MiB. No call fails, and no process is
// killed. The memory of the delegates is not charged to the daemon (multus-cni#1107).
func TestStorm(t *testing.T) {
	s := newSite(t, node.Thick, variants[2], map[string]any{"daemonTimeout": "60s"})
	group := limitMemory(t, s.Daemon().Pid, maxRSS)
	r := table.row("storm")
	n := 40
	if long() {
		n = 250
	}
	pods := make([]*node.Pod, n)
	for i := range pods {
		pods[i] = s.makePod(t, fmt.Sprintf("p%d", i))
	}
	all := func(verb string) time.Duration {
		start := time.Now()
		var wg sync.WaitGroup
		for _, p := range pods {
			wg.Go(func() {
				r.try()
				if err := s.start(t, p, verb).end(); err != nil {
					r.bad(t, &r.stuck, 1, "%s of %s: %v", verb, p.Name, err)
				}
			})
		}
		wg.Wait()
		return time.Since(start)
	}
	added := all("ADD")
	now, peak := rss(t, s.Daemon().Pid)
	for _, p := range pods {
		if got := interfaces(t, p.NS); len(got) != 2 {
			r.bad(t, &r.interfaces, 1, "pod %s has %v", p.Name, got)
		}
	}
	deleted := all("DEL")
	t.Logf("%d pods at once: ADD %s, DEL %s; daemon %d KiB, at most %d KiB", n, added, deleted, now>>10, peak>>10)
	if peak > maxRSS {
		t.Errorf("the daemon took %d KiB", peak>>10)
	}
	s.clean(t, r, "after the storm")
	if got := group.processes(t); len(got) != 1 || got[0] != s.Daemon().Pid {
		t.Errorf("in the daemon's cgroup: %v, want only the daemon, %d", got, s.Daemon().Pid)
	}
	if kills := group.kills(t); kills != 0 {
		t.Errorf("the kernel killed %d for memory", kills)
	}
}

// staysFlat calls do and checks that the daemon has no more descriptors and not much more memory than before.
func (s *site) staysFlat(t *testing.T, what string, do func()) {
	t.Helper()
	pid := s.Daemon().Pid
	fds := descriptors(t, pid)
	before, _ := rss(t, pid)
	do()
	after, peak := rss(t, pid)
	t.Logf("%s: %d KiB before, %d KiB after, at most %d KiB; %d descriptors", what, before>>10, after>>10, peak>>10, fds)
	if got := descriptors(t, pid); got > fds+2 {
		t.Errorf("%d descriptors, %d before", got, fds)
	}
	if after > before+maxGrowth || peak > maxRSS {
		t.Errorf("memory: %d KiB before, %d KiB after, at most %d KiB", before>>10, after>>10, peak>>10)
	}
}

// TestSoak checks that thousands of requests, some of them cancelled by the client, do not change the daemon's
// descriptors, goroutines and memory.
func TestSoak(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[3], nil)
	c := &client.Client{Socket: filepath.Join(s.SocketDir(), "multus.sock")}
	requests := 1500
	if long() {
		requests = 20000
	}
	soak := func(n int) {
		var wg sync.WaitGroup
		for w := range runtime.NumCPU() {
			wg.Go(func() {
				for i := range n / runtime.NumCPU() {
					s.exchange(t, c, fmt.Sprintf("soak-%d-%d", w, i%50), i%10 == 9)
				}
			})
		}
		wg.Wait()
		time.Sleep(200 * time.Millisecond)
	}
	soak(requests / 3)
	s.staysFlat(t, fmt.Sprintf("%d requests", requests), func() { soak(requests) })
	// A Go program that receives SIGQUIT writes the stacks of all its goroutines.
	s.Signal(t, syscall.SIGQUIT)
	p := s.Daemon()
	waitFor(t, "the daemon ends", func() bool { return p.Signal(syscall.Signal(0)) != nil })
	if n := strings.Count(s.DaemonLog(), "\ngoroutine "); n == 0 || n > 60 {
		t.Errorf("%d goroutines", n)
	} else {
		t.Logf("%d goroutines", n)
	}
}

// TestSoakPods checks that thousands of pods that are attached and deleted, two at a time, leave nothing in the daemon,
// in files or on the node.
func TestSoakPods(t *testing.T) {
	s := newSite(t, node.Thick, variants[3], nil)
	s.fake(t, "light", nil)
	r := table.row("soak")
	n := 100
	if long() {
		n = 10000
	}
	pods := []*node.Pod{s.makePod(t, "soak-0"), s.makePod(t, "soak-1")}
	soak := func(n int) {
		var wg sync.WaitGroup
		for _, p := range pods {
			p.Annotations[networksKey] = "light"
			wg.Go(func() {
				for range n / len(pods) {
					r.try()
					for _, verb := range []string{"ADD", "DEL"} {
						if err := s.start(t, p, verb).end(); err != nil {
							r.bad(t, &r.stuck, 1, "%s of %s: %v", verb, p.Name, err)
						}
					}
				}
			})
		}
		wg.Wait()
	}
	soak(max(n/10, 60)) // until the daemon has allocated what it allocates once
	s.staysFlat(t, fmt.Sprintf("%d pods", n), func() { soak(n) })
	s.clean(t, r, "after the soak")
	if left := s.waiting(t); len(left) > 0 {
		r.bad(t, &r.records, len(left), "reports left: %v", left)
	}
}

// exchange sends the requests of one ADD to the daemon. With gone it cancels the plan request.
func (s *site) exchange(t *testing.T, c *client.Client, name string, gone bool) {
	t.Helper()
	conf := fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"multus-cni-network","type":"multus-shim","clusterNetwork":%q,"cniDir":%q,"runtimeConfig":{%q:{%q:%q}}}`,
		s.conf["clusterNetwork"], s.State(), passed, networksKey, "plain,list")
	req := &wirev1.Request{
		Command: request.Add, ContainerID: name, Netns: s.pod.Path, IfName: "eth0", Config: conf,
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {request.PodNamespace, "default"}, {request.PodName, name}, {request.PodUID, "u"},
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	if gone {
		ctx, cancel = context.WithTimeout(ctx, 300*time.Microsecond)
		defer cancel()
	}
	p := &wirev1.Plan{}
	err := c.Call(ctx, "POST", wirev1.PathPlan, req, p)
	if gone {
		return
	}
	if err == nil {
		rep := &wirev1.Report{Command: request.Add, Wait: true, Pod: wirev1.Pod{Namespace: "default", Name: name, UID: "u"}}
		for _, a := range p.Attachments {
			rep.Attached = append(rep.Attached,
				wirev1.Attached{
					Name: a.Name, IfName: a.IfName, Primary: a.Primary,
					Result: []byte(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}]}`),
				})
		}
		err = c.Call(ctx, "POST", wirev1.PathReport, rep, nil)
	}
	if err != nil {
		t.Errorf("exchange: %v", err)
	}
}

// TestDelPasses checks that DEL never waits for ADDs of other pods. Many ADDs hang in delegates, in the daemon, and in
// the wait for the readiness indicator file. A DEL of another pod succeeds, with or without a record. So does the DEL
// of a pod whose ADD waits, or was killed while it waited, and has attached nothing.
func TestDelPasses(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		s := newSite(t, kind, two, map[string]any{"daemonTimeout": "2m"})
		r := table.row("DEL while ADDs hang, " + string(kind))
		recorded, unrecorded := s.makePod(t, "recorded"), s.makePod(t, "unrecorded")
		s.add(t, recorded)
		h := s.hang(t)
		waiting, killed := h.pods[0], h.pods[1]
		_ = h.adds[1].Process.Kill()
		_ = h.adds[1].end()
		for _, p := range []*node.Pod{recorded, unrecorded, waiting, killed} {
			r.try()
			if err := s.start(t, p, "DEL").end(); err != nil {
				r.bad(t, &r.stuck, 1, "DEL of %s: %v", p.Name, err)
			}
		}
		for i, p := range h.adds {
			if h.pods[i] != killed && !running(t, p.Process.Pid) {
				t.Errorf("ADD of %s has ended: nothing is shown", h.pods[i].Name)
			}
			_ = p.Process.Signal(syscall.SIGTERM) // cancellation by the runtime
		}
		for i, p := range h.adds {
			if h.pods[i] != killed && p.end() == nil {
				t.Errorf("ADD of %s succeeded", h.pods[i].Name)
			}
			if err := s.start(t, h.pods[i], "DEL").end(); err != nil {
				r.bad(t, &r.stuck, 1, "DEL of %s: %v", h.pods[i].Name, err)
			}
		}
		s.clean(t, r, "after all")
	})
}

// hanging has the ADDs that hang.
type hanging struct {
	pods []*node.Pod
	adds []*process
}

// hang starts ADDs and returns when all of them hang: those of the first pods in the wait for the readiness indicator
// file, then others in a delegate and, with a daemon, others in the daemon.
func (s *site) hang(t *testing.T) *hanging {
	t.Helper()
	const each = 12
	h := &hanging{}
	start := func(networks string, conf map[string]any) {
		for range each {
			p := s.makePod(t, fmt.Sprintf("hangs-%d", len(h.pods)))
			p.Annotations[networksKey] = networks
			conf := maps.Clone(conf)
			conf["runtimeConfig"] = map[string]any{passed: p.Annotations}
			h.pods, h.adds = append(h.pods, p), append(h.adds, s.startWith(t, p, "ADD", conf))
		}
	}
	waits := maps.Clone(s.conf)
	waits["readinessindicatorfile"] = filepath.Join(s.Dir, "never")
	start("plain", waits)
	s.script(t, "hang", `[ $CNI_COMMAND = ADD ] && { mkdir "$dir/hangs-$CNI_CONTAINERID"; exec sleep 600; }`)
	start("hang", s.conf)
	count := func(pattern string) int {
		files, err := filepath.Glob(filepath.Join(s.Dir, pattern))
		check(t, err)
		return len(files)
	}
	waitFor(t, "the delegates hang", func() bool { return count("hangs-*") == each })
	if s.kind == node.Thin {
		return h
	}
	s.StopDaemon(t)
	trace := filepath.Join(s.Dir, "trace")
	var points []string
	for pass := range each {
		points = append(points, fmt.Sprintf("daemon.plan.received:%d=10m", pass+1))
	}
	s.DaemonEnv = []string{"MULTUS_FAILPOINT=" + strings.Join(points, ","), "MULTUS_FAILPOINT_TRACE=" + trace}
	s.StartDaemon(t)
	start("plain", s.conf)
	waitFor(t, "the daemon hangs", func() bool {
		b, _ := os.ReadFile(trace) // the first ADD creates the file
		return strings.Count(string(b), "daemon.plan.received") == each
	})
	return h
}

// running reports whether a child process has not ended. A zombie has ended.
func running(t *testing.T, pid int) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(t, err)
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}
