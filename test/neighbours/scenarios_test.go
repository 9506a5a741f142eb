package neighbours

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// scenario is a sequence of calls that failed on real clusters.
type scenario struct {
	name string
	// description is its line on the page.
	description string
	// on are the deployments. If it is empty, the scenario runs under all of them.
	on  []deployment
	run func(t *testing.T, d deployment)
}

// scenarios is the table that TestScenarios runs and that docs/ecosystem.md shows.
var scenarios = []scenario{
	{
		name: "interfaces rearranged",
		description: "CRI-O restarts while a virtual machine runs whose interfaces KubeVirt has renamed: no sandbox is " +
			"given up",
		run: rearranged,
	},
	{
		name: "bridge that changes its address",
		description: "the kernel gives a bridge without gateway another MAC address when pods come and go: no sandbox " +
			"is given up",
		run: changedBridge,
	},
	{
		name: "old plugin last",
		description: "the last plugin of a list (stand-in for route-override) refuses the version 1.1.0: DEL frees " +
			"what the plugins before it hold, and GC of the node works on",
		run: oldPluginLast,
	},
	{
		name:        "old plugin last, which refuses GC",
		description: "the same with a plugin that refuses the version at GC, too",
		run:         oldPluginRefusesGC,
	},
	{
		name:        "old version, new plugin last",
		description: "the last plugin of a list (the reference plugin firewall) refuses the version 0.3.1: the same",
		run:         oldVersionLast,
	},
	{
		name:        "GC without attachments",
		description: "CRI-O starts after a reboot and sends `null` for both lists: everything from before is freed",
		run:         nullGC,
	},
	{
		name: "pods from before Multus",
		description: "GC frees no address of a pod that was attached by the cluster network alone, and that only the " +
			"list of the runtime has",
		run: beforeMultus,
	},
	{
		name: "status not written",
		description: "the API server is unavailable when the status is written: the reconciler of whereabouts frees no " +
			"address of a pod that runs",
		on:  withAPI,
		run: statusNotWritten,
	},
	{
		name:        "pod deleted without DEL",
		description: "a pod is deleted while its node is down: the reconciler of whereabouts frees its address",
		on:          withAPI,
		run:         reconciled,
	},
	{
		name:        "plugin without GC",
		description: "a plugin of a 1.1.0 network has no GC: GC frees the rest and does not fail",
		run:         pluginWithoutGC,
	},
	{
		name: "DEL that cannot succeed",
		description: "the sandbox is gone and a plugin (stand-in for bond) answers every DEL with an error: DEL " +
			"succeeds after a few tries",
		run: endlessDel,
	},
	{
		name:        "damaged result",
		description: "a result that libcni has cached for Multus is damaged: DEL frees everything",
		run:         damagedResult,
	},
	{
		name:        "version inherited",
		description: "a definition without cniVersion, a configuration of 1.1.0 and a plugin up to 1.0.0: the pod starts",
		run:         versionInherited,
	},
	{
		name: "old cluster network",
		description: "the cluster network has version 0.3.1 and cniVersion of the daemon is 1.1.0: the daemon " +
			"writes its configuration",
		on:  []deployment{thick},
		run: oldClusterNetwork,
	},
	{
		name: "addresses beside an IPAM claim",
		description: "the default network (stand-in for OVN-Kubernetes) is selected with `ips` and " +
			"`ipam-claim-reference`, as KubeVirt's webhook writes it: the pod starts",
		on:  withAPI,
		run: ipsAndClaim,
	},
	{
		name: "chained after Multus",
		description: "Istio makes a list of Multus' own file and `istio-cni`: the runtime calls `istio-cni`, and the " +
			"log of the daemon names it",
		on:  []deployment{thick},
		run: chainedAfter,
	},
	{
		name: "GC and CHECK while pods come and go",
		description: "GC and CHECK as CRI-O sends them, beside ADD and DEL: no address of a running pod is freed, no pod " +
			"is refused (`NEIGHBOURS_ROUNDS`: 10; 50 in `make e2e`, 1,000 in `make neighbours`)",
		run: churn,
	},
}

