package faults

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
	"multus/internal/testutil/kubetest"
	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

const (
	// manifestLimit is the memory limit of the daemon in deploy/base/daemonset.yaml.
	manifestLimit = 256 << 20
	// largeDefinitions definitions of largeDefinition bytes each exceeded that limit in an earlier version.
	largeDefinitions = 190
	largeDefinition  = 1000 << 10
	// refusedPods is the number of pods whose network status the API server always rejects.
	refusedPods = 1000
)

// TestHostileSizes checks that the daemon, with the memory limit of the manifest, survives what users can create: 190
// definitions of nearly 1 MB each, a pod that names one of them 250 times, 110 pods at the same time with the largest
// plan that is allowed, and 1,000 pods whose network status the API server always rejects. Meanwhile plain pods start,
// and the network statuses of other pods are written soon.
func TestHostileSizes(t *testing.T) {
	t.Parallel()
	if !long() {
		t.Skip("makes 190 MB of definitions: FAULTS_SECONDS=61")
	}
	cluster := kubetest.Start(t)
	s := newChangingSite(t, cluster, "hostile")
	s.StopDaemon(t)
	cluster.CreateNetwork(t, s.ns, "lan", s.bridged(100), nil)
	config := fmt.Sprintf(`{"cniVersion":"1.1.0","type":"bridge","x":%q}`, strings.Repeat("x", largeDefinition))
	for i := range largeDefinitions {
		cluster.CreateNetwork(t, s.ns, fmt.Sprintf("big-%d", i), config, nil)
	}
	// The daemon is moved into its cgroup after its start, so it cannot read the limit itself.
	s.DaemonEnv = append(s.DaemonEnv, fmt.Sprint("GOMEMLIMIT=", manifestLimit/10*8))
	s.StartDaemon(t)
	group := limitMemory(t, s.Daemon().Pid, manifestLimit)
	r := table.row("definitions, pods and statuses of hostile sizes")
	s.ready(t, "large definitions")
	s.plainStarts(t, r, "large definitions")

	for what, networks := range map[string]string{
		"a large definition": "big-0", "many large definitions": "big-1" + strings.Repeat(",big-1", 249),
		"many networks": "lan" + strings.Repeat(",lan", 249),
	} {
		_, err := s.attachAndDelete(t, r, networks, false)
		if ce, ok := errors.AsType[*types.Error](err); !ok || ce.Code != types.ErrInvalidNetworkConfig {
			r.bad(t, &r.stuck, 1, "%s: ADD: %.1000v, want an error of code %d", what, err, types.ErrInvalidNetworkConfig)
		}
	}

	s.planMany(t)
	s.plainStarts(t, r, "many large plans")
	s.refuse(t, refusedPods)
	start := time.Now()
	s.plainStarts(t, r, "refused statuses")
	s.starts(t, r, "lan", "refused statuses")
	t.Logf("a plain and an annotated pod: %s from ADD to status and DEL", time.Since(start))
	if !waitFor(t, "no report waits", func() bool { return len(s.waiting(t)) == 0 }) {
		r.bad(t, &r.records, len(s.waiting(t)), "%d reports left", len(s.waiting(t)))
	}
	if n := cluster.Answers(t)["PATCH pods/status 422"]; n < refusedPods {
		t.Errorf("%d of %d statuses were rejected: nothing is shown", n, refusedPods)
	}
	now, peak := rss(t, s.Daemon().Pid)
	t.Logf("daemon %d KiB, at most %d KiB", now>>10, peak>>10)
	if peak > manifestLimit {
		t.Errorf("the daemon took %d KiB", peak>>10)
	}
	if got := group.processes(t); len(got) != 1 || got[0] != s.Daemon().Pid {
		t.Errorf("in the daemon's cgroup: %v, want only the daemon, %d", got, s.Daemon().Pid)
	}
	if kills := group.kills(t); kills != 0 {
		t.Errorf("the kernel killed %d for memory", kills)
	}
}

// planMany requests 110 plans at the same time. They are as large as a plan may be and become larger when they are
// encoded.
func (s *changingSite) planMany(t *testing.T) {
	t.Helper()
	const pods, size = 110, 240 << 10
	config := fmt.Sprintf(`{"cniVersion":"1.1.0","type":"bridge","x":%q}`, strings.Repeat("<", size))
	s.cluster.CreateNetwork(t, s.ns, "grows", config, nil)
	element := `{"name":"grows","cni-args":{"a":"b"}}` // a different configuration for each element
	annotation := "[" + element + strings.Repeat(","+element, plan.MaxBytes/size-3) + "]"
	uid := s.cluster.CreatePod(t, s.ns, "grows", map[string]string{netsel.Networks: annotation})
	c := &client.Client{Socket: s.SocketDir() + "/multus.sock"}
	waitFor(t, "the definition is known", func() bool {
		return c.Call(t.Context(), "POST", wirev1.PathPlan, s.planRequest("grows-0", uid), nil) == nil
	})
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() {
			req := s.planRequest(fmt.Sprint("grows-", i), uid)
			if err := c.Call(t.Context(), "POST", wirev1.PathPlan, req, nil); err != nil {
				t.Errorf("plan: %v", err)
			}
		})
	}
	wg.Wait()
}

// planRequest returns the plugin's request for the pod "grows".
func (s *changingSite) planRequest(containerID, uid string) *wirev1.Request {
	return &wirev1.Request{
		Command: request.Add, ContainerID: containerID, Netns: "/run/netns/x", IfName: "eth0", Config: s.Conf(),
		Args: [][2]string{{request.PodNamespace, s.ns}, {request.PodName, "grows"}, {request.PodUID, uid}},
	}
}

// refuse reports the sandboxes of n pods whose annotations have no room left. The API server answers each network
// status with 422.
func (s *changingSite) refuse(t *testing.T, n int) {
	t.Helper()
	const most = 256 << 10 // limit for all annotations of a pod together
	full := map[string]string{"x": strings.Repeat("x", most-100)}
	type pod struct{ name, uid string }
	pods := make(chan pod)
	c := &client.Client{Socket: s.SocketDir() + "/multus.sock"}
	result := fmt.Appendf(nil, `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.244.0.9/16"}],"dns":{"domain":%q}}`, strings.Repeat("d", 500))
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for p := range pods {
				rep := &wirev1.Report{
					Command: request.Add, ContainerID: p.name, Time: time.Now().UnixNano(),
					Pod:      wirev1.Pod{Namespace: s.ns, Name: p.name, UID: p.uid},
					Attached: []wirev1.Attached{{Name: "cluster", IfName: "eth0", Primary: true, Result: result}},
				}
				if err := c.Call(t.Context(), "POST", wirev1.PathReport, rep, nil); err != nil {
					t.Errorf("report of %s: %v", p.name, err)
				}
			}
		})
	}
	defer wg.Wait()
	defer close(pods)
	for i := range n {
		name := fmt.Sprintf("full-%d", i)
		pods <- pod{name, s.cluster.CreatePod(t, s.ns, name, full)}
	}
}