// TestScenarios runs every scenario under its deployments.
func TestScenarios(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			// Scenarios with the reconciler of whereabouts run alone, because it would also see the pods of others.
			alone := slices.Equal(sc.on, withAPI)
			on := sc.on
			if len(on) == 0 {
				on = deployments
			}
			for _, d := range on {
				t.Run(d.name, func(t *testing.T) {
					if !alone {
						t.Parallel()
					}
					sc.run(t, d)
				})
			}
		})
	}
}

// rearranged renames the interface and puts another one in its place, as the bridge binding of KubeVirt does.
func rearranged(t *testing.T, d deployment) {
	s := newSite(t, d, node.Options{})
	s.define(t, "br", on("bridge", "10.1.0.0/24", `,"bridge":"br1","isGateway":true`)(s))
	c := &crio{s: s}
	p := s.with(t, "br")
	if _, err := c.setUp(t, p); err != nil {
		t.Fatalf("%v\n%s", err, s.log())
	}
	testnet.Rename(t, p.NS, "net1", "net1-nic")
	testnet.Veth(t, p.NS, "net1", p.NS, "tap1")
	if lost, err := c.restart(t); len(lost) > 0 || err != nil {
		t.Errorf("a restart of CRI-O removes the sandbox of the virtual machine: %v; GC: %v", lost, err)
	}
	if err := c.tearDown(t, p); err != nil {
		t.Error(err)
	}
	if left := s.holds(t, p); len(left) > 0 {
		t.Errorf("left after DEL: %v", left)
	}
}

// changedBridge uses a bridge without a MAC address of its own. It has the lowest address of its ports.
func changedBridge(t *testing.T, d deployment) {
	s := newSite(t, d, node.Options{})
	s.define(t, "br", on("bridge", "10.1.0.0/24", `,"bridge":"br1"`)(s))
	c := &crio{s: s}
	for range 4 {
		if _, err := c.setUp(t, s.with(t, "br")); err != nil {
			t.Fatalf("%v\n%s", err, s.log())
		}
	}
	testnet.Veth(t, s.NS, "low", s.NS, "low-peer")
	testnet.HardwareAddr(t, s.NS, "low", "02:00:00:00:00:01")
	testnet.Port(t, s.NS, "low", "br1")
	if lost, err := c.restart(t); len(lost) > 0 || err != nil {
		t.Errorf("a restart of CRI-O removes the sandboxes of %d of 4 pods: %v; GC: %v", len(lost), lost, err)
	}
	for len(c.sandboxes) > 0 {
		check(t, c.tearDown(t, c.sandboxes[0]))
	}
	if left := s.Left(t); len(left) > 0 {
		t.Errorf("left at the end: %v", left)
	}
}

func oldPluginLast(t *testing.T, d deployment) {
	refusedByTheLast(t, d, func(s *site) string {
		return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"ro","plugins":[{%s,"ipam":%s},`+
			`{"type":"route-override","flushgateway":true}]}`, macvlan, s.ipam("10.40.0.0/24", ""))
	})
}

func oldPluginRefusesGC(t *testing.T, d deployment) {
	refusedByTheLast(t, d, func(s *site) string {
		return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"old","plugins":[{%s,"ipam":%s},{"type":"old-only"}]}`,
			aBridge("br42"), s.ipam("10.42.0.0/24", ""))
	})
}

func oldVersionLast(t *testing.T, d deployment) {
	refusedByTheLast(t, d, func(s *site) string {
		return fmt.Sprintf(`{"cniVersion":"0.3.1","name":"fw","plugins":[{%s,"ipam":%s},{"type":"firewall"}]}`, macvlan,
			s.ipam("10.41.0.0/24", ""))
	})
}

// refusedByTheLast runs ADD with a chain whose last plugin fails. The kubelet retries with another sandbox each time.
// Nothing of a failed try may stay.
func refusedByTheLast(t *testing.T, d deployment, config func(*site) string) {
	s := newSite(t, d, node.Options{})
	s.define(t, "refused", config(s))
	s.define(t, "br", on("bridge", "10.1.0.0/24", `,"bridge":"br1"`)(s))
	c := &crio{s: s}
	for range 3 {
		p := s.with(t, "refused")
		if _, err := c.setUp(t, p); err == nil {
			t.Fatal("ADD succeeded with a plugin that refuses the version")
		}
		s.gone(t, p)
	}
	p := s.with(t, "br")
	if _, err := c.setUp(t, p); err != nil {
		t.Errorf("a pod without that network: %v\n%s", err, s.log())
	}
	for range 2 {
		if lost, err := c.restart(t); len(lost) > 0 || err != nil {
			t.Errorf("restart of CRI-O: lost %v; GC: %v", lost, err)
		}
	}
	if err := c.tearDown(t, p); err != nil {
		t.Error(err)
	}
	if left := s.Left(t); len(left) > 0 {
		t.Errorf("left at the end: %v", left)
	}
}

// nullGC removes the namespaces, the sandboxes and the runtime's cache, as after a reboot, and runs GC.
func nullGC(t *testing.T, d deployment) {
	s := newSite(t, d, node.Options{})
	s.define(t, "br", on("bridge", "10.1.0.0/24", `,"bridge":"br1"`)(s))
	c := &crio{s: s}
	pods := []*node.Pod{s.with(t, "br"), s.with(t, "br")}
	for _, p := range pods {
		if _, err := c.setUp(t, p); err != nil {
			t.Fatalf("%v\n%s", err, s.log())
		}
		check(t, testnet.Delete(p.Path))
	}
	check(t, os.RemoveAll(filepath.Join(s.Dir, "runtime")))
	c.sandboxes = nil
	if _, err := c.restart(t); err != nil {
		t.Errorf("GC: %v", err)
	}
	for _, p := range pods {
		s.gone(t, p)
	}
}

// beforeMultus checks a pod that has only the cluster network and no record. CRI-O lists it and sends GC for every
// network that it has loaded.
func beforeMultus(t *testing.T, d deployment) {
	dir := tempDir(t)
	s := newSite(t, d, node.Options{Dir: dir, Primary: collectedPrimary(dir)})
	s.define(t, "br", collected("extra", "10.1.0.0/24")(s))
	clusterNetwork, err := os.ReadFile(filepath.Join(s.Dir, "net.d", "10-primary.conflist"))
	check(t, err)
	old, lost, fresh := s.with(t, ""), s.with(t, "br"), s.with(t, "br")
	if _, err := s.Add(t, clusterNetwork, old); err != nil {
		t.Fatal(err)
	}
	c := &crio{s: s}
	for _, p := range []*node.Pod{lost, fresh} {
		if _, err := c.setUp(t, p); err != nil {
			t.Fatalf("%v\n%s", err, s.log())
		}
	}
	c.sandboxes = []*node.Pod{old, fresh}
	before := map[*node.Pod][]string{old: s.addresses(t, old), fresh: s.addresses(t, fresh)}
	for range 2 {
		for name, conf := range map[string][]byte{"Multus": s.outer, "the cluster network": clusterNetwork} {
			if err := c.gc(t, conf); err != nil {
				t.Errorf("GC of %s: %v", name, err)
			}
		}
	}
	for p, want := range before {
		if got := s.addresses(t, p); len(got) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s runs and has the addresses %v after GC, before: %v", p.Name, got, want)
		}
	}
	s.gone(t, lost)
	// The next pod must not get an address of a live pod.
	next := s.with(t, "br")
	if _, err := c.setUp(t, next); err != nil {
		t.Errorf("%v\n%s", err, s.log())
	}
	for _, a := range s.addresses(t, next) {
		if slices.Contains(before[old], a) || slices.Contains(before[fresh], a) {
			t.Errorf("%s is assigned twice", a)
		}
	}
}

// statusNotWritten disconnects Multus from the API server after whereabouts, which has its own connection, has assigned
// the address.
func statusNotWritten(t *testing.T, d deployment) {
	if cluster == nil {
		t.Skip("no API server: run make tools")
	}
	proxy := cluster.Proxy(t)
	s := newSite(t, d, node.Options{Kubeconfig: proxy.Kubeconfig(t), API: proxy.Addr()})
	pools()(t, s)
	s.Forward(t, cluster.Addr())
	s.define(t, "wa", pool("status", `"range":"10.50.0.0/24"`)(s))
	meeting := t.TempDir()
	fake := s.Fake(t, "gate")
	s.define(t, "gate", fmt.Sprintf(`{"cniVersion":"1.0.0","name":"gate","type":"gate","fake":{"log":%q,`+
		`"result":{"cniVersion":"1.0.0"},"meet":{"ADD":{"dir":%q,"size":2}}}}`, fake["log"], meeting))
	c := &crio{s: s}
	p := s.with(t, "wa,gate")
	done := make(chan error, 1)
	go func() {
		_, err := s.Add(t, s.outer, p)
		done <- err
	}()
	eventually.Within(t, waitTimeout, "the address is given", func() bool {
		there, err := os.ReadDir(meeting)
		return err == nil && len(there) == 1
	})
	given := allocations(t, s)
	proxy.Down()
	check(t, os.WriteFile(filepath.Join(meeting, "test"), nil, 0o600))
	err := <-done
	proxy.Up()
	if len(given) != 1 {
		t.Fatalf("addresses given: %v", given)
	}
	if err != nil {
		// The pod does not start, and nothing of it may be left.
		if err := c.tearDown(t, p); err != nil {
			t.Error(err)
		}
		s.gone(t, p)
		if left := allocations(t, s); len(left) > 0 {
			t.Errorf("ADD failed, and whereabouts holds %v", left)
		}
		return
	}
	s.statusWritten(t, p)
	if released := reconcile(t); len(released) > 0 {
		t.Errorf("the reconciler took %v from a pod that runs\n%s", released, s.log())
	}
	if got := allocations(t, s); !slices.Equal(got, given) {
		t.Errorf("addresses given: %v, before: %v", got, given)
	}
	if err := c.tearDown(t, p); err != nil {
		t.Error(err)
	}
}

// statusWritten waits until the network status of a pod is written.
func (s *site) statusWritten(t *testing.T, p *node.Pod) {
	t.Helper()
	eventually.Within(t, waitTimeout, p.Name+" has its network-status", func() bool {
		_, ok := s.api.Annotation(t, s.ns, p.Name, statusKey)
		return ok
	})
}

// reconciled deletes a pod without DEL. The reconciler, which reads the network status of the remaining pods, releases
// its address.
func reconciled(t *testing.T, d deployment) {
	s := newSite(t, d, node.Options{})
	pools()(t, s)
	s.define(t, "wa", pool("reconciled", `"range":"10.51.0.0/24"`)(s))
	live, dead := s.with(t, "wa"), s.with(t, "wa")
	for _, p := range []*node.Pod{live, dead} {
		if _, err := s.Add(t, s.outer, p); err != nil {
			t.Fatalf("ADD: %v\n%s", err, s.log())
		}
		s.statusWritten(t, p)
	}
	s.api.DeletePod(t, s.ns, dead.Name)
	if released := reconcile(t); len(released) != 1 {
		t.Errorf("released: %v, want the address of the pod that is gone", released)
	}
	if got := allocations(t, s); len(got) != 1 || !strings.HasSuffix(got[0], "/"+live.Name) {
		t.Errorf("addresses given: %v", got)
	}
	for _, p := range []*node.Pod{live, dead} {
		if err := s.Del(t, s.outer, p); err != nil {
			t.Errorf("DEL: %v", err)
		}
		s.gone(t, p)
	}
	if left := allocations(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// pluginWithoutGC checks that GC frees the other networks of a lost sandbox and succeeds, also when it is repeated.
func pluginWithoutGC(t *testing.T, d deployment) {
	s := newSite(t, d, node.Options{})
	s.define(t, "ungc", fmt.Sprintf(`{"cniVersion":"1.1.0","name":"ungc","type":"no-gc","ipam":%s}`,
		s.ipam("10.33.0.0/24", "")))
	s.define(t, "br", on("bridge", "10.1.0.0/24", `,"bridge":"br1"`)(s))
	c := &crio{s: s}
	live, lost := s.with(t, "ungc,br"), s.with(t, "ungc,br")
	for _, p := range []*node.Pod{live, lost} {
		if _, err := c.setUp(t, p); err != nil {
			t.Fatalf("%v\n%s", err, s.log())
		}
	}
	check(t, os.RemoveAll(filepath.Join(s.Dir, "runtime")))
	c.sandboxes = []*node.Pod{live} // the runtime no longer lists the other one
	before := s.addresses(t, live)
	for range 2 {
		if err := c.gc(t, s.outer); err != nil {
			t.Errorf("GC: %v", err)
		}
	}
	s.gone(t, lost)
	if got := s.addresses(t, live); len(got) == 0 || !slices.Equal(got, before) {
		t.Errorf("addresses of the running pod after GC: %v, before: %v", got, before)
	}
}

// endlessDel removes a slave of a bond and then the sandbox. The runtime and the kubelet repeat the DEL.
func endlessDel(t *testing.T, d deployment) {
	s := newSite(t, d, node.Options{})
	for name, subnet := range map[string]string{"a": "10.60.0.0/24", "b": "10.61.0.0/24"} {
		s.define(t, name, on("macvlan", subnet, `,"master":"uplink0"`)(s))
	}
	s.define(t, "bond", on("bond", "10.62.0.0/24", `,"links":[{"name":"net1"},{"name":"net2"}]`)(s))
	c := &crio{s: s}
	p := s.with(t, `[{"name":"a"},{"name":"b"},{"name":"bond","interface":"bond0"}]`)
	if _, err := c.setUp(t, p); err != nil {
		t.Fatalf("%v\n%s", err, s.log())
	}
	testnet.Remove(t, p.NS, "net1")
	if err := c.tearDown(t, p); err != nil {
		t.Logf("while the sandbox exists: %v", err)
		check(t, testnet.Delete(p.Path))
		const tries = 6
		for range tries {
			if err = c.tearDown(t, p); err == nil {
				break
			}
		}
		if err != nil {
			t.Errorf("the pod cannot be deleted, %d tries without its sandbox: %v", tries, err)
		}
	}
	if left := s.holds(t, p); len(left) > 0 {
		t.Errorf("left after DEL: %s", left)
	}
	c.sandboxes = nil
	if err := c.gc(t, s.outer); err != nil {
		t.Errorf("GC: %v", err)
	}
}

// damagedResult damages the cached results. libcni 1.3.0 refuses to run DEL with a cached result that it cannot read;
// 1.3.1 continues without it.
func damagedResult(t *testing.T, d deployment) {
	s := newSite(t, d, node.Options{})
	s.define(t, "br", on("bridge", "10.1.0.0/24", `,"bridge":"br1"`)(s))
	c := &crio{s: s}
	p := s.with(t, "br")
	if _, err := c.setUp(t, p); err != nil {
		t.Fatalf("%v\n%s", err, s.log())
	}
	results, err := filepath.Glob(filepath.Join(s.State(), "results", "*"))
	check(t, err)
	if len(results) != 2 {
		t.Fatalf("results: %v, want one of each network", results)
	}
	for _, file := range results {
		check(t, os.WriteFile(file, []byte(`{"kind":"cniCacheV1","result":{"cniVersion":`), 0o600))
	}
	if err := c.tearDown(t, p); err != nil {
		t.Errorf("%v\n%s", err, s.log())
	}
	s.gone(t, p)
}

func versionInherited(t *testing.T, d deployment) {
	s := newSite(t, d, node.Options{DaemonConf: map[string]any{"cniVersion": "1.1.0"}})
	s.define(t, "unversioned", fmt.Sprintf(`{"name":"unversioned","type":"ovs","ipam":%s}`, s.ipam("10.63.0.0/24", "")))
	c := &crio{s: s}
	p := s.with(t, "unversioned")
	if _, err := c.setUp(t, p); err != nil {
		t.Fatalf("the pod does not start: %v\n%s", err, s.log())
	}
	if err := c.tearDown(t, p); err != nil {
		t.Error(err)
	}
	s.gone(t, p)
}

func oldClusterNetwork(t *testing.T, d deployment) {
	dir := tempDir(t)
	s := newSite(t, d, node.Options{
		Dir: dir, Primary: agent("0.3.1", "k8s-pod-network", "calico", "")(dir),
		DaemonConf: map[string]any{"cniVersion": "1.1.0"},
	})
	eventually.Within(t, waitTimeout, "the daemon writes its configuration", func() (ok bool) {
		b, err := os.ReadFile(filepath.Join(dir, "etc", "00-multus.conf"))
		s.outer = b
		return err == nil
	})
	c := &crio{s: s}
	p := s.with(t, "")
	if _, err := c.setUp(t, p); err != nil {
		t.Errorf("%v\n%s", err, s.log())
	}
	if lost, err := c.restart(t); len(lost) > 0 || err != nil {
		t.Errorf("restart of CRI-O: lost %v; GC: %v", lost, err)
	}
	if err := c.tearDown(t, p); err != nil {
		t.Error(err)
	}
	s.gone(t, p)
}

// ipsAndClaim uses a selection with addresses from the user, to which the webhook has added `ipam-claim-reference`.
func ipsAndClaim(t *testing.T, d deployment) {
	s := newSite(t, d, node.Options{})
	s.define(t, "default", `{"cniVersion":"1.0.0","name":"ovn-kubernetes","type":"ovn-k8s-cni-overlay"}`)
	c := &crio{s: s}
	p := s.pod(t, map[string]string{"v1.multus-cni.io/default-network": fmt.Sprintf(
		`[{"name":"default","namespace":%q,"mac":"02:03:04:05:06:07","ips":["192.0.2.5/24","2001:db8::5/64"],`+
			`"ipam-claim-reference":"vm1.blue"}]`, s.ns)})
	if _, err := c.setUp(t, p); err != nil {
		t.Fatalf("the virtual machine does not start: %v\n%s", err, s.log())
	}
	if got := strings.Join(testnet.Interfaces(t, p.NS), " "); got != "eth0 ovn-udn1" {
		t.Errorf("interfaces: %s", got)
	}
	if err := c.tearDown(t, p); err != nil {
		t.Error(err)
	}
	s.gone(t, p)
}

// chainedAfter simulates the installer of Istio, which replaces the first file of the directory by a list.
func chainedAfter(t *testing.T, d deployment) {
	dir := tempDir(t)
	s := newSite(t, d, node.Options{Dir: dir, Primary: agent("1.0.0", "k8s-pod-network", "calico", "")(dir)})
	file := filepath.Join(dir, "etc", "00-multus.conf")
	list := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"multus-cni-network","plugins":[%s,{"type":"istio-cni"}]}`,
		s.Generated(t))
	check(t, os.WriteFile(file+"list", []byte(list), 0o644))
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) { // the daemon may have replaced it already
		t.Fatal(err)
	}
	// The daemon reacts to a change of the cluster network. So it has processed all earlier changes, too, when it has done
	// that.
	changed := agent("1.0.0", "k8s-pod-network", "calico", `,{"type":"portmap","capabilities":{"portMappings":true}}`)(dir)
	check(t, os.WriteFile(filepath.Join(dir, "net.d", "10-primary.conflist"), []byte(changed), 0o644))
	first := ""
	eventually.Within(t, waitTimeout, "the first configuration has the change", func() bool {
		files, err := filepath.Glob(filepath.Join(dir, "etc", "*.conf*")) // sorted, as the runtime reads them
		check(t, err)
		if len(files) == 0 {
			return false
		}
		b, err := os.ReadFile(files[0])
		first = string(b)
		return err == nil && strings.Contains(first, "portMappings")
	})
	if !strings.Contains(first, "istio-cni") {
		t.Errorf("the runtime does not call istio-cni: %s", first)
	}
	if !strings.Contains(s.DaemonLog(), "istio-cni") {
		t.Error("the log does not name istio-cni")
	}
}
